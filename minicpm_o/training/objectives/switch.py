"""What every objective's section of a recipe has: its weight, and the samples it is for."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Switch(BaseModel, frozen=True, extra="forbid"):
    """An objective that is on; leaving its section out, or writing `null`, turns it off and saves its heads."""

    weight: float = Field(default=1.0, ge=0)
    """Factor of its mean loss in the step's loss."""
    tasks: tuple[str, ...] = ()
    """Tasks of the samples that it takes (`task` of a source); empty: all that have what it needs."""

    def takes(self, task: str) -> bool:
        return not self.tasks or task in self.tasks
