"""What a live session tells: values, in the order in which they happen. Knows nothing of sockets.

Times in ms from the session's first sample; N samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np


@dataclass(frozen=True)
class SpeechStarted:
    """The user began to speak."""

    at_ms: float
    turn_id: str = ""
    """Name of the message that is being said."""


@dataclass(frozen=True)
class SpeechStopped:
    """The user's turn has ended; what was said goes to the model."""

    at_ms: float
    turn_id: str = ""


@dataclass(frozen=True)
class Listening:
    """The model decided to listen (one unit of full duplex)."""

    unit: int = 0


@dataclass(frozen=True)
class Speaking:
    """The model begins to speak by itself or in answer. reason: "turn", "rule" or "model"."""

    reason: str
    note: str = ""
    """Which rule, in the user's words."""


@dataclass(frozen=True)
class Lagging:
    """Computing could not keep up: so many seconds of sound were left out."""

    seconds: int


@dataclass(frozen=True)
class Heard:
    """What the user said, in writing."""

    text: str


@dataclass(frozen=True)
class Called:
    """The answer is no words but the call of a function, as JSON."""

    text: str


@dataclass(frozen=True)
class TextPiece:
    """More words of the answer."""

    text: str


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """More sound of the answer."""

    waveform: np.ndarray
    """(N,) float32 in [-1, 1]."""
    rate_hz: int
    text: str
    """The words of the clause that begins here; none where it goes on."""
    rest_ms: float = 0.0
    """Of the same clause, still to come, about."""

    @property
    def ms(self) -> float:
        return 1000 * len(self.waveform) / self.rate_hz


@dataclass(frozen=True)
class TurnEnded:
    """The answer is complete."""

    text: str
    reason: str
    """The finish reason of the language model, or "interrupted"."""
    usage: Any = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Interrupted:
    """The user spoke into the answer: what was not played is forgotten."""

    played_ms: float
    kept_text: str
    """The part of the answer that was heard, as the history keeps it."""


LiveEvent: TypeAlias = ("SpeechStarted | SpeechStopped | Listening | Speaking | Lagging | Heard | Called | "
                        "TextPiece | AudioChunk | TurnEnded | Interrupted")
