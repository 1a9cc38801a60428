"""The shape of a model: one frozen dataclass per part, nested as the model nests.

Knows no files and no tensors. `from_dict` refuses unknown keys, so a typing error in a config.json is heard. Nano and
the official checkpoints are two configurations of one network; `config_from_dict` tells which by `version`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from ..errors import CheckpointError
from ..rates import UNIT_ENCODER_FRAMES, exact_div

ConfigT = TypeVar("ConfigT", bound="Config")
Version = Literal["nano", "2.6", "4.5"]


@dataclass(frozen=True)
class Config:
    """Base of the config dataclasses: to and from plain dictionaries."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls: type[ConfigT], values: dict[str, Any]) -> ConfigT:
        """Build from a nested dictionary. Raises CheckpointError on an unknown key."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise CheckpointError(f"{cls.__name__} does not know {unknown}; it knows {sorted(fields)}")
        kwargs = {}
        nested = _nested_configs(cls)
        for name, value in values.items():
            if name in nested and not isinstance(value, dict | None):
                raise CheckpointError(f"{cls.__name__} has {value!r} for {name!r}, expected a table of its own")
            kwargs[name] = nested[name].from_dict(value) if isinstance(value, dict) else _as_tuple(value)
        return cls(**kwargs)


def _nested_configs(cls: type[Config]) -> dict[str, type[Config]]:
    """Fields of a config that are configs themselves, `X | None` too."""
    hints = get_type_hints(cls)
    kinds = {name: (hint, *get_args(hint)) for name, hint in hints.items()}
    return {name: kind for name, options in kinds.items() for kind in options
            if isinstance(kind, type) and issubclass(kind, Config)}


def _as_tuple(value: Any) -> Any:
    """Lists of a JSON file, and lists in them, as tuples."""
    return tuple(_as_tuple(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class VisionConfig(Config):
    """EfficientNet-Lite (arXiv:1905.11946, Lite variant): pixels to a square grid of features."""

    variant: str = "lite0"
    image_px: int = 256
    """Side of the square input; every picture or slice is resized to it. More than its 224 px: small things show."""
    grid: int = 8
    """Side of the feature grid: image_px / 32, rounded up."""
    width: int = 1280
    num_classes: int = 1000
    """ImageNet classes of the frozen classifier; the resampler reads its opinions as words."""
    slice_aspect: float = 1.75
    """A picture at least this much longer than wide (or wider) is also cut into near-square slices."""
    max_slices: int = 4


@dataclass(frozen=True)
class ResamplerConfig(Config):
    """Feature grid to query_grid² + num_global + num_words + num_concepts tokens of the language model's width."""

    query_grid: int = 5
    """Local queries form a square grid of this side over the picture."""
    num_global: int = 1
    """Tokens made of the mean feature."""
    num_words: int = 6
    """Tokens made of the classifier's most likely classes, as word embeddings."""
    vocabulary: int = 800
    """Concepts that a linear head of this project recognises besides: things, colours and doings."""
    num_concepts: int = 8
    """Tokens made of the most likely concepts, as word embeddings."""
    heads: int = 9

    @property
    def num_tokens(self) -> int:
        """Tokens per picture or slice."""
        return self.query_grid**2 + self.num_global + self.num_words + self.num_concepts


@dataclass(frozen=True)
class WordEarsConfig(Config):
    """Nano's own ears for words: a small transformer over encoder frames, read by CTC as letters."""

    width: int = 384
    ffn: int = 1152
    layers: int = 2
    heads: int = 6
    stack: int = 2
    """Encoder frames that are read as one; each still gets its letter."""
    look_back_frames: int = 20
    """Encoder frames before a second that are read with it: whole stacks."""

    @property
    def steps(self) -> int:
        """Stacks in a second."""
        return exact_div(UNIT_ENCODER_FRAMES, self.stack)

    @property
    def look_back(self) -> int:
        """Stacks before it."""
        return exact_div(self.look_back_frames, self.stack)


@dataclass(frozen=True)
class HearingConfig(Config):
    """Whisper (arXiv:2212.04356) encoder and decoder, and the projector into the language model."""

    mel_bins: int = 80
    width: int = 512
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    ffn: int = 2048
    vocab_size: int = 51865
    max_encoder_frames: int = 1500
    max_text_tokens: int = 448
    projector_hidden: int = 1024
    words: WordEarsConfig | None = field(default_factory=WordEarsConfig)
    """Own ears for words; None: nothing is written down without the recogniser."""


@dataclass(frozen=True)
class LanguageConfig(Config):
    """Llama-shaped decoder; defaults are SmolLM2-135M-Instruct."""

    kind: Literal["llama", "qwen2", "qwen3"] = "llama"
    """qwen2 adds a bias to queries, keys and values; qwen3 a norm to the heads of queries and keys."""
    vocab_size: int = 49152
    width: int = 576
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    head_width: int = 64
    ffn: int = 1536
    norm_eps: float = 1e-5
    rope_theta: float = 100_000.0
    context_tokens: int = 8192
    tied_head: bool = True
    """The embedding table is the head's matrix too."""


