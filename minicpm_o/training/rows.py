"""Laid-out samples and batches of them: what every stage trains on, whatever the model.

A Row is one sample as token ids with its media; rows can be packed into one, side by side and blind to each other. A
Batch is rows as tensors, right-padded. Shapes: B batch, T fused tokens, D language width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..model.fusion.spans import Span
from ..model.omni import EncodedMedia, OmniModel, RawMedia, Sounds

NOT_LEARNED = -100
"""A label at a place where nothing is learned; what torch's cross-entropy overlooks."""

Media = EncodedMedia | RawMedia
"""Outputs of nano's frozen encoders, or an official model's media before its encoders."""


@dataclass(frozen=True)
class SpeechTurn:
    """An answer's speech for a checkpoint with a talker: where its words stand and the codes that say them."""

    words: Span
    """Places of the spoken words in the row."""
    codes: np.ndarray
    """Speech tokens (S,) int64 without the end."""


@dataclass(frozen=True)
class Row:
    """One sample, or several packed. ids and labels (T,) int64; labels holds the id to be said AT each place.

    A place sees what stands before it in its own segment and in that segment's parent: a tree's branches have its
    trunk for parent, a packed sample is its own.
    """

    ids: np.ndarray
    labels: np.ndarray
    media: Media
    tasks: tuple[str, ...] = ("next_token",)
    """By segment: what it is counted as in the log."""
    segments: np.ndarray = field(default=None)  # type: ignore[assignment]  # filled below
    """(T,) number of the segment; None: one segment."""
    parents: tuple[int, ...] = ()
    """By segment; empty: each is its own."""
    positions: np.ndarray = field(default=None)  # type: ignore[assignment]  # filled below
    """(T,); None: 0, 1, 2, ..."""
    speech: tuple[SpeechTurn, ...] = ()
    name: str = ""
    """Source and place of the sample, for messages."""

    def __post_init__(self) -> None:
        length = len(self.ids)
        if self.segments is None:
            object.__setattr__(self, "segments", np.zeros(length, np.int64))
        if self.positions is None:
            object.__setattr__(self, "positions", np.arange(length))
        if not self.parents:
            object.__setattr__(self, "parents", tuple(range(len(self.tasks))))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_labels(self) -> int:
        return int((self.labels != NOT_LEARNED).sum())


def pack(rows: Sequence[Row], max_tokens: int) -> list[Row]:
    """Rows side by side, as many as fit into max_tokens each, first fit in the given order; none is cut.

    Raises OptionError for a row that is longer than max_tokens.
    """
    bins: list[list[Row]] = []
    for row in rows:
        if len(row) > max_tokens:
            raise OptionError(f"the sample {row.name or 'without a name'} takes {len(row)} tokens and max_tokens is "
                              f"{max_tokens}; raise it, or let longer samples be skipped")
        place = next((held for held in bins if sum(map(len, held)) + len(row) <= max_tokens), None)
        if place is None:
            bins.append([row])
        else:
            place.append(row)
    return [join_rows(held) for held in bins]


def join_rows(rows: Sequence[Row]) -> Row:
    """Several rows as one, blind to each other."""
    if len(rows) == 1:
        return rows[0]
    starts = np.cumsum([0, *(len(row) for row in rows)])
    firsts = np.cumsum([0, *(len(row.tasks) for row in rows)])
    return Row(
        ids=np.concatenate([row.ids for row in rows]),
        labels=np.concatenate([row.labels for row in rows]),
        media=join_media([row.media for row in rows], [int(start) for start in starts[:-1]]),
        tasks=tuple(task for row in rows for task in row.tasks),
        segments=np.concatenate([row.segments + first for row, first in zip(rows, firsts, strict=False)]),
        parents=tuple(parent + int(first) for row, first in zip(rows, firsts, strict=False) for parent in row.parents),
        positions=np.concatenate([row.positions for row in rows]),
        speech=tuple(replace(turn, words=_moved(turn.words, int(start)))
                     for row, start in zip(rows, starts, strict=False) for turn in row.speech),
        name=", ".join(row.name for row in rows if row.name),
    )


