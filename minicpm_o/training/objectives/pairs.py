"""Pairs of a picture (or sound) and a text, as contrastive learning and matching take them: each alone, and any medium
before any text.

A medium is laid out as what a user sends, up to where the assistant is to speak, and a text as what it says, so that a
pair is a conversation of one turn. Shapes: B pairs, T fused tokens, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ...model.omni import OmniModel, RawMedia
from ..rows import NOT_LEARNED, Batch, Row, collate, hidden_states


@dataclass(frozen=True)
class Pairs:
    """A batch of them."""

    media: Batch
    """Each with a medium and no words."""
    texts: Batch
    """Each a text alone; its words, and the token that ends it, are the labels."""
    keys: Tensor
    """(B, 2) int64 that stand for the medium and for the text: equal texts have equal keys."""
    valid: Tensor
    """(B,) bool: false for what only stands in for a pair that could not be used."""
    seed: int
    """Of the negatives; the same on all ranks."""

    @property
    def count(self) -> int:
        return int(self.valid.sum())

    def blank(self) -> Pairs:
        """The same, counting for nothing."""
        return replace(self, valid=torch.zeros_like(self.valid))

    def to(self, device: torch.device | str) -> Pairs:
        return replace(self, media=self.media.to(device), texts=self.texts.to(device), keys=self.keys.to(device),
                       valid=self.valid.to(device))


def key_of(content: str | bytes) -> int:
    """63 bits of a digest."""
    data = content.encode() if isinstance(content, str) else content
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little") >> 1


def media_key(row: Row) -> int:
    """The key of what the row shows."""
    media = row.media
    if isinstance(media, RawMedia):
        arrays = [*media.pieces, *(log_mel for sounds in media.sounds for log_mel in sounds.log_mels)]
    else:
        arrays = [tensor.numpy() for tensor in (media.features, *media.frames)]
    return key_of(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))


def collate_pairs(media: Sequence[Row], texts: Sequence[Row], *, seed: int) -> Pairs:
    """Rows of a medium and rows of a text, one each a pair."""
    keys = [(media_key(medium), key_of(text.ids.tobytes())) for medium, text in zip(media, texts, strict=True)]
    return Pairs(collate(media), collate(texts), torch.tensor(keys), torch.ones(len(keys), dtype=torch.bool), seed)


@dataclass(frozen=True)
class SeenPairs:
    """What a model makes of the two sides of the pairs."""

    fused: Sequence[Tensor]
    """(T, D) each: the media in the prompt, fused."""
    media: Tensor
    """(B, D): mean state of the media's tokens."""
    texts: Tensor
    """(B, D): mean state of the texts' words."""


def see_pairs(model: OmniModel, pairs: Pairs) -> SeenPairs:
    """Both sides once through the language model, neither seeing the other."""
    rows = pairs.media.rows
    fused = model.fuse(pairs.media.ids, [row.media for row in rows])
    states = hidden_states(model, pairs.media, embeds=nn.utils.rnn.pad_sequence(fused, batch_first=True))
    is_medium = torch.zeros(states.shape[:2], dtype=torch.bool)
    for line, row in enumerate(rows):
        for span in (*row.media.image_spans, *row.media.audio_spans):
            is_medium[line, span.start : span.stop] = True
    is_word = torch.zeros_like(pairs.texts.labels, dtype=torch.bool)
    is_word[:, 1:] = pairs.texts.labels[:, :-1] != NOT_LEARNED  # labels tell the next token; this is their own place
    return SeenPairs(fused, mean_state(states, is_medium.to(states.device)),
                     mean_state(hidden_states(model, pairs.texts), is_word))


def mean_state(states: Tensor, chosen: Tensor) -> Tensor:
    """states (B, T, D), chosen (B, T) bool -> the mean of the chosen ones (B, D) float32."""
    weights = chosen.float()[..., None]
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1)


def words_of(texts: Batch) -> list[Tensor]:
    """The texts' words and the tokens that end them, ids (W,) each."""
    return [ids[1:][labels[: len(ids) - 1] != NOT_LEARNED] for ids, labels in zip(texts.ids, texts.labels, strict=True)]


def last_states(model: OmniModel, prompts: Sequence[Tensor], texts: Sequence[Tensor]) -> Tensor:
    """Fused prompts (T, D) each followed by the words (W,) of a text -> states (B, D) of the last word."""
    embeds = [torch.cat([prompt, model.embed(words).to(prompt.dtype)])
              for prompt, words in zip(prompts, texts, strict=True)]
    rows = [Row(np.zeros(len(row), np.int64), np.full(len(row), NOT_LEARNED), RawMedia()) for row in embeds]
    batch = collate(rows).to(embeds[0].device)
    states = hidden_states(model, batch, embeds=nn.utils.rnn.pad_sequence(embeds, batch_first=True))
    lengths = torch.tensor([len(row) for row in embeds], device=states.device)
    return states[torch.arange(len(embeds), device=states.device), lengths - 1]
