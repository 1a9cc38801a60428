"""The whole network in torch: encode, fuse, think. The only file that knows every part.

    pixels  --vision--> features --resampler--> tokens --\\
    log_mel --hearing-> frames ---projector---> tokens ---- scatter into embeds -> language -> logits, hidden states
    ids ----------------------------------------embed----/                                        |
                                                                  talker (4.5), ChatTTS (2.6) <---/

Nano and the official checkpoints are two configurations of it. Used for training and as the reference of the device
graphs. Shapes: B batch, T fused tokens, D language width, V vocabulary, P grid cells, E encoder width, F2 encoder
frames, M mel bins, F mel frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import CheckpointError, FusionError
from .config import NanoConfig, OfficialConfig, OmniConfig
from .encoders.audio_projector import PooledAudioProjector
from .encoders.packing import pack_pieces
from .encoders.projector import AudioProjector
from .encoders.query_resampler import QueryResampler
from .encoders.resampler import Resampler
from .encoders.sight import piece_tokens
from .encoders.siglip import SiglipTower
from .encoders.whisper import WhisperTower, encode_padded
from .encoders.word_ears import WordEars
from .fusion.scatter import scatter_features
from .fusion.spans import Span
from .language.decoder import build_decoder

Hide = Callable[[Tensor], Tensor]
"""Patches (I, P, C) or log-mel (B, M, F) to what an encoder gets in their place, as masked modelling wants."""


@dataclass(frozen=True)
class EncodedMedia:
    """Nano's media for one prompt: outputs of its frozen encoders, each with the spans its tokens fill."""

    features: Tensor
    """(I, P, E) of pictures and slices."""
    class_logits: Tensor
    """(I, 1000)."""
    image_spans: tuple[Span, ...]
    frames: Sequence[Tensor]
    """One (F2, E) per sound."""
    audio_spans: tuple[Span, ...]
    concept_logits: Tensor | None = None
    """(I, vocabulary), in training only: what heads say that have not seen these pictures."""


@dataclass(frozen=True)
class Sounds:
    """Sounds that belong together: their tokens, end to end, fill the placeholder runs in order."""

    log_mels: Sequence[np.ndarray]
    """(M, F) float32 each."""
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class RawMedia:
    """An official model's media for one prompt, not encoded yet."""

    pieces: Sequence[np.ndarray] = ()
    """Patches (rows * columns, C) float32 of every thumbnail and slice."""
    grid_sizes: np.ndarray | None = None
    """(I, 2): rows and columns of patches."""
    image_spans: tuple[Span, ...] = ()
    sounds: tuple[Sounds, ...] = ()

    @property
    def audio_spans(self) -> tuple[Span, ...]:
        return tuple(span for sounds in self.sounds for span in sounds.spans)


class Connectors(nn.Module):
    """What joins encoders and language model: resampler and projector; with nano its ears for words and markers too."""

    def __init__(self, config: OmniConfig, num_markers: int = 0) -> None:
        super().__init__()
        self.resampler = _make_resampler(config)
        self.projector = _make_projector(config)
        self.ears = _make_ears(config)
        if num_markers:
            self.markers = nn.Embedding(num_markers, config.language.width)


