"""DPO by hand: what it is at the start, which way it pulls, what smoothing does."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from minicpm_o.training.objectives.preference import dpo, ipo  # noqa: E402


def numbers(*values: float):
    return torch.tensor(values)


def test_before_anything_is_learned_it_is_log_two() -> None:
    found = dpo(numbers(-3, -9), numbers(-4, -2), numbers(-3, -9), numbers(-4, -2))
    assert found.losses.tolist() == pytest.approx([math.log(2)] * 2)
    assert found.margins.tolist() == [0, 0] and found.kl.tolist() == [0, 0]


def test_by_hand() -> None:
    found = dpo(numbers(-2.0), numbers(-6.0), numbers(-3.0), numbers(-5.0), beta=0.5)
    assert found.margins.item() == pytest.approx(0.5 * (1 - -1))
    assert found.losses.item() == pytest.approx(-math.log(1 / (1 + math.exp(-1.0))))
    smooth = dpo(numbers(-2.0), numbers(-6.0), numbers(-3.0), numbers(-5.0), beta=0.5, label_smoothing=0.2)
    wanted = -0.8 * math.log(1 / (1 + math.exp(-1))) - 0.2 * math.log(1 / (1 + math.exp(1)))
    assert smooth.losses.item() == pytest.approx(wanted)


def test_it_pulls_the_better_up_and_the_worse_down() -> None:
    chosen, rejected = numbers(-3.0).requires_grad_(), numbers(-3.0).requires_grad_()
    dpo(chosen, rejected, numbers(-3.0), numbers(-3.0)).losses.sum().backward()
    assert chosen.grad.item() < 0 < rejected.grad.item()


def test_ipo_stops_at_its_margin() -> None:
    two = numbers(2.0)
    start = ipo(numbers(-4.0), numbers(-4.0), numbers(-4.0), numbers(-4.0), two, two, beta=0.5)
    assert start.losses.item() == pytest.approx(1.0), "(0 - 1 / (2 * 0.5)) squared"
    there = ipo(numbers(-3.0), numbers(-5.0), numbers(-4.0), numbers(-4.0), two, two, beta=0.5)
    assert there.losses.item() == pytest.approx(0.0) and there.margins.item() == pytest.approx(1.0)


def test_the_drift_does_not_cancel_out() -> None:
    assert dpo(numbers(-2.0), numbers(-6.0), numbers(-4.0), numbers(-4.0)).kl.item() == pytest.approx(2.0)
