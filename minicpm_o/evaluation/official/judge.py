"""What judged benchmarks share: a judge that grades answers, and the strict reading of their jsonl files.

A judge is a language model behind a URL (`endpoint.Endpoint`), or a list of fixed replies. It gives a text or raises
EndpointError; what the text means is each benchmark's own rule. Knows no benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from minicpm_o.errors import EndpointError, InputError
from minicpm_o.evaluation.rows import Row

Message = Mapping[str, str]
"""`role` and `content`, as OpenAI has them."""


class Judge(Protocol):
    """Grades an answer in words."""

    def __call__(self, messages: Sequence[Message], *, temperature: float, max_tokens: int) -> str: ...


# --- fixed replies ----------------------------------------------------------------------------------------------


class FixedJudge:
    """Gives its replies in order and remembers what it was asked; for tests and for replies recorded before."""

    def __init__(self, replies: Iterable[str]) -> None:
        self._replies = list(replies)
        self.requests: list[dict[str, Any]] = []

    def __call__(self, messages: Sequence[Message], *, temperature: float, max_tokens: int) -> str:
        """The next reply. Raises EndpointError when there are no more."""
        if len(self.requests) == len(self._replies):
            raise EndpointError(f"the fixed judge has {len(self._replies)} replies and was asked once more; "
                             f"give it a reply for every question that has no review yet")
        self.requests.append({"messages": [dict(message) for message in messages], "temperature": temperature,
                              "max_tokens": max_tokens})
        return self._replies[len(self.requests) - 1]


# --- files ------------------------------------------------------------------------------------------------------


def read_lines(path: Path) -> list[bytes]:
    """Lines of a file, without their ends. Raises InputError where it cannot be read."""
    try:
        return path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; give the path of a jsonl file") from error


def read_records(path: Path, limit: int | None = None) -> list[Row]:
    """The first lines of a jsonl file (all without a limit). Raises InputError at the first that is no JSON object.

    Unlike `rows.read_rows` nothing is skipped: these files are paired by line, and the official scripts stop too."""
    return [_record(path, number, line) for number, line in enumerate(read_lines(path)[:limit], start=1)]


def _record(path: Path, number: int, line: bytes) -> Row:
    row = Row(path, number, {})
    if not line.strip():
        raise wrong(row, "the line is blank", "a JSON object", "delete the line")
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise wrong(row, f"not JSON ({error})", "one JSON object a line", "write the line again") from error
    if not isinstance(fields, dict):
        raise wrong(row, f"a JSON {type(fields).__name__}", "a JSON object", "write the line again")
    return Row(path, number, fields)


def needed(row: Row, name: str) -> Any:
    """A field that must be there."""
    if name not in row.fields:
        present = ", ".join(sorted(row.fields)) or "none"
        raise wrong(row, f"no field {name!r} (fields: {present})", f"the field {name!r}", "add it")
    return row.fields[name]


def needed_text(row: Row, name: str) -> str:
    """A field that must be there and be a text; it may be empty, and blanks around it stay."""
    value = needed(row, name)
    if not isinstance(value, str):
        raise wrong(row, f"{name!r} is {value!r}", "a text", "write it as a text; an empty answer is \"\"")
    return value


def wrong(row: Row, came: str, expected: str, advice: str) -> InputError:
    """The error for a row: file, line, what came, what was expected, what to do."""
    shown = came if len(came) <= 200 else f"{came[:197]}..."
    return InputError(f"{row.path.name} line {row.line}: {shown}; expected {expected}; {advice}")