class OmniModel(nn.Module):
    """Encoders, connectors, a language model and what speaks. Parts that a model lacks are None.

    Nano's frozen encoders run before the network and may be cached, so that it has connectors and language alone.
    """

    def __init__(self, config: OmniConfig, marker_ids: Sequence[int] = (), *, attention: str = "sdpa") -> None:
        """marker_ids: nano's media markers, which have embeddings of their own; attention: transformers' name of it."""
        super().__init__()
        self.config = config
        self.marker_ids = tuple(marker_ids)
        self.vision = _make_vision(config, attention)
        self.hearing = _make_hearing(config)
        self.connectors = Connectors(config, len(marker_ids))
        self.language: nn.Module = build_decoder(config.language, attention=attention)
        self.talker = _make_talker(config)
        self.chattts = _make_chattts(config)
        self.fixes_padding = False
        """Hear nothing of what fills the shorter sounds of a batch up, so that its company changes nothing, as training
        wants; the official code hears a little of it."""

    def embed(self, ids: Tensor) -> Tensor:
        """ids (..., T) -> (..., T, D), media markers from their own table."""
        embeds = self.language.get_input_embeddings()(ids)
        for row, marker in enumerate(self.marker_ids):
            is_marker = (ids == marker).unsqueeze(-1)
            embeds = torch.where(is_marker, self.connectors.markers.weight[row].to(embeds.dtype), embeds)
        return embeds

    def fuse(self, ids: Sequence[Tensor], media: Sequence[EncodedMedia | RawMedia], *,
             image_tokens: Iterable[Tensor] | None = None,
             audio_tokens: Iterable[Tensor] | None = None) -> list[Tensor]:
        """Prompts of ids (T,) with their media -> fused embeds (T, D) each; encoders' outputs in one batch.

        image_tokens, audio_tokens: one (length, D) for every span in order, in place of what the media become.
        """
        image_tokens = iter(self._image_tokens(media) if image_tokens is None else image_tokens)
        audio_tokens = iter(self._audio_tokens(media) if audio_tokens is None else audio_tokens)
        fused = []
        for prompt, item in zip(ids, media, strict=True):
            images = [next(image_tokens) for _ in item.image_spans]
            sounds = [next(audio_tokens) for _ in item.audio_spans]
            embeds = self.embed(prompt)
            spans = [*item.image_spans, *item.audio_spans]
            fused.append(scatter_features(embeds, [t.to(embeds) for t in images + sounds], spans))
        return fused

    def _image_tokens(self, media: Sequence[EncodedMedia | RawMedia]) -> Iterator[Tensor]:
        with_images = [item for item in media if item.image_spans]
        if not with_images:
            return iter(())
        if isinstance(with_images[0], RawMedia):
            return iter(self.see([piece for item in with_images for piece in item.pieces],
                                 np.concatenate([item.grid_sizes for item in with_images])))
        features = torch.cat([item.features for item in with_images])
        class_logits = torch.cat([item.class_logits for item in with_images])
        known = [item.concept_logits for item in with_images if item.concept_logits is not None]
        concept_logits = torch.cat(known) if len(known) == len(with_images) else None
        return iter(self.connectors.resampler(features, class_logits, concept_logits))

    def _audio_tokens(self, media: Sequence[EncodedMedia | RawMedia]) -> Iterator[Tensor]:
        if any(isinstance(item, RawMedia) for item in media):
            return self._raw_audio_tokens(media)
        frames = [sound for item in media for sound in item.frames]
        if not frames:
            return iter(())
        padded = nn.utils.rnn.pad_sequence(frames, batch_first=True)
        tokens = self.connectors.projector(padded)
        lengths = [span.length for item in media for span in item.audio_spans]
        return iter([row[:length] for row, length in zip(tokens, lengths, strict=True)])

    def _raw_audio_tokens(self, media: Sequence[RawMedia]) -> Iterator[Tensor]:
        """Every prompt's sounds in one batch, as the official code hears them; then each group's own, by its spans."""
        groups = [sounds for item in media for sounds in item.sounds]
        heard = iter(self.hear([log_mel for sounds in groups for log_mel in sounds.log_mels]))
        return iter([piece for sounds in groups
                     for piece in per_span([next(heard) for _ in sounds.log_mels], sounds.spans)])

    def see(self, pieces: Sequence[np.ndarray], grid_sizes: np.ndarray, *, hide: Hide | None = None) -> Tensor:
        """Pieces of pictures, patches (rows * columns, C) each, to tokens (I, Q, D)."""
        if self.vision is None:
            raise CheckpointError("the model was loaded without its vision; load it with init_vision=True")
        packed = pack_pieces(pieces, grid_sizes, side=self.vision.config.grid)
        return piece_tokens(self.vision, self.connectors.resampler, packed, hide)

    def hear(self, log_mels: Sequence[np.ndarray], *, hide: Hide | None = None) -> list[Tensor]:
        """Sounds (M, F) each to tokens (A, D) each, in one padded batch."""
        if not len(log_mels):
            return []
        if self.hearing is None:
            raise CheckpointError("the model was loaded without its hearing; load it with init_audio=True")
        weight = self.hearing.conv1.weight
        lengths = [log_mel.shape[1] for log_mel in log_mels]
        if self.fixes_padding:  # the second convolution takes two frames at a time: an odd last one would hear more
            lengths = [length + length % 2 for length in lengths]
        padded = np.zeros((len(log_mels), log_mels[0].shape[0], max(lengths)), np.float32)
        for row, log_mel in zip(padded, log_mels, strict=True):
            row[:, : log_mel.shape[1]] = log_mel
        frames = torch.from_numpy(padded).to(weight)  # (B, M, F)
        frames = frames if hide is None else hide(frames)
        return encode_padded(self.hearing, self.connectors.projector, frames, lengths, fix_padding=self.fixes_padding)

    def forward(self, embeds: Tensor, positions: Tensor, attention_bias: Tensor, wanted: Tensor) -> Tensor:
        """Right-padded embeds (B, T, D), positions (B, T), attention_bias (B, 1, T, T) added to the scores, wanted
        (B, T) bool -> logits (wanted.sum(), V).

        Only the wanted positions pass the head: it holds a fifth of the weights and most positions have no label.
        """
        return self.head(self.hidden(embeds, positions, attention_bias)[wanted])

    def hidden(self, embeds: Tensor, positions: Tensor, attention_bias: Tensor) -> Tensor:
        """Last hidden states (B, T, D), after the final norm; see forward."""
        return self.decoder.model(
            inputs_embeds=embeds, position_ids=positions, attention_mask=attention_bias, use_cache=False
        ).last_hidden_state

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) -> logits (..., V)."""
        return self.decoder.lm_head(hidden)

    @property
    def decoder(self) -> nn.Module:
        """The language model, under its LoRA where it has one."""
        return self.language.get_base_model() if hasattr(self.language, "get_base_model") else self.language


def per_span(heard: Sequence[Tensor], spans: Sequence[Span]) -> list[Tensor]:
    """Tokens (A, D) of sounds, end to end, cut to one (length, D) per placeholder run.

    Raises FusionError when there are too few; a surplus at the end, which merged clips can have, is dropped.
    """
    tokens = torch.cat(list(heard))
    needed = sum(span.length for span in spans)
    if needed > len(tokens):
        raise FusionError(f"the sounds of a prompt gave {len(tokens)} tokens, but its placeholders take {needed}; give "
                          f"clips of whole seconds, or fill them up with silence")
    return list(tokens[:needed].split([span.length for span in spans]))


def tree_bias(segments: Tensor) -> Tensor:
    """Attention bias (B, 1, T, T) for trees: causal, each segment sees itself and the trunk (0); pads are -1."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    allowed = causal & ((key == 0) | (key == query))
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]


