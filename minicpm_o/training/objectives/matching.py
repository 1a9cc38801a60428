"""Matching: does this text belong to this picture (or sound)? Asked of each pair, and of hard negatives.

The negatives are the nearest wrong ones by the contrastive embeddings, drawn in proportion to exp(similarity) from the
batch of all ranks. Source: ALBEF (arXiv:2107.07651), section 3.2. Shapes: B pairs of this rank, G of all ranks.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.omni import OmniModel
from ..terms import Term
from .contrastive import Embedded, Modality
from .gather import gather_texts
from .pairs import Pairs, SeenPairs, last_states, words_of
from .switch import Switch


class MatchingConfig(Switch, frozen=True):
    """Which media."""

    media: tuple[Modality, ...] = ("image", "audio")
    """What is matched with text. Without the contrastive objective for it, negatives are drawn evenly."""


def matching(model: OmniModel, pairs: Pairs, seen: SeenPairs, head: nn.Module, embedded: Embedded,
             scale: Tensor | float) -> Term:
    """head: states (N, D) -> logits (N,), over 0 where they belong together. The binary cross-entropy of each pair, and
    half of that of either negative, so that right and wrong weigh the same: two items a pair.

    scale: one over the temperature of the similarities; 0 draws evenly.
    """
    texts = gather_texts(words_of(pairs.texts))
    similarity = (float(scale) * embedded.all_media @ embedded.all_texts.T).detach()
    text_for, medium_for = draw_negatives(similarity.cpu(), embedded.is_other.cpu(), embedded.keys.cpu(), pairs.seed)
    media, chosen, is_right = _asked(embedded.own, text_for, medium_for)
    states = last_states(model, [seen.fused[medium - embedded.start] for medium in media],
                         [texts[text] for text in chosen])
    wanted = torch.tensor(is_right, device=states.device)
    losses = F.binary_cross_entropy_with_logits(head(states).float(), wanted, reduction="none")
    is_valid = embedded.valid[torch.tensor(media, device=embedded.valid.device)]
    weights = torch.where(wanted > 0, 1.0, 0.5) * is_valid
    return Term((losses * weights).sum(), 2 * pairs.count)


def _asked(own: slice, text_for: Tensor, medium_for: Tensor) -> tuple[list[int], list[int], list[float]]:
    """What this rank asks: its media with their own texts, with the wrong texts drawn for them, and with those texts of
    all ranks for which one of its media was drawn. Medium, text, and 1 where they belong together."""
    right = list(range(own.start, own.stop))
    wrong = [(medium, int(text_for[medium])) for medium in right if text_for[medium] >= 0]
    wrong += [(int(medium), text) for text, medium in enumerate(medium_for) if own.start <= medium < own.stop]
    media, texts = right + [medium for medium, _ in wrong], right + [text for _, text in wrong]
    return media, texts, [1.0] * len(right) + [0.0] * len(wrong)


def draw_negatives(similarity: Tensor, allowed: Tensor, keys: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A wrong text for every medium and a wrong medium for every text, (G,) each, -1 where there is none.

    similarity, allowed (G, G) of media by texts. A draw in proportion to exp(similarity) is the largest of similarity
    and Gumbel noise; the noise follows from the seed and the two keys alone, so that it is the same on every rank and
    however the pairs are ordered.
    """
    scores = similarity.masked_fill(~allowed, float("-inf"))
    has_one = allowed.any(1), allowed.any(0)
    text_for = (scores + _gumbel(keys, seed)).argmax(1)
    medium_for = (scores + _gumbel(keys, seed + 1)).argmax(0)
    return torch.where(has_one[0], text_for, -1), torch.where(has_one[1], medium_for, -1)


def _gumbel(keys: Tensor, seed: int) -> Tensor:
    """(G, G) standard Gumbel noise of medium and text keys (G, 2)."""
    media, texts = keys.numpy().astype(np.uint64).T
    with np.errstate(over="ignore"):
        mixed = _scrambled(_scrambled(media + np.uint64(seed % 2**63))[:, None] + texts[None])
    uniform = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54  # inside (0, 1)
    return torch.from_numpy(-np.log(-np.log(uniform))).float()


def _scrambled(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of what comes out hangs on every bit of what goes in."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
