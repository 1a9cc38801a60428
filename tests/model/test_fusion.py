"""Early fusion: runs are found, outputs are scattered, disagreement is loud."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.errors import FusionError
from minicpm_o.model.fusion.scatter import scatter_features
from minicpm_o.model.fusion.spans import Span, find_spans


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], []),
        ([1, 2], []),
        ([9, 9, 1, 9], [Span(0, 2), Span(3, 4)]),
        ([9], [Span(0, 1)]),
        ([1, 9, 9], [Span(1, 3)]),
    ],
)
def test_runs_are_found(ids: list[int], expected: list[Span]) -> None:
    assert find_spans(np.array(ids, dtype=np.int64), 9) == expected


def test_features_fill_their_runs_and_nothing_else() -> None:
    embeds = np.zeros((6, 2), dtype=np.float32)
    fused = scatter_features(embeds, [np.full((2, 2), 1.0), np.full((1, 2), 2.0)], [Span(1, 3), Span(4, 5)])
    assert fused[:, 0].tolist() == [0, 1, 1, 0, 2, 0]
    assert not embeds.any(), "the embeddings given must not change"


def test_torch_and_numpy_fuse_alike() -> None:
    torch = pytest.importorskip("torch")
    embeds, item = np.random.default_rng(0).normal(size=(5, 3)), np.ones((2, 3))
    fused = scatter_features(embeds, [item], [Span(2, 4)])
    twin = scatter_features(torch.from_numpy(embeds), [torch.from_numpy(item)], [Span(2, 4)])
    np.testing.assert_array_equal(fused, twin.numpy())


@pytest.mark.parametrize(
    ("lengths", "spans", "words"),
    [
        ([2], [], "0 placeholder runs in the prompt but 1 encoded items"),
        ([], [Span(0, 2)], "1 placeholder runs in the prompt but 0 encoded items"),
        ([3], [Span(0, 2)], "holds 2 tokens, but its encoder gave 3"),
        ([2], [Span(4, 6)], "past the 5 prompt tokens"),
    ],
)
def test_disagreement_is_loud(lengths: list[int], spans: list[Span], words: str) -> None:
    with pytest.raises(FusionError, match=words):
        scatter_features(np.zeros((5, 2)), [np.zeros((n, 2)) for n in lengths], spans)
