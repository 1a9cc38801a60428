"""What a generation yields: pieces of text, then one end. Knows nothing of how they are made or shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FinishReason = Literal["stop", "stop_string", "length", "cancelled"]
"""stop: the model ended its turn; stop_string: a string of the caller came up; length: max_tokens or the context
window ran out; cancelled: the caller asked to stop."""


@dataclass(frozen=True)
class TextDelta:
    """The text that one more token made certain."""

    text: str
    """Whole characters only; empty while a character or a possible stop string is still open."""
    token_id: int | None
    """The token just sampled; None for text that was held back and is let go at the end."""


@dataclass(frozen=True)
class GenerationEnd:
    """The last event of a generation."""

    finish_reason: FinishReason
    token_ids: tuple[int, ...]
    """Every sampled token but the one that ended the turn. The cache holds all of them but the last: a token enters
    the cache only when the token after it is asked for."""
    text: str
    """All deltas joined."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


Event: TypeAlias = "TextDelta | GenerationEnd"
