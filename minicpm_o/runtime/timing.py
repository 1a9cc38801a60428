"""What a call cost: seconds on the monotonic clock and megabytes of the process. Knows nothing of models."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..checkpoints.memory_use import peak_rss_mb

__all__ = ["Stopwatch", "Timing", "peak_rss_mb"]


@dataclass(frozen=True)
class Timing:
    """Seconds and memory of one call."""

    load_s: float
    """Opening parts of the model in this call; 0 when all that it needed were open."""
    ttft_s: float | None
    """From the call to its first word, load_s not counted; None when no word came."""
    tokens_per_s: float | None
    """Tokens after the first, by the time from the first to the last; None with fewer than two tokens."""
    total_s: float
    """From the call to its end, load_s counted."""
    peak_rss_mb: float | None
    """Most memory the whole process has held so far, in units of 10^6 bytes; None where the system does not tell."""


@dataclass
class Stopwatch:
    """Takes the times of one call as it goes on; the clock starts when it is made."""

    started: float = field(default_factory=time.perf_counter)
    first_word: float | None = None
    first: float | None = None
    last: float | None = None
    num_tokens: int = 0

    def token(self) -> None:
        """Note that one token came."""
        self.last = time.perf_counter()
        self.first = self.last if self.first is None else self.first
        self.num_tokens += 1

    def word(self) -> None:
        """Note that text came; only the first time counts."""
        self.first_word = time.perf_counter() if self.first_word is None else self.first_word

    def timing(self, load_s: float) -> Timing:
        """The times until now, of which load_s went into opening parts."""
        total_s = time.perf_counter() - self.started
        ttft_s = None if self.first_word is None else max(0.0, self.first_word - self.started - load_s)
        return Timing(load_s, ttft_s, self._tokens_per_s(), total_s, peak_rss_mb())

    def _tokens_per_s(self) -> float | None:
        if self.first is None or self.last is None or self.last <= self.first:
            return None
        return (self.num_tokens - 1) / (self.last - self.first)
