"""GRPO: advantages compare within a group, a ratio of one is the plain policy gradient, clipping and divergence."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from minicpm_o.training.objectives.policy import advantages, grpo  # noqa: E402

MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])


def test_advantages_compare_within_a_group_alone() -> None:
    rewards = torch.tensor([1.0, 3.0, 10.0, 10.0])
    found = advantages(rewards, 2)
    assert found.tolist() == pytest.approx([-1, 1, 0, 0], abs=1e-3)
    shifted = rewards + torch.tensor([5.0, 5.0, -7.0, -7.0])
    assert advantages(shifted, 2).tolist() == pytest.approx(found.tolist(), abs=1e-5)
    assert advantages(rewards * 3, 2).tolist() == pytest.approx([-1, 1, 0, 0], abs=1e-3), "its spread does not count"
    with pytest.raises(ValueError, match="5 rewards do not make groups of 2"):
        advantages(torch.ones(5), 2)


def test_at_a_ratio_of_one_it_is_the_policy_gradient() -> None:
    logp = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -1.0]], requires_grad=True)
    advantage = torch.tensor([2.0, -1.0])
    found = grpo(logp, logp.detach(), logp.detach(), MASK, advantage)
    assert found.losses.tolist() == pytest.approx([-2.0, 1.0]) and found.kl.tolist() == [0, 0]
    found.losses.sum().backward()
    wanted = -advantage[:, None] * MASK / MASK.sum(1, keepdim=True)
    assert torch.allclose(logp.grad, wanted)


def test_moves_beyond_the_clip_teach_nothing_more() -> None:
    old = torch.zeros(1, 2)
    logp = torch.tensor([[0.5, 0.1]], requires_grad=True)
    found = grpo(logp, old, logp.detach(), torch.ones(1, 2), torch.tensor([1.0]), clip=0.2, kl_weight=0.0)
    found.losses.sum().backward()
    assert logp.grad[0, 0] == 0 and logp.grad[0, 1] < 0 and found.clipped.item() == 0.5
    worse = torch.tensor([[0.5, 0.5]], requires_grad=True)
    grpo(worse, old, worse.detach(), torch.ones(1, 2), torch.tensor([-1.0]), clip=0.2).losses.sum().backward()
    assert (worse.grad > 0).all(), "what became likelier and is bad is still pulled down"


def test_divergence_is_never_negative_and_pulls_back() -> None:
    logp = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    found = grpo(logp, logp.detach(), torch.tensor([[-2.0, -2.0]]), torch.ones(1, 2), torch.zeros(1), kl_weight=1.0)
    away = torch.tensor([-1.0, 1.0])
    assert found.kl.item() == pytest.approx(float((away.exp() - away - 1).mean()))
    found.losses.sum().backward()
    assert logp.grad[0, 0] > 0 > logp.grad[0, 1]


def test_one_ratio_for_a_whole_answer() -> None:
    old = torch.zeros(1, 2)
    logp = torch.tensor([[0.3, -0.3]])
    assert grpo(logp, old, logp, torch.ones(1, 2), torch.ones(1), by_sequence=True).losses.item() == pytest.approx(-1.0)
