"""95 % intervals: Wilson's for rates, the bootstrap for everything that is a mean or a ratio of sums.

Sources: E. B. Wilson, 1927 (score interval); B. Efron, 1979 (percentile bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]

Z_95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""

BOOTSTRAP_ROUNDS = 2_000


def wilson(hits: int, n: int) -> Interval | None:
    """Wilson's score interval of the rate hits / n; None where nothing was counted."""
    if n == 0:
        return None
    rate, z2 = hits / n, Z_95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float] | None = None, *, seed: int = 0
) -> Interval | None:
    """Percentile bootstrap of sum(numerators) / sum(denominators), resampling items (or whole groups of items).

    Without denominators it is the mean. Always the same for the same input. None for fewer than two items: one item
    says nothing of the spread."""
    below = [1.0] * len(numerators) if denominators is None else denominators
    return _bootstrap(numerators, below, seed)


def bootstrap_difference(
    first: Sequence[float], second: Sequence[float], denominators: Sequence[float], *, seed: int = 0
) -> Interval | None:
    """Paired bootstrap of sum(second) / sum(denominators) - sum(first) / sum(denominators): what makes an item hard is
    the same on both sides."""
    return _bootstrap([b - a for a, b in zip(first, second, strict=True)], denominators, seed)


def _bootstrap(numerators: Sequence[float], denominators: Sequence[float], seed: int) -> Interval | None:
    count = len(numerators)
    if count < 2:
        return None
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    rng = np.random.default_rng(seed)
    draws = np.empty(BOOTSTRAP_ROUNDS)
    for index in range(BOOTSTRAP_ROUNDS):  # a round at a time: a table of all draws would be 100 MB for 7,000 items
        picks = rng.integers(0, count, count)
        draws[index] = above[picks].sum() / max(below[picks].sum(), 1e-12)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
