"""What judged benchmarks share: a judge that grades answers, and the strict reading of their jsonl files.

A judge is a language model behind any URL that speaks OpenAI's chat completions, or a list of fixed replies. It gives a
text or raises JudgeError; what the text means is each benchmark's own rule. Knows no benchmark.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from minicpm_o.errors import InputError
from minicpm_o.evaluation.rows import Row

Message = Mapping[str, str]
"""`role` and `content`, as OpenAI has them."""

MAX_REPLY_BYTES = 10_000_000
MAX_PAUSE_SECONDS = 60.0
WORTH_ANOTHER_TRY = frozenset({408, 409, 425, 429})
"""HTTP statuses below 500 that pass by themselves; the others mean that the request itself is wrong."""


class JudgeError(InputError):
    """The judge gave no usable reply; the text says what came, how often it was asked, and what to check."""


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
        """The next reply. Raises JudgeError when there are no more."""
        if len(self.requests) == len(self._replies):
            raise JudgeError(f"the fixed judge has {len(self._replies)} replies and was asked once more; "
                             f"give it a reply for every question that has no review yet")
        self.requests.append({"messages": [dict(message) for message in messages], "temperature": temperature,
                              "max_tokens": max_tokens})
        return self._replies[len(self.requests) - 1]


# --- a judge behind a URL ---------------------------------------------------------------------------------------


class _Failed(Exception):
    """One try that failed, and whether another may help."""

    def __init__(self, kind: str, detail: str, retry: bool = True, wait_seconds: float = 0.0) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.retry = retry
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class EndpointJudge:
    """A model behind an OpenAI-compatible URL, asked again with growing pauses where that may help."""

    base_url: str
    """Without the last part: https://host/v1."""
    model: str
    api_key: str = field(default="", repr=False)
    timeout_seconds: float = 120.0
    """Longest silence of the server."""
    tries: int = 4
    pause_seconds: float = 2.0
    """Before the second try; doubles with each further one."""
    troubles: Counter[str] = field(default_factory=Counter, compare=False)
    """How many tries failed so far, by kind; those that a later try made good are counted too."""

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise InputError(f"the judge's base_url is {self.base_url!r}; expected http(s)://host/v1")
        if self.tries < 1 or self.timeout_seconds <= 0:
            raise InputError(f"the judge has {self.tries} tries of {self.timeout_seconds} s; both must be positive")
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise InputError("the judge's api_key holds a line end or other signs that no key has; copy it again")

    def __call__(self, messages: Sequence[Message], *, temperature: float, max_tokens: int) -> str:
        """The model's reply. Raises JudgeError after the last try."""
        body = {"model": self.model, "messages": [dict(message) for message in messages],
                "temperature": temperature, "max_tokens": max_tokens}
        failures: list[_Failed] = []
        while not failures or (failures[-1].retry and len(failures) < self.tries):
            if failures:
                self._pause(failures)
            try:
                return _content(self._post(json.dumps(body).encode()))
            except _Failed as failure:
                failures.append(failure)
                self.troubles[failure.kind] += 1
        raise JudgeError(self._told(failures))

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "minicpm-o"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = Request(f"{self.base_url.rstrip('/')}/chat/completions", data=body, headers=headers)
        try:
            with urlopen(request, timeout=self.timeout_seconds) as reply:
                content: bytes = reply.read(MAX_REPLY_BYTES)
                return content
        except HTTPError as error:
            raise _status_failure(error) from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._connection_failure(error) from error

    def _connection_failure(self, error: Exception) -> _Failed:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            return _Failed("time-out", f"nothing came for {self.timeout_seconds:g} s")
        return _Failed("no connection", str(reason) or type(reason).__name__)

    def _pause(self, failures: Sequence[_Failed]) -> None:
        wanted = max(self.pause_seconds * 2.0 ** (len(failures) - 1), failures[-1].wait_seconds)
        time.sleep(min(wanted, MAX_PAUSE_SECONDS))

    def _told(self, failures: Sequence[_Failed]) -> str:
        kinds = Counter(failure.kind for failure in failures)
        counted = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
        return (f"the judge {self.model!r} at {self.base_url} gave no usable reply in {len(failures)} "
                f"{'try' if len(failures) == 1 else 'tries'} ({counted}); the last: {failures[-1]}; "
                f"check the URL, the model's name and the key, or allow more time")


def _status_failure(error: HTTPError) -> _Failed:
    with error:
        try:
            detail = error.read(500).decode("utf-8", errors="replace").strip()
        except (OSError, HTTPException):
            detail = ""  # the status alone says enough
    wait = error.headers.get("Retry-After", "") if error.headers else ""
    return _Failed(f"status {error.code}", detail or str(error.reason),
                   retry=error.code >= 500 or error.code in WORTH_ANOTHER_TRY,
                   wait_seconds=float(wait) if wait.isdecimal() else 0.0)


def _content(reply: bytes) -> str:
    """The text of a chat completion."""
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        shown = reply[:80].decode("utf-8", errors="replace")
        raise _Failed("garbage", f"expected a chat completion, got {shown!r}") from error
    if not isinstance(content, str):
        raise _Failed("garbage", f"the message's content is {content!r}; expected a text")
    return content


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
