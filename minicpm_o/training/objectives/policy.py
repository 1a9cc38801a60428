"""Group relative policy optimisation: answers to one prompt are compared with each other, and the better ones become
likelier, not too far from where they came.

Shapes: B answers, G answers of a prompt, T tokens. Sources: GRPO (arXiv:2402.03300), equations 3 and 4; the k3
estimator of the divergence (Schulman 2020); GSPO (arXiv:2507.18071) for ratios of whole answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """Losses of B answers."""

    losses: Tensor
    """(B,), each the mean over its tokens."""
    kl: Tensor
    """(B,) mean divergence from the reference by token."""
    clipped: Tensor
    """(B,) share of the tokens whose ratio was cut."""


def advantages(rewards: Tensor, group: int, *, epsilon: float = 1e-4) -> Tensor:
    """rewards (B,), G of a prompt after each other -> (B,): how much better than its group, in its spread.

    A group whose answers are equally good teaches nothing. Raises ValueError unless B is a multiple of G.
    """
    if rewards.numel() % group:
        raise ValueError(f"{rewards.numel()} rewards do not make groups of {group}")
    grouped = rewards.reshape(-1, group).float()
    centred = grouped - grouped.mean(1, keepdim=True)
    return (centred / (grouped.std(1, unbiased=False, keepdim=True) + epsilon)).reshape(-1)


def grpo(logp: Tensor, old_logp: Tensor, reference_logp: Tensor, mask: Tensor, advantage: Tensor, *,
         clip: float = 0.2, kl_weight: float = 0.04, by_sequence: bool = False) -> PolicyLoss:
    """Log-probabilities (B, T) of the answers' tokens now, when they were drawn, and under the reference; mask (B, T)
    of the tokens that were drawn; advantage (B,).

    by_sequence: one ratio for a whole answer, its tokens' geometric mean.
    """
    length = mask.sum(1).clamp(min=1)
    change = (logp - old_logp) * mask
    if by_sequence:
        change = (change.sum(1) / length)[:, None].expand_as(logp)
    ratio = change.exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratio * advantage[:, None], bounded * advantage[:, None])
    away = (reference_logp - logp) * mask
    kl = away.exp() - away - 1  # k3: never negative, no bias
    losses = -((gain - kl_weight * kl) * mask).sum(1) / length
    return PolicyLoss(losses, ((kl * mask).sum(1) / length).detach(),
                      (((ratio != bounded) & mask.bool()).sum(1) / length).detach())
