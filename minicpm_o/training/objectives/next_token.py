"""Next-token loss: each place says the token that follows. Shapes: B batch, T fused tokens, D width, V vocabulary.

Serves every text there is, of answers alone or of all words, as the batch's labels have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...model.omni import OmniModel
from ..rows import NOT_LEARNED, Batch, hidden_states
from ..terms import Term
from .switch import Switch

MAX_LOGITS = 1 << 26
"""Logits held at once, 256 MB in float32: with 150,000 words those of 440 places."""


class NextTokenConfig(Switch, frozen=True):
    """Next token on documents and conversations."""

    learn: Literal["answers", "all"] = "all"
    """Every word, or what an assistant says alone."""


def next_token(model: OmniModel, batch: Batch) -> Term:
    """The loss over every label of the batch; parts by the segments' tasks."""
    wanted = batch.labels != NOT_LEARNED
    losses = token_losses(model.head, hidden_states(model, batch)[wanted], batch.labels[wanted])
    return Term(losses.sum(), len(losses), by_task(batch, wanted, losses.detach()))


def token_losses(head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, *,
                 max_logits: int = MAX_LOGITS) -> Tensor:
    """hidden (N, D), targets (N,) -> cross-entropies (N,) float32.

    The places go through the head in groups whose logits are worked out again on the way back, so that never more than
    max_logits numbers of (N, V) are held.
    """
    if not len(targets):
        return hidden.sum(-1).float()  # no places, but a gradient
    vocabulary = _head_width(head, hidden)
    size = max(1, max_logits // vocabulary)
    if len(targets) <= size:
        return _losses(head, hidden, targets)
    groups = zip(hidden.split(size), targets.split(size), strict=True)
    return torch.cat([checkpoint(_losses, head, *group, use_reentrant=False) for group in groups])


def _losses(head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float(), targets, reduction="none")


def _head_width(head: Callable[[Tensor], Tensor], hidden: Tensor) -> int:
    with torch.no_grad():
        return head(hidden[:1]).shape[-1]


def by_task(batch: Batch, wanted: Tensor, values: Tensor) -> dict[str, tuple[float, float]]:
    """Values (N,) at the wanted (B, T) places, summed and counted by the task of their segment."""
    rows, columns = wanted.nonzero(as_tuple=True)
    segments = batch.segments[rows, columns].tolist()
    names = [batch.rows[row].tasks[segment] for row, segment in zip(rows.tolist(), segments, strict=True)]
    return summed(names, values.tolist())


def summed(names: Sequence[str], values: Sequence[float]) -> dict[str, tuple[float, float]]:
    """Sum and count of the values by name."""
    parts: dict[str, tuple[float, float]] = {}
    for name, value in zip(names, values, strict=True):
        total, count = parts.get(name, (0.0, 0.0))
        parts[name] = (total + value, count + 1)
    return parts
