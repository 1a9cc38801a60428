"""What a stage gives the engine: a module that makes loss terms of micro-batches, and a feed that brings them.

A term is a sum and what to divide it by, so that a step's loss is the same however its samples are spread over
micro-batches and ranks: sum of all sums by sum of all counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from ..model.omni import OmniModel


@dataclass(frozen=True)
class Term:
    """A loss summed over `count` items of a micro-batch."""

    total: Tensor
    """Scalar with a gradient."""
    count: float
    parts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """For the log: sum and count by task or source, where one objective serves several."""


class Objective(nn.Module):
    """Base of what the engine trains: a model and what is laid over it for training alone.

    `forward(micro)` gives the terms by name; everything runs inside it, so that sharding and reduction see one module.
    """

    weights: Mapping[str, float] = {}
    """Weight of each term in the loss; 1 where it is not named."""

    def forward(self, micro: Any) -> dict[str, Term]:
        raise NotImplementedError

    def counts(self, micro: Any) -> dict[str, float]:
        """Counts of the terms that forward will give, told beforehand: they are summed over the step first."""
        raise NotImplementedError

    def num_tokens(self, micro: Any) -> int:
        """Tokens of the micro-batch, for tokens/s."""
        raise NotImplementedError

    def blocks(self) -> Sequence[nn.Module]:
        """Modules that are sharded and recomputed one by one: layers of decoder and encoders."""
        return ()

    def trainable(self, step: int, steps: int) -> Sequence[str] | None:
        """Beginnings of the names of the parameters that learn in this step of so many; None: all that can.

        What the recipe froze for good stays frozen. Where this changes from one step to the next, the others get no
        update, not even by weight decay.
        """
        return None

    def after_step(self, step: int) -> Mapping[str, float]:
        """Called after each optimiser step; what it returns joins the log (KL, reward, ...)."""
        return {}

    def to_micro(self, micro: Any, device: Any) -> Any:
        """The micro-batch on the device."""
        return micro


class Feed(Protocol):
    """Where a rank's micro-batches come from. What a step gets follows from seed, step, rank and state alone."""

    def step(self, step: int) -> Sequence[Any]:
        """This rank's micro-batches of the step, as many on every rank."""
        ...

    def state(self) -> dict[str, Any]:
        """JSON that `load` goes on from, as of the last step given."""
        ...

    def load(self, state: Mapping[str, Any]) -> None: ...

    def counts(self) -> Mapping[str, int]:
        """Samples given so far, and those skipped, by source: all ranks'."""
        ...


def model_blocks(model: OmniModel) -> list[nn.Module]:
    """What is sharded piece by piece: the language model's layers, and each tower whole, as ranks see different numbers
    of pictures and sounds."""
    towers = (model.vision, model.hearing)
    return [*model.decoder.model.layers, *(tower for tower in towers if tower is not None)]


def seed_of(*numbers: int) -> int:
    """A seed that belongs to these numbers: run, step, rank."""
    return int(hashlib.sha256("/".join(map(str, numbers)).encode()).hexdigest()[:12], 16)