@dataclass(frozen=True)
class OmniConfig(Config):
    """What every whole model has; see NanoConfig and OfficialConfig."""

    name: str = "nano"
    version: Version = "nano"
    language: LanguageConfig = field(default_factory=LanguageConfig)


@dataclass(frozen=True)
class NanoConfig(OmniConfig):
    """The default model."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    hearing: HearingConfig = field(default_factory=HearingConfig)


@dataclass(frozen=True)
class SiglipConfig(Config):
    """SigLIP so400m with NaViT packing (arXiv:2303.15343, arXiv:2307.06304), the eye of the official checkpoints."""

    width: int = 1152
    ffn: int = 4304
    layers: int = 27
    heads: int = 16
    channels: int = 3
    image_px: int = 980
    """Side of the square that the learned positions cover: image_px / patch_px to a side."""
    patch_px: int = 14
    norm_eps: float = 1e-6
    batch_pieces: int = 16
    """Pieces of pictures that pass the tower at once."""

    @property
    def grid(self) -> int:
        """Rows, and columns, of the table of learned positions."""
        return self.image_px // self.patch_px


@dataclass(frozen=True)
class QueryResamplerConfig(Config):
    """Learned queries that read a piece of a picture into tokens of the language model."""

    queries: int = 64
    head_width: int = 128
    norm_eps: float = 1e-6


@dataclass(frozen=True)
class WhisperEncoderConfig(Config):
    """Whisper medium's encoder (arXiv:2212.04356), block-causal, and the pooling after its projection."""

    mel_bins: int = 80
    width: int = 1024
    heads: int = 16
    layers: int = 24
    ffn: int = 4096
    max_frames: int = 1500
    """Positions after the convolutions, 50 a second."""
    pool_step: int = 5
    """Encoder frames that become one token: 2 (25 tokens a second) or 5 (10 tokens a second)."""
    chunk_s: float = 1.0
    """Length of a block that sees itself and what came before; 0 or less lets everything see everything."""
    chunked_placeholders: bool = True
    """A sound's placeholders come in groups of a second, and all sounds fill them in order (`stream_input`)."""


@dataclass(frozen=True)
class SlicingConfig(Config):
    """How a picture becomes a thumbnail and slices (arXiv:2403.11703)."""

    max_slices: int = 9
    scale_px: int = 448
    patch_px: int = 14
    use_image_id: bool = True


@dataclass(frozen=True)
class TalkerConfig(Config):
    """MiniCPMTTS of 4.5: words and what the language model thinks of them to speech tokens, 25 a second."""

    llm_width: int = 4096
    width: int = 768
    ffn: int = 3072
    layers: int = 20
    heads: int = 12
    kv_heads: int = 12
    max_positions: int = 4096
    num_audio_tokens: int = 6562
    """Speech tokens and, last, the end."""
    num_text_tokens: int = 152064
    audio_bos: int = 151687
    """Positions in the talker's own text table; never translate them through the tokenizer."""
    text_eos: int = 151692
    normalize_hidden: bool = True
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    temperature: float = 0.8
    top_p: float = 0.85
    top_k: int = 25
    repetition_penalty: float = 1.05

    @property
    def audio_eos(self) -> int:
        return self.num_audio_tokens - 1

    def as_language(self) -> LanguageConfig:
        """The talker's body and head as a language model of speech tokens."""
        return LanguageConfig(kind="llama", vocab_size=self.num_audio_tokens, width=self.width, layers=self.layers,
                              heads=self.heads, kv_heads=self.kv_heads, head_width=self.width // self.heads,
                              ffn=self.ffn, norm_eps=self.norm_eps, rope_theta=self.rope_theta,
                              context_tokens=self.max_positions, tied_head=False)


@dataclass(frozen=True)
class DvaeConfig(Config):
    """DVAE of 2.6: four codes to two mel frames. The checkpoints never say these numbers; they are the class's own."""

    latent_width: int = 512
    """Of one group's features, and of what the decoder gives back."""
    width: int = 256
    bottleneck: int = 128
    layers: int = 12
    levels: tuple[int, ...] = (5, 5, 5, 5)
    """Steps of each number that a code stands for; their product is the number of codes."""
    groups: int = 2
    """Frames of mel that one step makes, each from codes of its own."""
    residuals: int = 2
    """Codes per group, each a quarter as coarse as the one before."""


@dataclass(frozen=True)
class ChatTTSConfig(Config):
    """ConditionalChatTTS of 2.6: text in chunks and a speaker vector to four codes a step."""

    llm_width: int = 3584
    width: int = 768
    ffn: int = 3072
    layers: int = 20
    heads: int = 12
    max_positions: int = 4096
    num_text_tokens: int = 21178
    num_audio_tokens: int = 626
    num_codebooks: int = 4
    mel_bins: int = 100
    speaker_token: int = 21143
    audio_bos: int = 21132
    text_eos: int = 21133
    text_chunk_tokens: int = 10
    text_reserved_tokens: int = 300
    audio_chunk_tokens: int = 50
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    dvae: DvaeConfig = field(default_factory=DvaeConfig)

    @property
    def audio_eos(self) -> int:
        return self.num_audio_tokens - 1