def join_media(media: Sequence[Media], starts: Sequence[int]) -> Media:
    """Media of rows that follow one another, whose first tokens are at `starts`."""
    if all(isinstance(item, RawMedia) for item in media):
        grids = [item.grid_sizes for item in media if item.grid_sizes is not None]
        return RawMedia(
            [piece for item in media for piece in item.pieces], np.concatenate(grids) if grids else None,
            _all_moved([item.image_spans for item in media], starts),
            tuple(Sounds(sounds.log_mels, tuple(_moved(span, start) for span in sounds.spans))
                  for item, start in zip(media, starts, strict=True) for sounds in item.sounds))
    with_images = [item for item in media if item.image_spans]
    concepts = [item.concept_logits for item in with_images if item.concept_logits is not None]
    return EncodedMedia(
        features=torch.cat([item.features for item in with_images]) if with_images else torch.empty(0),
        class_logits=torch.cat([item.class_logits for item in with_images]) if with_images else torch.empty(0),
        image_spans=_all_moved([item.image_spans for item in media], starts),
        frames=[sound for item in media for sound in item.frames],
        audio_spans=_all_moved([item.audio_spans for item in media], starts),
        concept_logits=torch.cat(concepts) if with_images and len(concepts) == len(with_images) else None,
    )


def _all_moved(spans: Sequence[tuple[Span, ...]], starts: Sequence[int]) -> tuple[Span, ...]:
    return tuple(_moved(span, start) for group, start in zip(spans, starts, strict=True) for span in group)


def _moved(span: Span, by: int) -> Span:
    return Span(span.start + by, span.stop + by)


@dataclass(frozen=True)
class Batch:
    """Rows as tensors, right-padded."""

    rows: tuple[Row, ...]
    ids: tuple[Tensor, ...]
    """(T,) each."""
    labels: Tensor
    """(B, T) of the NEXT token, NOT_LEARNED where nothing is asked."""
    positions: Tensor
    """(B, T)."""
    segments: Tensor
    """(B, T): number of the segment in its row, -1 padding."""
    parents: Tensor
    """(B, T): the segment's parent, -1 padding."""

    @property
    def num_labels(self) -> int:
        return int((self.labels != NOT_LEARNED).sum())

    @property
    def num_tokens(self) -> int:
        return int((self.segments >= 0).sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device; media follow when they are encoded."""
        moved = {name: getattr(self, name).to(device) for name in ("labels", "positions", "segments", "parents")}
        return replace(self, ids=tuple(ids.to(device) for ids in self.ids), **moved)


def collate(rows: Sequence[Row]) -> Batch:
    """Rows to a batch."""
    longest = max(len(row) for row in rows)
    labels = torch.full((len(rows), longest), NOT_LEARNED)
    positions = torch.zeros(len(rows), longest, dtype=torch.long)
    segments, parents = torch.full((len(rows), longest), -1), torch.full((len(rows), longest), -1)
    for index, row in enumerate(rows):
        length = len(row)
        labels[index, : length - 1] = torch.from_numpy(row.labels[1:])
        positions[index, :length] = torch.from_numpy(row.positions)
        segments[index, :length] = torch.from_numpy(row.segments)
        parents[index, :length] = torch.tensor(row.parents)[segments[index, :length]]
    ids = tuple(torch.from_numpy(row.ids) for row in rows)
    return Batch(tuple(rows), ids, labels, positions, segments, parents)


def attention_bias(batch: Batch, dtype: torch.dtype = torch.float32, *, is_causal: bool = True) -> Tensor:
    """(B, 1, T, T) added to the scores: 0 where a place may look, very negative elsewhere.

    is_causal False lets a place see later ones of its segment too, as masked modelling wants.
    """
    length = batch.segments.shape[1]
    query, key = batch.segments[:, :, None], batch.segments[:, None, :]
    allowed = ((key == query) | (key == batch.parents[:, :, None])) & (key >= 0)
    if is_causal:
        allowed &= torch.ones(length, length, dtype=torch.bool, device=allowed.device).tril()
    allowed |= torch.eye(length, dtype=torch.bool, device=allowed.device)  # padding looks at itself, not at nothing
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min)[:, None]


def fused_embeds(model: OmniModel, batch: Batch) -> Tensor:
    """(B, T, D): words and media in their places, zeros on the padding."""
    fused = model.fuse(batch.ids, [row.media for row in batch.rows])
    return nn.utils.rnn.pad_sequence(fused, batch_first=True)


def hidden_states(model: OmniModel, batch: Batch, *, is_causal: bool = True, embeds: Tensor | None = None) -> Tensor:
    """(B, T, D) last hidden states; embeds in place of the batch's own where something in them was changed."""
    embeds = fused_embeds(model, batch) if embeds is None else embeds
    return model.hidden(embeds, batch.positions, attention_bias(batch, embeds.dtype, is_causal=is_causal))
