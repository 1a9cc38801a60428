"""Direct preference optimisation: the better of two answers becomes likelier than the worse, against a reference.

Shapes: B pairs. Sources: DPO (arXiv:2305.18290), equation 7; RLAIF-V (arXiv:2405.17220) for beta 0.1 and summed
log-probabilities; IPO (arXiv:2310.12036), equation 17, by token as its authors and trl have it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Preferences:
    """What came of B pairs."""

    losses: Tensor
    """(B,)."""
    margins: Tensor
    """(B,) how much more the policy likes the better answer than the reference does, in units of reward."""
    kl: Tensor
    """(B,) nats of an answer from the reference: half the squared log-ratio (Schulman's k2), mean of both answers.

    These answers were not drawn from the policy, so it tells the drift near the reference, no more.
    """


def dpo(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, *, beta: float = 0.1,
        label_smoothing: float = 0.0) -> Preferences:
    """Log-probabilities (B,) of whole answers under policy and reference -> losses.

    label_smoothing: share of the pairs that are taken to be the wrong way round (conservative DPO).
    """
    better, worse = chosen - reference_chosen, rejected - reference_rejected
    margins = beta * (better - worse)
    losses = -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)
    return Preferences(losses, margins.detach(), _drift(better, worse))


def ipo(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor,
        num_chosen: Tensor, num_rejected: Tensor, *, beta: float = 0.1) -> Preferences:
    """As dpo, towards a margin of 1 / (2 beta) by token instead of ever more; num_*: (B,) tokens of the answers."""
    better, worse = chosen - reference_chosen, rejected - reference_rejected
    gap = better / num_chosen - worse / num_rejected
    return Preferences((gap - 1 / (2 * beta)) ** 2, (beta * (better - worse)).detach(), _drift(better, worse))


def _drift(better: Tensor, worse: Tensor) -> Tensor:
    return (0.25 * (better**2 + worse**2)).detach()
