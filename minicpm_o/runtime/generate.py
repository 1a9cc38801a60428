"""Logits and a cache to streamed text. Knows nothing of media, templates or files.

Text leaves token by token, but never half a UTF-8 character and never the beginning of a stop string. When the
context window is full the answer ends with finish reason "length"; nothing that was said is thrown away silently.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..errors import OptionError
from .cache import KVCache
from .constrain import Constraint
from .engine import Step
from .events import Event, FinishReason, GenerationEnd, TextDelta
from .sampling import SamplingConfig, sample, without

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MAX_OPEN_TOKENS = 8
"""A UTF-8 character has at most 4 bytes, thus 4 byte tokens; what stays open longer is not UTF-8 and is let go."""


class Decoder(Protocol):
    """The half of a tokenizer that generation needs."""

    def decode(self, ids: Sequence[int]) -> str: ...


class Generator(Protocol):
    """The half of an engine that generation needs."""

    @property
    def context_tokens(self) -> int: ...

    def decode(self, token_id: int, cache: KVCache) -> Step: ...


@dataclass
class TextStream:
    """Token ids to text that is certain: whole characters only."""

    tokenizer: Decoder
    context: list[int] = field(default_factory=list)
    """The tokens last let go: some tokenizers write a token differently at the start of a text."""
    open: list[int] = field(default_factory=list)

    def push(self, token_id: int) -> str:
        """Text made certain by one more token; "" while a character is open."""
        self.open.append(token_id)
        text = self._text()
        if text.endswith(REPLACEMENT) and len(self.open) < MAX_OPEN_TOKENS:
            return ""
        return self._release(text)

    def flush(self) -> str:
        """The rest at the end, without a character that was cut off."""
        return self._release(self._text().rstrip(REPLACEMENT))

    def _text(self) -> str:
        before = self.tokenizer.decode(self.context)
        return self.tokenizer.decode([*self.context, *self.open])[len(before):]

    def _release(self, text: str) -> str:
        if self.open:
            self.context, self.open = self.open, []
        return text


@dataclass
class StopFilter:
    """Text to text before the first stop string; holds back what may become one."""

    stop: tuple[str, ...]
    held: str = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Text that may go out now, and whether a stop string came up (the rest is then dropped)."""
        self.held += text
        hits = [at for at in (self.held.find(word) for word in self.stop) if at >= 0]
        cut = min(hits) if hits else len(self.held) - self._open_length()
        out, self.held = self.held[:cut], "" if hits else self.held[cut:]
        return out, bool(hits)

    def flush(self) -> str:
        out, self.held = self.held, ""
        return out

    def _open_length(self) -> int:
        """Length of the longest tail that begins a stop string."""
        longest = max((len(word) for word in self.stop), default=1) - 1
        tails = (self.held[-size:] for size in range(min(longest, len(self.held)), 0, -1))
        return next((len(tail) for tail in tails if any(word.startswith(tail) for word in self.stop)), 0)


def generate(
    engine: Generator,
    cache: KVCache,
    first: Step,
    tokenizer: Decoder,
    *,
    sampling: SamplingConfig | None = None,
    max_tokens: int = 256,
    stop: Sequence[str] = (),
    eos_ids: Collection[int] = (),
    banned_ids: Collection[int] = (),
    cancel: threading.Event | None = None,
    constraint: Constraint | None = None,
) -> Iterator[Event]:
    """Answer token by token: TextDelta for every token, then one GenerationEnd.

    cache holds the prompt and `first` is the step that ended its prefill; the cache grows as tokens are decoded and
    stays usable when the iterator is dropped. banned_ids are never sampled (media markers). The repetition penalty
    counts the answer alone, so that words of the question may be used. cancel is looked at before every token.
    constraint: a grammar that the answer is held to. Raises OptionError at once for options out of range.
    """
    words = checked_stop(max_tokens, stop)
    banned = np.fromiter(banned_ids, dtype=np.int64)
    return _generate(engine, cache, first, TextStream(tokenizer), StopFilter(words), sampling or SamplingConfig(),
                     max_tokens, frozenset(eos_ids), banned, cancel or threading.Event(), constraint)


def checked_stop(max_tokens: int, stop: Sequence[str]) -> tuple[str, ...]:
    """The stop strings as a tuple. Raises OptionError where they or max_tokens cannot be used."""
    if max_tokens < 1:
        raise OptionError(f"max_tokens is {max_tokens}; it must be 1 or more")
    words = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(word, str) and word for word in words):
        raise OptionError(f"stop is {stop!r}; it must be a list of texts, none of them empty")
    return words


def _generate(engine: Generator, cache: KVCache, step: Step, stream: TextStream, stops: StopFilter,
              sampling: SamplingConfig, max_tokens: int, eos_ids: frozenset[int], banned: np.ndarray,
              cancel: threading.Event, constraint: Constraint | None) -> Iterator[Event]:
    rng = sampling.rng()
    ids: list[int] = []
    pieces: list[str] = []
    reason: FinishReason | None = None
    while reason is None:
        if cancel.is_set():
            reason = "cancelled"
            break
        logits = without(step.logits, banned)
        token_id = sample(logits if constraint is None else constraint.mask(logits), ids, sampling, rng)
        if token_id in eos_ids:
            reason = "stop"
            break
        if constraint is not None:
            constraint.accept(token_id)
        ids.append(token_id)
        text, stopped = stops.push(stream.push(token_id))
        pieces.append(text)
        yield TextDelta(text, token_id)
        if stopped:
            reason = "stop_string"
        elif len(ids) >= max_tokens or cache.length >= engine.context_tokens:
            reason = "length"
        else:
            step = engine.decode(token_id, cache) if not cancel.is_set() else step
    if reason != "stop_string":
        text, stopped = stops.push(stream.flush())
        text += "" if stopped else stops.flush()
        reason = "stop_string" if stopped else reason
        pieces.append(text)
        if text:
            yield TextDelta(text, None)
    yield GenerationEnd(reason, tuple(ids), "".join(pieces))
