"""What is left of a distribution before a draw, and the draw: shared by words, speech tokens and codes. Pure numpy.

Scores are logits or log-probabilities; what may not be drawn has minus infinity. Letter: V vocabulary.
Source: top-k, nucleus (arXiv:1904.09751) and repetition penalty as the official checkpoints apply them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Draw = Callable[[np.ndarray], int]
"""Probabilities (V,) to an index."""


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis, added up in double precision."""
    powers = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float32)


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """Log-probabilities along the last axis, in the scores' own precision."""
    shifted = scores - scores.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def keep_top_k(scores: np.ndarray, k: int, at_least: int = 1) -> np.ndarray:
    """scores (V,) of the k highest and their equals, but of `at_least` many; 0 keeps all."""
    kept = max(k, at_least)
    if k <= 0 or kept >= scores.size:
        return scores
    return np.asarray(np.where(scores < np.partition(scores, -kept)[-kept], -np.inf, scores), scores.dtype)


def keep_nucleus(scores: np.ndarray, p: float, at_least: int = 1) -> np.ndarray:
    """scores (V,) without the least likely that together hold at most 1 - p; `at_least` stay; 0 or 1 keeps all."""
    if not 0 < p < 1:
        return scores
    order = np.argsort(scores, kind="stable")
    dropped = np.cumsum(softmax(scores[order]), dtype=np.float64) <= 1 - p
    dropped[-at_least:] = False
    kept: np.ndarray = scores.copy()
    kept[order[dropped]] = -np.inf
    return kept


def penalise(scores: np.ndarray, recent: Sequence[int] | np.ndarray, penalty: float) -> np.ndarray:
    """scores (V,), less likely by `penalty` for every time that an index is among the recent ones."""
    counts = np.bincount(np.asarray(recent, np.int64), minlength=scores.size).astype(np.float32)
    factors = np.power(np.float32(penalty), counts)
    return np.asarray(np.where(scores < 0, scores * factors, scores / factors), scores.dtype)


def seeded_draw(seed: int | None = None) -> Draw:
    """Draws by inversion from a generator of its own; the same seed draws the same, None draws anew each time."""
    rng = np.random.default_rng(seed)

    def draw(probabilities: np.ndarray) -> int:
        sums = np.cumsum(probabilities, dtype=np.float64)
        return min(int(np.searchsorted(sums, rng.random() * sums[-1], side="right")),
                   int(np.flatnonzero(probabilities)[-1]))

    return draw
