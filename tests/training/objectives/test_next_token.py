"""Next-token loss: known values, the same in groups as at once, told by task."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch.nn import functional as F  # noqa: E402
from training_pairs import tiny_trainee  # noqa: E402

from minicpm_o.model.omni import RawMedia  # noqa: E402
from minicpm_o.training.objectives.next_token import next_token, token_losses  # noqa: E402
from minicpm_o.training.rows import NOT_LEARNED, Row, collate, hidden_states, join_rows  # noqa: E402


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory):
    return tiny_trainee(tmp_path_factory.mktemp("home"))


def row(ids: list[int], task: str) -> Row:
    array = np.array(ids)
    return Row(array, np.array([NOT_LEARNED, *ids[1:]]), RawMedia(), (task,))


def test_knowing_nothing_costs_the_logarithm_of_the_vocabulary() -> None:
    losses = token_losses(lambda hidden: torch.zeros(len(hidden), 50), torch.randn(7, 4), torch.arange(7))
    assert torch.allclose(losses, torch.full((7,), math.log(50)))


def test_knowing_the_token_costs_nothing() -> None:
    targets = torch.arange(7)
    losses = token_losses(lambda hidden: 100 * F.one_hot(targets, 50).float(), torch.randn(7, 4), targets)
    assert losses.max() < 1e-6


def test_groups_give_the_losses_and_gradients_of_all_at_once() -> None:
    head = torch.nn.Linear(4, 50)
    targets = torch.randint(50, (11,))
    found = []
    for max_logits in (1 << 20, 120):  # all at once; two places at a time
        hidden = torch.arange(44.0).view(11, 4).sin().requires_grad_()
        head.zero_grad()
        losses = token_losses(head, hidden, targets, max_logits=max_logits)
        losses.sum().backward()
        found.append((losses.detach(), hidden.grad, head.weight.grad.clone()))
    for whole, grouped in zip(*found, strict=True):
        torch.testing.assert_close(grouped, whole)


def test_groups_hold_no_more_logits_than_allowed() -> None:
    seen = []

    def head(hidden: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(hidden), 50)
        seen.append(logits.numel())
        return logits

    token_losses(head, torch.randn(11, 4), torch.zeros(11, dtype=torch.long), max_logits=120)
    assert max(seen) <= 120


def test_loss_is_that_of_the_logits_and_told_by_task(trainee) -> None:
    first, second = row([5, 9, 17, 23], "a"), row([30, 31, 32], "b")
    batch = collate([join_rows([first, second])])
    term = next_token(trainee.model, batch)
    logits = trainee.model.head(hidden_states(trainee.model, batch))[0]
    expected = F.cross_entropy(logits[[0, 1, 2, 4, 5]], torch.tensor([9, 17, 23, 31, 32]), reduction="none")
    assert term.count == 5
    assert term.parts["a"][0] == pytest.approx(float(expected[:3].sum().detach()), rel=1e-5)
    assert sum(total for total, _ in term.parts.values()) == pytest.approx(float(term.total.detach()), rel=1e-5)


def test_with_nothing_asked_there_is_a_gradient_of_zero(trainee) -> None:
    batch = collate([Row(np.array([5, 6]), np.full(2, NOT_LEARNED), RawMedia())])
    term = next_token(trainee.model, batch)
    term.total.backward()
    assert term.count == 0 and float(term.total.detach()) == 0
    assert trainee.model.language.get_input_embeddings().weight.grad.abs().max() == 0
