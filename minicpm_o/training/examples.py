"""One sample as a source gives it: a conversation, and what is known about it beside the words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..inputs.messages import Message


@dataclass(frozen=True)
class Example:
    """A conversation to learn from, before a model has laid it out."""

    messages: tuple[Message, ...]
    task: str = "chat"
    """What the log counts it as."""
    name: str = ""
    """Source and row, for messages."""
    rejected: str | None = None
    """For preferences: the worse answer in place of the last message, which is the better one."""
    speech_codes: tuple[np.ndarray | None, ...] = ()
    """For a checkpoint with a talker: speech tokens (S,) by assistant message, None where it is not spoken."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What a reward looks at: the right answer, reference captions, a wanted format."""
