"""What is left before a draw, and the draw."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.runtime.filters import keep_nucleus, keep_top_k, penalise, seeded_draw, softmax

CHANCES = np.array([0.5, 0.25, 0.15, 0.06, 0.04])
SCORES = np.log(CHANCES).astype(np.float32)


def kept(scores: np.ndarray) -> list[int]:
    return np.flatnonzero(np.isfinite(scores)).tolist()


def test_softmax_gives_the_chances_row_by_row() -> None:
    np.testing.assert_allclose(softmax(np.stack([SCORES, SCORES + 3])), [CHANCES, CHANCES], atol=1e-6)


@pytest.mark.parametrize(("k", "at_least", "count"), [(0, 1, 5), (2, 1, 2), (1, 3, 3), (9, 1, 5)])
def test_top_k(k: int, at_least: int, count: int) -> None:
    assert kept(keep_top_k(SCORES, k, at_least)) == list(range(count))


def test_equals_of_the_kth_stay() -> None:
    assert kept(keep_top_k(np.array([1.0, 0.5, 0.5, 0.1], np.float32), 2)) == [0, 1, 2]


@pytest.mark.parametrize(("p", "at_least", "count"), [(0, 1, 5), (1, 1, 5), (0.4, 1, 1), (0.6, 1, 2), (0.8, 1, 3),
                                                     (0.01, 3, 3)])
def test_nucleus_keeps_what_crosses_p(p: float, at_least: int, count: int) -> None:
    assert kept(keep_nucleus(SCORES, p, at_least)) == list(range(count))


def test_penalty_grows_with_each_time() -> None:
    scores = np.array([2.0, -2.0, 2.0, -2.0], np.float32)
    np.testing.assert_allclose(penalise(scores, [0, 1, 1], 2.0), [1.0, -8.0, 2.0, -2.0])
    assert penalise(scores, [], 2.0).tolist() == scores.tolist()


def test_draws_follow_the_chances_and_the_seed() -> None:
    first, second = seeded_draw(3), seeded_draw(3)
    drawn = [first(CHANCES) for _ in range(2000)]
    assert drawn == [second(CHANCES) for _ in range(2000)]
    np.testing.assert_allclose(np.bincount(drawn) / 2000, CHANCES, atol=0.04)
    never = np.array([0, 1, 0, 0], np.float32)
    assert {seeded_draw(seed)(never) for seed in range(50)} == {1}
