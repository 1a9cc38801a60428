"""Server-sent events as OpenAI's clients read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"


def data(value: Mapping[str, Any]) -> bytes:
    """One event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def comment(text: str) -> bytes:
    """What clients skip; keeps the connection open."""
    return f": {text}\n\n".encode()