@dataclass(frozen=True)
class VocosConfig(Config):
    """Vocos (arXiv:2306.00814), the vocoder of 2.6: mel to 24 kHz through an inverse Fourier transform."""

    mel_bins: int = 100
    width: int = 512
    ffn: int = 1536
    layers: int = 8
    fft_samples: int = 1024
    hop_samples: int = 256


@dataclass(frozen=True)
class FlowEncoderConfig(Config):
    """Conformer encoder of token2wav: speech tokens (25 a second) to mel means (50 a second)."""

    width: int = 512
    heads: int = 8
    ffn: int = 2048
    layers: int = 6
    up_layers: int = 4
    lookahead_tokens: int = 3
    up_factor: int = 2


@dataclass(frozen=True)
class FlowDecoderConfig(Config):
    """DiT (arXiv:2212.09748) of token2wav: noise to log-mel by a few Euler steps with classifier-free guidance."""

    width: int = 512
    heads: int = 8
    head_width: int = 64
    layers: int = 16
    mlp_ratio: float = 4.0
    cfg_rate: float = 0.7


@dataclass(frozen=True)
class FlowConfig(Config):
    """CausalMaskedDiffWithXvec: speech tokens, a voice and its mel to more mel in that voice."""

    vocab_size: int = 6561
    speaker_width: int = 192
    mel_bins: int = 80
    encoder: FlowEncoderConfig = field(default_factory=FlowEncoderConfig)
    decoder: FlowDecoderConfig = field(default_factory=FlowDecoderConfig)
    steps: int = 10
    """Euler steps."""
    chunk_tokens: int = 25
    cache_frames: int = 100
    """Mel frames beyond the prompt's that the decoder's attention remembers in a stream."""


@dataclass(frozen=True)
class HiftConfig(Config):
    """HiFT-GAN (arXiv:2309.09493), the vocoder of 4.5: mel (50 a second) to 24 kHz, with a source from the pitch."""

    mel_bins: int = 80
    width: int = 512
    harmonics: int = 8
    rate_hz: int = 24_000
    source_gain: float = 0.1
    source_sigma: float = 0.003
    voiced_hz: float = 10.0
    up_rates: tuple[int, ...] = (8, 5, 3)
    up_kernels: tuple[int, ...] = (16, 11, 7)
    fft_samples: int = 16
    hop_samples: int = 4
    block_kernels: tuple[int, ...] = (3, 7, 11)
    block_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    source_kernels: tuple[int, ...] = (7, 7, 11)
    source_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    leak: float = 0.1
    limit: float = 0.99
    pitch_width: int = 512
    """Channels of the pitch predictor."""


@dataclass(frozen=True)
class OfficialConfig(OmniConfig):
    """MiniCPM-o 2.6 or 4.5; a part that was left out when loading is None."""

    vision: SiglipConfig | None = field(default_factory=SiglipConfig)
    resampler: QueryResamplerConfig | None = field(default_factory=QueryResamplerConfig)
    hearing: WhisperEncoderConfig | None = field(default_factory=WhisperEncoderConfig)
    slicing: SlicingConfig = field(default_factory=SlicingConfig)
    talker: TalkerConfig | None = None
    """Voice of 4.5."""
    chattts: ChatTTSConfig | None = None
    """Voice of 2.6."""
    flow: FlowConfig | None = None
    hift: HiftConfig | None = None
    vocos: VocosConfig | None = None


def config_from_dict(values: dict[str, Any]) -> OmniConfig:
    """NanoConfig or OfficialConfig, as `version` says. Raises CheckpointError on an unknown key or version."""
    version = values.get("version", "nano")
    if version not in ("nano", "2.6", "4.5"):
        raise CheckpointError(f"the config is of version {version!r}; this release knows nano, 2.6 and 4.5")
    return NanoConfig.from_dict(values) if version == "nano" else OfficialConfig.from_dict(values)


def tiny() -> NanoConfig:
    """A model of a few thousand parameters for tests: every part present, every width distinct."""
    return NanoConfig(
        name="tiny",
        vision=VisionConfig(),
        resampler=ResamplerConfig(query_grid=2, num_global=1, num_words=2, vocabulary=24, num_concepts=3, heads=2),
        hearing=HearingConfig(width=16, heads=2, encoder_layers=2, decoder_layers=2, ffn=32, vocab_size=96,
                              projector_hidden=24, words=WordEarsConfig(width=12, ffn=20, layers=1, heads=2)),
        language=LanguageConfig(vocab_size=96, width=32, layers=2, heads=2, kv_heads=1, head_width=16, ffn=64,
                                context_tokens=256),
    )
