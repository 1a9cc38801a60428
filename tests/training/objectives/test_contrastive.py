"""Contrastive losses: known values, equal texts are no negatives, and two ranks are one."""

from __future__ import annotations

import math
import socket
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402

from minicpm_o.training.objectives.contrastive import embed_all, info_nce, sigmoid  # noqa: E402
from minicpm_o.training.objectives.gather import gather_texts  # noqa: E402
from minicpm_o.training.objectives.matching import draw_negatives  # noqa: E402

KEYS = torch.tensor([[1, 11], [2, 12], [3, 13], [4, 14]])


def embedded(media: torch.Tensor, texts: torch.Tensor, keys: torch.Tensor = KEYS, valid: torch.Tensor | None = None):
    return embed_all(media, texts, keys, torch.ones(len(keys), dtype=torch.bool) if valid is None else valid)


def mean(term) -> float:
    return float(term.total.detach()) / term.count


def test_info_nce_of_known_values() -> None:
    assert mean(info_nce(embedded(torch.eye(4), torch.eye(4)), torch.tensor(100.0))) < 1e-6, "each at its own text"
    same = torch.ones(4, 3)
    assert mean(info_nce(embedded(same, same), torch.tensor(7.0))) == pytest.approx(math.log(4), rel=1e-6)


def test_an_equal_text_is_no_negative() -> None:
    same, twins = torch.ones(4, 3), torch.tensor([[1, 11], [2, 11], [3, 13], [4, 14]])
    assert not embedded(same, same, twins).is_other[0, 1]
    expected = (2 * math.log(3) + 2 * math.log(4)) / 4
    assert mean(info_nce(embedded(same, same, twins), torch.tensor(1.0))) == pytest.approx(expected, rel=1e-6)


def test_a_stand_in_counts_for_nothing() -> None:
    media, texts = torch.randn(4, 3), torch.randn(4, 3)
    valid = torch.tensor([True, True, True, False])
    with_it = embedded(media, texts, valid=valid)
    without = embedded(media[:3], texts[:3], KEYS[:3])
    scale, bias = torch.tensor(3.0), torch.tensor(-1.0)
    for loss in (lambda pairs: info_nce(pairs, scale), lambda pairs: sigmoid(pairs, scale, bias)):
        assert loss(with_it).count == 3 and mean(loss(with_it)) == pytest.approx(mean(loss(without)), rel=1e-6)


def test_sigmoid_of_known_values() -> None:
    keys = KEYS[:2]
    pairs = embedded(torch.eye(2), torch.eye(2), keys)  # similarity 1 on the diagonal, else 0
    scale, bias = 5.0, -2.0
    expected = 2 * math.log(1 + math.exp(-(scale + bias))) + 2 * math.log(1 + math.exp(bias))
    term = sigmoid(pairs, torch.tensor(scale), torch.tensor(bias))
    assert (float(term.total), term.count) == (pytest.approx(expected, rel=1e-6), 2)


def losses_of(media: torch.Tensor, texts: torch.Tensor, keys: torch.Tensor) -> tuple[float, float]:
    """Both losses of these rows, after a backward that leaves gradients in media and texts."""
    pairs = embedded(media, texts, keys)
    terms = info_nce(pairs, torch.tensor(4.0)), sigmoid(pairs, torch.tensor(4.0), torch.tensor(-1.0))
    sum(term.total for term in terms).backward()
    return tuple(float(term.total.detach()) for term in terms)


def negatives_of(own: slice) -> tuple[Any, ...]:
    """The negatives that a rank with these rows draws, the lengths of all texts, and where its own rows begin."""
    media, texts = leaves()
    pairs = embedded(media[own].detach(), texts[own].detach(), KEYS[own])
    drawn = draw_negatives(4 * pairs.all_media @ pairs.all_texts.T, pairs.is_other, pairs.keys, seed=5)
    words = [torch.arange(1 + place) for place in range(4)]
    return [item.tolist() for item in drawn], [len(text) for text in gather_texts(words[own])], pairs.start


def leaves() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return tuple(torch.randn(4, 3, generator=rng).requires_grad_() for _ in range(2))


def as_rank(rank: int, port: int, results: Any) -> None:
    """Losses, gradients and negatives of a rank that has the first rows, or the others."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for cut in (2, 3):
        own = slice(0, cut) if rank == 0 else slice(cut, 4)
        media, texts = leaves()
        losses = losses_of(media[own], texts[own], KEYS[own])
        results[rank, cut] = losses, media.grad.tolist(), texts.grad.tolist(), negatives_of(own)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks() -> dict[tuple[int, int], Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(as_rank, (port, results), nprocs=2)
        return dict(results)


@pytest.mark.parametrize("cut", [2, 3], ids=["halves", "three and one"])
def test_two_ranks_have_the_losses_and_gradients_of_one(two_ranks, cut: int) -> None:
    media, texts = leaves()
    expected = losses_of(media, texts, KEYS)
    for one, *two in zip(expected, two_ranks[0, cut][0], two_ranks[1, cut][0], strict=True):
        assert sum(two) == pytest.approx(one, rel=1e-5)
    for place, whole in ((1, media.grad), (2, texts.grad)):
        torch.testing.assert_close(sum(torch.tensor(two_ranks[rank, cut][place]) for rank in (0, 1)), whole)


def test_two_ranks_draw_the_negatives_of_one(two_ranks) -> None:
    one, first, second = negatives_of(slice(0, 4)), two_ranks[0, 3][3], two_ranks[1, 3][3]
    assert first[:2] == second[:2] == one[:2], "the same everywhere, among the texts of all"
    assert (first[2], second[2]) == (0, 3)
