"""The whole network in torch: encode, fuse, think. The only file that knows every part.

    pixels  --vision--> features --resampler--> tokens --\\
    log_mel --hearing-> frames ---projector---> tokens ---- scatter into embeds -> language -> logits
    ids ----------------------------------------embed----/

Used for training and as the reference of the device graphs. Shapes: B batch, T fused tokens, D language width,
V vocabulary, P grid cells, E encoder width, F2 encoder frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import NanoConfig
from .encoders.projector import AudioProjector
from .encoders.resampler import Resampler
from .fusion.scatter import scatter_features
from .fusion.spans import Span
from .language.decoder import build_decoder


@dataclass(frozen=True)
class EncodedMedia:
    """Outputs of the frozen encoders for one prompt, each with the spans its tokens fill."""

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


class Connectors(nn.Module):
    """Everything trained from nothing: resampler, projector and the embeddings of the media markers."""

    def __init__(self, config: NanoConfig, num_markers: int) -> None:
        super().__init__()
        self.resampler = Resampler(config)
        self.projector = AudioProjector(config)
        self.markers = nn.Embedding(num_markers, config.language.width)


class OmniModel(nn.Module):
    """Connectors around a language model; the frozen encoders run before it and may be cached."""

    def __init__(self, config: NanoConfig, marker_ids: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.marker_ids = tuple(marker_ids)
        self.connectors = Connectors(config, len(marker_ids))
        self.language: nn.Module = build_decoder(config.language)

    def embed(self, ids: Tensor) -> Tensor:
        """ids (..., T) -> (..., T, D), media markers from their own table."""
        embeds = self.language.get_input_embeddings()(ids)
        for row, marker in enumerate(self.marker_ids):
            is_marker = (ids == marker).unsqueeze(-1)
            embeds = torch.where(is_marker, self.connectors.markers.weight[row].to(embeds.dtype), embeds)
        return embeds

    def fuse(self, ids: Sequence[Tensor], media: Sequence[EncodedMedia]) -> list[Tensor]:
        """Prompts of ids (T,) with their media -> fused embeds (T, D) each; encoders' outputs in one batch."""
        image_tokens = self._image_tokens(media)
        audio_tokens = self._audio_tokens(media)
        fused = []
        for prompt, item in zip(ids, media, strict=True):
            images = [next(image_tokens) for _ in item.image_spans]
            sounds = [next(audio_tokens) for _ in item.audio_spans]
            embeds = self.embed(prompt)
            spans = [*item.image_spans, *item.audio_spans]
            fused.append(scatter_features(embeds, [t.to(embeds.dtype) for t in images + sounds], spans))
        return fused

    def _image_tokens(self, media: Sequence[EncodedMedia]):
        with_images = [item for item in media if item.image_spans]
        if not with_images:
            return iter(())
        features = torch.cat([item.features for item in with_images])
        class_logits = torch.cat([item.class_logits for item in with_images])
        known = [item.concept_logits for item in with_images if item.concept_logits is not None]
        concept_logits = torch.cat(known) if len(known) == len(with_images) else None
        return iter(self.connectors.resampler(features, class_logits, concept_logits))

    def _audio_tokens(self, media: Sequence[EncodedMedia]):
        frames = [sound for item in media for sound in item.frames]
        if not frames:
            return iter(())
        padded = nn.utils.rnn.pad_sequence(frames, batch_first=True)
        tokens = self.connectors.projector(padded)
        lengths = [span.length for item in media for span in item.audio_spans]
        return iter([row[:length] for row, length in zip(tokens, lengths, strict=True)])

    def forward(self, embeds: Tensor, positions: Tensor, attention_bias: Tensor, wanted: Tensor) -> Tensor:
        """Right-padded embeds (B, T, D), positions (B, T), attention_bias (B, 1, T, T) added to the scores, wanted
        (B, T) bool -> logits (wanted.sum(), V).

        Only the wanted positions pass the head: it holds a fifth of the weights and most positions have no label.
        """
        llama = self.language.get_base_model() if hasattr(self.language, "get_base_model") else self.language
        hidden = llama.model(
            inputs_embeds=embeds, position_ids=positions, attention_mask=attention_bias, use_cache=False
        ).last_hidden_state
        return llama.lm_head(hidden[wanted])


def tree_bias(segments: Tensor) -> Tensor:
    """Attention bias (B, 1, T, T) for trees: causal, each segment sees itself and the trunk (0); pads are -1."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    query, key = segments[:, :, None], segments[:, None, :]
    allowed = causal & ((key == 0) | (key == query))
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)[:, None]
