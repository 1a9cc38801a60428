"""Masked language modelling: some words are hidden, and the places where they stood say them, seeing both sides.

Source: BERT (arXiv:1810.04805), section 3.1, with a learned vector for [MASK], which the vocabularies here lack.
Shapes: B batch, T fused tokens, D width, N hidden words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ...model.omni import OmniModel
from ..rows import NOT_LEARNED, Batch, Row, collate, fused_embeds, hidden_states
from ..terms import Term
from .next_token import by_task, token_losses
from .switch import Switch


class MaskedLanguageConfig(Switch, frozen=True):
    """Which words are hidden, and how."""

    share: float = Field(default=0.3, gt=0, le=1)
    """Share of the words that are hidden; more than BERT's 0.15, as there are pictures and sounds to tell them by."""
    mask_share: float = Field(default=0.8, ge=0, le=1)
    """Of these, those in whose place the learned mask embedding stands."""
    random_share: float = Field(default=0.1, ge=0, le=1)
    """Of these, those in whose place a word drawn at random stands; the rest stay as they are."""


@dataclass(frozen=True)
class MaskedWords:
    """A batch with words hidden."""

    batch: Batch
    """Its ids hold the random words already."""
    is_masked: Tensor
    """(B, T): the mask embedding stands here."""
    targets: Tensor
    """(B, T): the word that stood here, NOT_LEARNED where none was chosen."""

    @property
    def count(self) -> int:
        return int((self.targets != NOT_LEARNED).sum())

    def to(self, device: torch.device | str) -> MaskedWords:
        return MaskedWords(self.batch.to(device), self.is_masked.to(device), self.targets.to(device))


def mask_words(row: Row, config: MaskedLanguageConfig, rng: np.random.Generator, *, special: Collection[int],
               vocab_size: int) -> tuple[Row, np.ndarray, np.ndarray]:
    """The row with its random words, is_masked (T,) and targets (T,).

    Chosen from what the row learns: what is not said by an assistant or a document is not asked, nor are special tokens
    or places of media. At least one word, where there is any.
    """
    places = np.flatnonzero((row.labels != NOT_LEARNED) & ~np.isin(row.ids, list(special)))
    num_chosen = min(len(places), max(1, round(config.share * len(places))))
    chosen = rng.permutation(places)[:num_chosen]
    first, second = (round(len(chosen) * share)
                     for share in (config.mask_share, config.mask_share + config.random_share))
    ids, is_masked = row.ids.copy(), np.zeros(len(row), bool)
    is_masked[chosen[:first]] = True
    words = np.setdiff1d(np.arange(vocab_size), list(special))
    ids[chosen[first:second]] = rng.choice(words, len(chosen[first:second]))
    targets = np.full(len(row), NOT_LEARNED)
    targets[chosen] = row.ids[chosen]
    return replace(row, ids=ids), is_masked, targets


def collate_words(masked: Sequence[tuple[Row, np.ndarray, np.ndarray]]) -> MaskedWords:
    """What `mask_words` gave, to a batch."""
    batch = collate([row for row, _, _ in masked])
    is_masked, targets = torch.zeros_like(batch.segments, dtype=torch.bool), torch.full_like(batch.labels, NOT_LEARNED)
    for index, (row, hidden, wanted) in enumerate(masked):
        is_masked[index, : len(row)] = torch.from_numpy(hidden)
        targets[index, : len(row)] = torch.from_numpy(wanted)
    return MaskedWords(batch, is_masked, targets)


def masked_states(model: OmniModel, words: MaskedWords, mask: Tensor) -> Tensor:
    """mask (D,) -> hidden states (N, D) at the chosen places, which see all of their sample."""
    embeds = fused_embeds(model, words.batch)
    embeds = torch.where(words.is_masked[..., None], mask.to(embeds.dtype), embeds)
    return hidden_states(model, words.batch, is_causal=False, embeds=embeds)[words.targets != NOT_LEARNED]


def masked_language(model: OmniModel, words: MaskedWords, mask: Tensor) -> Term:
    """mask (D,): the learned embedding; the loss over the hidden words."""
    wanted = words.targets != NOT_LEARNED
    losses = token_losses(model.head, masked_states(model, words, mask), words.targets[wanted])
    return Term(losses.sum(), len(losses), by_task(words.batch, wanted, losses.detach()))
