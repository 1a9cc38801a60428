"""The shape of a model: one frozen dataclass per part, nested as the model nests.

Knows no files and no tensors. `from_dict` refuses unknown keys, so a typing error in a config.json is heard.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import CheckpointError

ConfigT = TypeVar("ConfigT", bound="Config")


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
        for name, value in values.items():
            nested = fields[name].default_factory
            if isinstance(value, dict) and isinstance(nested, type) and issubclass(nested, Config):
                value = nested.from_dict(value)
            kwargs[name] = tuple(value) if isinstance(value, list) else value
        return cls(**kwargs)


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


@dataclass(frozen=True)
class LanguageConfig(Config):
    """Llama-shaped decoder; defaults are SmolLM2-135M-Instruct."""

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


@dataclass(frozen=True)
class OmniConfig(Config):
    """The whole model."""

    name: str = "nano"
    vision: VisionConfig = field(default_factory=VisionConfig)
    resampler: ResamplerConfig = field(default_factory=ResamplerConfig)
    hearing: HearingConfig = field(default_factory=HearingConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)


def tiny() -> OmniConfig:
    """A model of a few thousand parameters for tests: every part present, every width distinct."""
    return OmniConfig(
        name="tiny",
        vision=VisionConfig(),
        resampler=ResamplerConfig(query_grid=2, num_global=1, num_words=2, vocabulary=24, num_concepts=3, heads=2),
        hearing=HearingConfig(width=16, heads=2, encoder_layers=2, decoder_layers=2, ffn=32, vocab_size=96,
                              projector_hidden=24),
        language=LanguageConfig(vocab_size=96, width=32, layers=2, heads=2, kv_heads=1, head_width=16, ffn=64,
                                context_tokens=256),
    )
