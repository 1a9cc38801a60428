"""A stream without end in a cache with one: whole units leave at the front, the system prompt stays.

Two ways. "basic": when the cache holds more than `high` tokens, the oldest units go until it holds at most `low`.
"context": when there are more than `max_units` units, the oldest goes, but what the model said in it is kept as text,
`prefix · previous: … · suffix · units`, for which that middle part is read again. Kept tokens move up: their keys are
turned to their new positions, what they saw when they were read stays as it was.

Source: StreamDecoder.enforce_window and enforce_window_with_context of MiniCPM-o 4.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from ..errors import OptionError
from ..model.config import LanguageConfig

PREVIOUS_MARKER = "\n\nprevious: "
"""Stands before the kept text; tokenised, it is `Window.marker_ids`."""


class SlidingCache(Protocol):
    """What a cache must do to slide; `KVCache` and `TorchCache` do."""

    @property
    def length(self) -> int: ...

    def cut(self, start: int, stop: int) -> Any: ...

    def paste(self, piece: Any, rope_theta: float) -> None: ...

    def truncate(self, length: int) -> None: ...

    def remove(self, start: int, length: int, rope_theta: float) -> None: ...


class Reader(Protocol):
    """The half of an engine that sliding needs."""

    config: LanguageConfig

    def embed(self, ids: Sequence[int]) -> np.ndarray: ...

    def prefill(self, embeds: np.ndarray, cache: Any) -> Any: ...


@dataclass(frozen=True)
class WindowConfig:
    """When units leave."""

    mode: Literal["off", "basic", "context"] = "off"
    high: int = 8000
    low: int = 6000
    max_units: int = 24
    previous_tokens: int = 500
    """Most tokens of kept text, its marker not counted; the oldest are cut off."""

    def __post_init__(self) -> None:
        if self.mode not in ("off", "basic", "context"):
            raise OptionError(f"the window's mode is {self.mode!r}; expected off, basic or context")
        if not 0 < self.low <= self.high or self.max_units < 1 or self.previous_tokens < 0:
            raise OptionError(f"the window has high {self.high}, low {self.low}, max_units {self.max_units} and "
                              f"previous_tokens {self.previous_tokens}; expected 0 < low <= high and at least 1 unit")


@dataclass(frozen=True)
class Unit:
    """One unit in the cache."""

    number: int
    length: int
    """Tokens in the cache."""
    said: tuple[int, ...] = ()
    """Tokens that the model spoke in it."""


@dataclass
class Window:
    """What lies where in the cache of a stream."""

    config: WindowConfig = field(default_factory=WindowConfig)
    prefix: int = 0
    """Tokens at the front that never leave, without the suffix."""
    suffix_ids: tuple[int, ...] = ()
    """The end of the system prompt, when text may be put before it ("context" only)."""
    marker_ids: tuple[int, ...] = ()
    special: frozenset[int] = frozenset()
    """Ids that are no text."""
    units: list[Unit] = field(default_factory=list)
    previous_ids: tuple[int, ...] = ()
    """Marker and kept text, as they lie in the cache."""

    @property
    def preserved(self) -> int:
        """Tokens before the first unit."""
        return self.prefix + len(self.previous_ids) + len(self.suffix_ids)


def keep_within(window: Window, cache: SlidingCache, engine: Reader) -> bool:
    """Let units leave where the window says so; whether any did. Window and cache change together."""
    if window.config.mode == "basic":
        return _drop_to_low(window, cache, engine.config.rope_theta)
    slid = False
    while window.config.mode == "context" and len(window.units) > window.config.max_units:
        _drop_first_keeping_text(window, cache, engine)
        slid = True
    return slid


def _drop_to_low(window: Window, cache: SlidingCache, rope_theta: float) -> bool:
    if cache.length <= window.config.high:
        return False
    count, length = 0, cache.length
    while count < len(window.units) and length > window.config.low:
        length -= window.units[count].length
        count += 1
    if count:  # all at once: turning keys twice would round twice
        cache.remove(window.preserved, cache.length - length, rope_theta)
        window.units = window.units[count:]
    return bool(count)


def _drop_first_keeping_text(window: Window, cache: SlidingCache, engine: Reader) -> None:
    leaving, window.units = window.units[0], window.units[1:]
    kept = cache.cut(cache.length - sum(unit.length for unit in window.units), cache.length)
    text = [token for token in leaving.said if token not in window.special]
    if text:
        known = window.previous_ids[len(window.marker_ids):]
        limit = window.config.previous_tokens
        window.previous_ids = window.marker_ids + (*known, *text)[max(0, len(known) + len(text) - limit):]
    if window.previous_ids:
        cache.truncate(window.prefix)
        engine.prefill(engine.embed([*window.previous_ids, *window.suffix_ids]), cache)
    else:
        cache.truncate(window.preserved)
    cache.paste(kept, engine.config.rope_theta)
