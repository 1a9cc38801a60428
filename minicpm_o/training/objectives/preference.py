"""Direct preference optimisation: the better of two answers becomes likelier than the worse, against a reference.

Shapes: B pairs. Sources: DPO (arXiv:2305.18290), equation 7; RLAIF-V (arXiv:2405.17220) for beta 0.1 and summed
log-probabilities.
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
    """(B,) how far the policy's chances of both answers have moved from the reference's, on average."""


def dpo(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, *, beta: float = 0.1,
        label_smoothing: float = 0.0) -> Preferences:
    """Log-probabilities (B,) of whole answers under policy and reference -> losses.

    label_smoothing: share of the pairs that are taken to be the wrong way round (conservative DPO).
    """
    better, worse = chosen - reference_chosen, rejected - reference_rejected
    margins = beta * (better - worse)
    losses = -(1 - label_smoothing) * F.logsigmoid(margins) - label_smoothing * F.logsigmoid(-margins)
    return Preferences(losses, margins.detach(), (0.5 * (better + worse)).abs().detach())
