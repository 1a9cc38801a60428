"""What the stages' feeds have in common: a mixture behind them, and the count of what could not be used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..errors import InputError
from .examples import Example
from .trainee import Trainee

NAMED_SKIPS = 5
"""Skipped samples that are named in the log; all are counted."""
_LOG = logging.getLogger("minicpm_o")


class Draws(Protocol):
    """Where the examples come from; `data.mixture.Mixture` is one."""

    def draw(self, step: int) -> Sequence[Sequence[Example]]:
        """This rank's examples of the step by micro-batch."""
        ...

    def state(self) -> dict[str, Any]: ...

    def load(self, state: Mapping[str, Any]) -> None: ...

    def counts(self) -> Mapping[str, int]: ...


class StageFeed:
    """Base of a stage's feed: the mixture's examples, laid out. What cannot be used is skipped, named and counted."""

    def __init__(self, trainee: Trainee, data: Draws) -> None:
        self.trainee, self.data = trainee, data
        self._skipped: Counter[str] = Counter()

    def step(self, step: int) -> list[Any]:
        """This rank's micro-batches."""
        return [self.micro(examples, step, number) for number, examples in enumerate(self.data.draw(step))]

    def micro(self, examples: Sequence[Example], step: int = 0, number: int = 0) -> Any:
        """The examples laid out; number: place in the step."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {"data": self.data.state(), "skipped": dict(self._skipped)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.data.load(state["data"])
        self._skipped = Counter(state["skipped"])

    def counts(self) -> dict[str, int]:
        """The mixture's, and the samples that this rank skipped, by task."""
        return {**self.data.counts(), **{f"skipped {task}": count for task, count in sorted(self._skipped.items())}}

    def skip(self, example: Example, error: InputError) -> None:
        """Count a sample that is not used, and name the first few."""
        self._skipped[example.task] += 1
        if sum(self._skipped.values()) <= NAMED_SKIPS:
            _LOG.warning("skipped %s (%s): %s", example.name or "a sample without a name", example.task, error)