# Which parts a configuration has


def _make_vision(config: OmniConfig, attention: str) -> nn.Module | None:
    has_one = isinstance(config, OfficialConfig) and config.vision is not None
    return SiglipTower(config.vision, attention) if has_one else None


def _make_hearing(config: OmniConfig) -> nn.Module | None:
    has_one = isinstance(config, OfficialConfig) and config.hearing is not None
    return WhisperTower(config.hearing) if has_one else None


def _make_resampler(config: OmniConfig) -> nn.Module | None:
    if isinstance(config, NanoConfig):
        return Resampler(config)
    if config.vision is None or config.resampler is None:
        return None
    return QueryResampler(config.resampler, config.vision.width, config.language.width)


def _make_projector(config: OmniConfig) -> nn.Module | None:
    if isinstance(config, NanoConfig):
        return AudioProjector(config)
    hearing = config.hearing
    return None if hearing is None else PooledAudioProjector(hearing.width, config.language.width, hearing.pool_step)


def _make_ears(config: OmniConfig) -> nn.Module | None:
    has_them = isinstance(config, NanoConfig) and config.hearing.words is not None
    return WordEars(config.hearing, config.hearing.words) if has_them else None


def _make_talker(config: OmniConfig) -> nn.Module | None:
    if not isinstance(config, OfficialConfig) or config.talker is None:
        return None
    from .outputs.talker import Talker

    return Talker(config.talker)


def _make_chattts(config: OmniConfig) -> nn.Module | None:
    if not isinstance(config, OfficialConfig) or config.chattts is None:
        return None
    from .outputs.chattts import ConditionalChatTTS

    return ConditionalChatTTS(config.chattts)
