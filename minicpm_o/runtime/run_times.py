"""What runs of a language model over several tokens take here, learned while they are run.

How much dearer a longer run is depends on the processor, on the model and on what else the machine does; how many
tokens to guess depends on that. Nothing else does: whatever is read ahead, answers are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RUN_COSTS = (1.0, 1.2, 1.31, 1.44, 1.56, 1.68, 1.8, 1.92)
"""Time of a run over 1, 2, ... tokens, of one over 1, before anything was run: nano in 8 bits on two cores
(docs/log.md). Larger models, which wait for memory, pay less for the further ones."""
LEARNING_RATE = 0.1
"""Of the logarithm of what a run was off by."""
MOST_OFF = 1.5
"""A run that took more than so many times what was foreseen was most likely disturbed; it counts as this."""


@dataclass
class RunTimes:
    """Running estimates; shared by all answers of an engine."""

    learning_rate: float = LEARNING_RATE
    """0 keeps to the table."""
    step_s: float | None = None
    """Of a run over one token; None until there was a run."""
    costs: list[float] = field(default_factory=lambda: list(RUN_COSTS))
    """Of runs over 1, 2, ... tokens, in single steps; never less for more tokens."""

    def heard(self, num_tokens: int, seconds: float) -> None:
        """A run took so long: as much is learned of how quick the machine is now as of runs of this length."""
        if num_tokens > len(self.costs) or seconds <= 0.0:
            return
        cost = self.costs[num_tokens - 1]
        if self.step_s is None:
            self.step_s = seconds / cost
        off = min(MOST_OFF, max(1 / MOST_OFF, seconds / (self.step_s * cost))) ** self.learning_rate
        self.step_s *= off
        if num_tokens > 1:
            self.costs[num_tokens - 1] = cost * off
            self._keep_order(num_tokens - 1)

    def in_steps(self, seconds: float) -> float:
        """A time in single steps; 0 when none is known yet."""
        return seconds / self.step_s if self.step_s and self.learning_rate else 0.0

    def _keep_order(self, changed: int) -> None:
        """Runs nobody made lately go along with the one that was made."""
        cost = self.costs[changed]
        for place, other in enumerate(self.costs):
            self.costs[place] = max(1.0, min(other, cost) if place < changed else max(other, cost))
