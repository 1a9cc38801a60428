"""Questions about a stream: when they are asked and answered, and what was said at which second. Knows no models.

What a model says to such a question is kept as JSON, `{"said": [{"time": 7, "content": "three"}]}`, in the order in
which it was said; an empty list is silence. Times in s from the start of the medium.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """When something is asked of a stream, and when it is time to answer."""

    asked_s: float
    due_s: float


@dataclass(frozen=True)
class Utterance:
    """Words, and how much of the stream had gone by when they were said."""

    time_s: float
    content: str


def written(said: Iterable[Utterance]) -> str:
    """What was said, as the text of an answer."""
    rows = [{"time": one.time_s, "content": one.content} for one in said]
    return json.dumps({"said": rows}, ensure_ascii=False)


def utterances(answer: str) -> tuple[Utterance, ...]:
    """What an answer of `written` tells; a text of another form says nothing at any time."""
    try:
        found = json.loads(answer)
    except ValueError:
        return ()
    rows = found.get("said") if isinstance(found, dict) else None
    if not isinstance(rows, list):
        return ()
    return tuple(Utterance(float(row["time"]), row["content"]) for row in rows if _is_utterance(row))


def _is_utterance(row: object) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("time"), int | float) and isinstance(row.get("content"), str)
