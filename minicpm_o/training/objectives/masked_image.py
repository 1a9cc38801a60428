"""Masked image modelling: some patches are hidden before the eyes, and what the language model makes of the picture's
tokens must tell what was on them.

An official model's patches are pixels, hidden by a learned patch; nano's are the features of its frozen eyes, hidden by
a learned feature. The guess of nano's classifier, made of the whole picture, is hidden too: it would tell.
Source: MAE (arXiv:2111.06377), section 3, for the share that is hidden and the patches' own normalisation.

Only whole pictures are hidden, never their slices, which come after them and so cannot tell.
Shapes: I pieces of pictures, P patches of the longest, C numbers of a patch, K hidden ones, Q tokens of a piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ...errors import OptionError
from ...model.encoders.positions import grid_places
from ...model.omni import EncodedMedia, OmniModel, RawMedia
from ..rows import Batch, Row, collate, hidden_states
from ..terms import Term
from .next_token import summed
from .switch import Switch

EPSILON = 1e-6
"""Added to a patch's variance (pixels from -1 to 1): an even patch stays even."""


class MaskedImageConfig(Switch, frozen=True):
    """How much of a picture is hidden."""

    share: float = Field(default=0.6, gt=0, lt=1)
    """Share of the patches that is hidden."""
    normalise: bool = True
    """Tell each patch with its own mean and spread taken off, as MAE does; else as it is."""
    layers: int = Field(default=1, ge=1)
    """Depth of the decoder that asks the language model's states for the patches."""


@dataclass(frozen=True)
class MaskedPatches:
    """A batch of rows with pictures, some of whose patches are hidden."""

    batch: Batch
    is_hidden: Tensor
    """(I, P) over all pieces of the batch."""
    pieces: Tensor
    """(J,) the pieces with hidden patches."""
    index: Tensor
    """(J, K) their hidden patches, filled up with the first."""
    valid: Tensor
    """(J, K)."""
    places: Tensor
    """(J, K, 2) row and column."""

    @property
    def count(self) -> int:
        return int(self.valid.sum())

    def blank(self) -> MaskedPatches:
        """The same, counting for nothing."""
        return replace(self, valid=torch.zeros_like(self.valid))

    def to(self, device: torch.device | str) -> MaskedPatches:
        names = ("is_hidden", "pieces", "index", "valid", "places")
        return MaskedPatches(self.batch.to(device), **{name: getattr(self, name).to(device) for name in names})


def hide_patches(row: Row, config: MaskedImageConfig, rng: np.random.Generator, *, image_start: int
                 ) -> list[np.ndarray]:
    """For each of the row's pieces which of its patches (P,) are hidden; at least one of a whole picture's."""
    hidden = []
    for span, (rows, columns) in zip(row.media.image_spans, _grids(row), strict=True):
        is_hidden = np.zeros(rows * columns, bool)
        if row.ids[span.start - 1] == image_start:
            is_hidden[rng.permutation(len(is_hidden))[: max(1, round(config.share * len(is_hidden)))]] = True
        hidden.append(is_hidden)
    return hidden


def collate_patches(rows: Sequence[Row], hidden: Sequence[Sequence[np.ndarray]]) -> MaskedPatches:
    """Rows and what `hide_patches` gave for each, to a batch."""
    flat = [piece for pieces in hidden for piece in pieces]
    grids = [grid for row in rows for grid in _grids(row)]
    is_hidden = nn.utils.rnn.pad_sequence([torch.from_numpy(piece) for piece in flat], batch_first=True)
    pieces = [index for index, piece in enumerate(flat) if piece.any()]
    longest = max((int(flat[piece].sum()) for piece in pieces), default=0)
    index, valid = torch.zeros(len(pieces), longest, dtype=torch.long), torch.zeros(len(pieces), longest).bool()
    places = torch.zeros(len(pieces), longest, 2, dtype=torch.long)
    for line, piece in enumerate(pieces):
        found = torch.from_numpy(np.flatnonzero(flat[piece]))
        index[line, : len(found)], valid[line, : len(found)] = found, True
        places[line, : len(found)] = torch.from_numpy(grid_places(*grids[piece]))[found]
    return MaskedPatches(collate(rows), is_hidden, torch.tensor(pieces, dtype=torch.long), index, valid, places)


