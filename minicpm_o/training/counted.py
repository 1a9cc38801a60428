"""Counts of what was drawn, which a run that goes on takes along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any


class Counted:
    """Base of what draws samples; its draws follow from the step, so that the counts are all there is to keep."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def state(self) -> dict[str, Any]:
        return {"counts": dict(self._counts)}

    def load(self, state: Mapping[str, Any]) -> None:
        self._counts = Counter(state["counts"])

    def counts(self) -> dict[str, int]:
        """So far, by name."""
        return dict(sorted(self._counts.items()))
