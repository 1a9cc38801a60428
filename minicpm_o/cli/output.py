"""What the verbs print: answers on stdout, everything else on stderr; with --json one object on stdout."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..api import ReplyUsage
    from ..runtime.timing import Timing


def report(text: str, *, model: str | None, usage: ReplyUsage | None = None, timing: Timing | None = None,
           **more: Any) -> dict[str, Any]:
    """The object that --json prints: the same four keys for every verb, then what the verb adds."""
    return {
        "text": text,
        "model": model,
        "usage": dataclasses.asdict(usage) if usage else {},
        "timing": {name: _rounded(value) for name, value in dataclasses.asdict(timing).items()} if timing else {},
        **more,
    }


def one_line(error: BaseException) -> str:
    """The error's text as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def print_json(value: dict[str, Any]) -> None:
    """Exactly one object on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """One line on stderr: progress, notes, errors."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """A piece of an answer on stdout, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def nothing_else_on_stdout(active: bool) -> Iterator[None]:
    """While active, whatever libraries print goes to stderr, so that stdout holds the one object alone."""
    if not active:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def summary(usage: ReplyUsage, timing: Timing, model: str, threads: int) -> str:
    """One line about an answer: what went in and out, and how fast."""
    kinds = [f"{count} {kind}" for kind in ("text", "image", "audio", "video") if (count := getattr(usage, kind))]
    pieces = [f"{model}, {threads} threads", f"{' + '.join(kinds)} tokens in, {usage.output} out"]
    pieces += [f"{label} {value:.2f} {unit}" for label, value, unit in (
        ("load", timing.load_s, "s"), ("first word", timing.ttft_s, "s"), ("total", timing.total_s, "s")) if value]
    pieces += [f"{timing.tokens_per_s:.0f} tokens/s"] if timing.tokens_per_s else []
    pieces += [f"peak {timing.peak_rss_mb:.0f} MB"] if timing.peak_rss_mb else []
    return " · ".join(pieces)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