def _grids(row: Row) -> list[tuple[int, int]]:
    """Rows and columns of patches of each piece."""
    media = row.media
    if isinstance(media, RawMedia):
        return [] if media.grid_sizes is None else [(int(rows), int(columns)) for rows, columns in media.grid_sizes]
    side = round(media.features.shape[1] ** 0.5) if media.image_spans else 0
    return [(side, side)] * len(media.image_spans)


def masked_image(model: OmniModel, patches: MaskedPatches, mask: Tensor, decoder: nn.Module, *,
                 normalise: bool = True) -> Term:
    """mask (C,): the learned patch; decoder: states (J, Q, D), places (J, K, 2) -> (J, K, C). The mean squared error
    of a hidden patch, summed over them."""
    errors = patch_errors(predict_patches(model, patches, mask, decoder), target_patches(patches, normalise=normalise))
    errors = errors[patches.valid]
    rows = _rows_of_pieces(patches.batch)
    names = [patches.batch.rows[rows[piece]].tasks[0] for piece, valid in
             zip(patches.pieces.tolist(), patches.valid.sum(1).tolist(), strict=True) for _ in range(valid)]
    return Term(errors.sum(), len(errors), summed(names, errors.detach().tolist()))


def patch_errors(predicted: Tensor, wanted: Tensor) -> Tensor:
    """(J, K, C) both -> (J, K) float32."""
    return (predicted.float() - wanted.float()).square().mean(-1)


def predict_patches(model: OmniModel, patches: MaskedPatches, mask: Tensor, decoder: nn.Module) -> Tensor:
    """(J, K, C) as the decoder tells them from the states of the pictures' own tokens."""
    batch = patches.batch
    tokens = _see_hidden(model, batch, patches.is_hidden, mask)
    fused = model.fuse(batch.ids, [row.media for row in batch.rows], image_tokens=tokens)
    states = hidden_states(model, batch, embeds=nn.utils.rnn.pad_sequence(fused, batch_first=True))
    spans = [(line, span) for line, row in enumerate(batch.rows) for span in row.media.image_spans]
    seen = [states[line, span.start : span.stop] for line, span in (spans[piece] for piece in patches.pieces.tolist())]
    return decoder(torch.stack(seen), patches.places)


def target_patches(patches: MaskedPatches, *, normalise: bool) -> Tensor:
    """(J, K, C) what was on the hidden patches; what is filled up holds the first patch."""
    whole = _patches_of(patches.batch)
    wanted = torch.stack([whole[piece].to(index.device)[index] for piece, index in
                          zip(patches.pieces.tolist(), patches.index, strict=True)])
    return normalised(wanted) if normalise else wanted


def normalised(patches: Tensor) -> Tensor:
    """Each patch (..., C) with its mean taken off and divided by its spread."""
    variance, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
    return (patches.float() - mean) / (variance + EPSILON).sqrt()


def _patches_of(batch: Batch) -> list[Tensor]:
    """(P, C) of every piece of the batch."""
    media = [row.media for row in batch.rows if row.media.image_spans]
    return [torch.as_tensor(piece) for item in media
            for piece in (item.pieces if isinstance(item, RawMedia) else item.features)]


def _see_hidden(model: OmniModel, batch: Batch, is_hidden: Tensor, mask: Tensor) -> Tensor:
    """Tokens (I, Q, D) of pictures whose hidden patches are the learned one."""
    media = [row.media for row in batch.rows if row.media.image_spans]

    def hide(patches: Tensor) -> Tensor:  # (I, P, C)
        return torch.where(is_hidden[..., None], mask.to(patches.dtype), patches)

    if all(isinstance(item, RawMedia) for item in media):
        return model.see([piece for item in media for piece in item.pieces],
                         np.concatenate([item.grid_sizes for item in media]), hide=hide)
    if not all(isinstance(item, EncodedMedia) for item in media):
        raise OptionError("a batch holds pictures of two models; lay all its rows out for one")
    features = torch.cat([item.features for item in media]).to(is_hidden.device)
    unknown = torch.zeros(len(features), media[0].class_logits.shape[1], device=features.device)
    is_open = ~is_hidden.any(1)[:, None]
    class_logits = torch.cat([item.class_logits for item in media]).to(unknown)
    return model.connectors.resampler(hide(features), torch.where(is_open, class_logits, unknown))


def _rows_of_pieces(batch: Batch) -> list[int]:
    return [line for line, row in enumerate(batch.rows) for _ in row.media.image_spans]
