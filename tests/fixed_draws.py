"""The same examples in every step, in place of a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class Fixed:
    """One micro-batch a step."""

    def __init__(self, examples: Sequence[Any]) -> None:
        self.examples = list(examples)

    def draw(self, step: int) -> list[list[Any]]:
        return [self.examples]

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None: ...

    def counts(self) -> dict[str, int]:
        return {}
