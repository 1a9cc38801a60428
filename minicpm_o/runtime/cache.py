"""Keys and values of the tokens already read, in buffers that the language graph writes in place.

Knows nothing of sessions or text. Letters: C capacity in tokens, K head width. One buffer (1, KV heads, C, K) float32
each for the keys and the values of a layer; only the first `length` tokens of it mean anything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import ContextFullError, OptionError
from ..model.config import LanguageConfig

BYTES_PER_NUMBER = 4
"""GroupQueryAttention keeps float32 keys and values on a CPU."""


def cache_bytes(config: LanguageConfig, capacity: int) -> int:
    """Memory of a cache for `capacity` tokens."""
    return 2 * config.layers * config.kv_heads * capacity * config.head_width * BYTES_PER_NUMBER


class BaseCache(ABC):
    """What any memory of the tokens already read refuses, and does in terms of the rest."""

    length: int
    """Tokens held."""
    limit: int
    """Most tokens that it may grow to: the context window."""

    @abstractmethod
    def truncate(self, length: int) -> None: ...

    @abstractmethod
    def cut(self, start: int, stop: int) -> Any: ...

    @abstractmethod
    def paste(self, piece: Any, rope_theta: float) -> None: ...

    def remove(self, start: int, length: int, rope_theta: float) -> None:
        """Forget tokens in the middle; those after them move up."""
        tail = self.cut(start + length, self.length)
        self.truncate(start)
        self.paste(tail, rope_theta)

    def check_truncate(self, length: int) -> None:
        """Raises OptionError for a length that cannot be cut back to."""
        if not 0 <= length <= self.length:
            raise OptionError(f"cannot cut the cache back to {length} tokens; it holds {self.length}")

    def check_cut(self, start: int, stop: int) -> None:
        """Raises OptionError for tokens that are not held."""
        if not 0 <= start <= stop <= self.length:
            raise OptionError(f"cannot copy tokens {start} to {stop} of a cache that holds {self.length}")

    def check_common(self, other: BaseCache, start: int) -> None:
        """Raises OptionError when either holds less than the common tokens."""
        if self.length < start or other.length < start:
            raise OptionError(f"both caches must hold the {start} common tokens; they hold {self.length} and "
                              f"{other.length}")

    def check_room(self, num_tokens: int) -> None:
        """Raises ContextFullError when so many more tokens will never fit."""
        if self.length + num_tokens > self.limit:
            raise ContextFullError(f"{num_tokens} more tokens do not fit: {self.length} of the context window's "
                                   f"{self.limit} are taken; shorten the conversation or the media")


@dataclass(eq=False)
class KVCache(BaseCache):
    """A conversation's memory: a value that is passed in, grows, and can be cut back or copied."""

    arrays: list[np.ndarray]
    """Key and value of layer 0, of layer 1, ...; each (1, KV heads, C, K)."""
    limit: int
    """Most tokens that it may grow to: the context window."""
    length: int = 0
    """Tokens held."""
    bindings: dict[Any, Any] = field(default_factory=dict, repr=False)
    """The engine's prepared runs over these very buffers, by their kinds; never copied, void after growing."""

    @classmethod
    def empty(cls, config: LanguageConfig, capacity: int) -> KVCache:
        """A cache without tokens. Raises OptionError when capacity is not within 1 and the context window."""
        if not 1 <= capacity <= config.context_tokens:
            raise OptionError(f"capacity is {capacity} tokens; it must be between 1 and {config.context_tokens}")
        shape = (1, config.kv_heads, capacity, config.head_width)
        return cls([np.zeros(shape, np.float32) for _ in range(2 * config.layers)], config.context_tokens)

    @property
    def capacity(self) -> int:
        """Tokens for which there is room now."""
        return int(self.arrays[0].shape[2])

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on; exact, as a position's keys depend on earlier ones alone."""
        self.check_truncate(length)
        self.length = length

    def copy(self) -> KVCache:
        """An independent cache with the same tokens and capacity."""
        twin = KVCache([np.zeros_like(array) for array in self.arrays], self.limit, self.length)
        _move(self.arrays, twin.arrays, self.length)
        return twin

    def take_tail(self, other: KVCache, start: int) -> None:
        """Become equal to another cache that holds the same tokens before `start`; only what follows is copied."""
        self.truncate(min(start, self.length))
        self.check_common(other, start)
        self.make_room(other.length - start)
        for mine, theirs in zip(self.arrays, other.arrays, strict=True):
            mine[:, :, start : other.length] = theirs[:, :, start : other.length]
        self.length = other.length

    def cut(self, start: int, stop: int) -> CacheSlice:
        """A copy of the tokens from position start up to stop; see `paste`."""
        self.check_cut(start, stop)
        return CacheSlice([array[:, :, start:stop].copy() for array in self.arrays], start)

    def paste(self, piece: CacheSlice, rope_theta: float) -> None:
        """Append tokens that were cut at another position: their keys are turned to the positions they get now.

        Exact for a token's own position; what it saw when it was read does not change.
        """
        self.make_room(piece.length)
        stop = self.length + piece.length
        turn = self.length - piece.start
        for index, array in enumerate(self.arrays):
            part = piece.arrays[index]
            array[:, :, self.length : stop] = turn_keys(part, turn, rope_theta) if index % 2 == 0 else part
        self.length = stop

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` tokens, at most the limit; layer by layer, so that little is held twice.

        Raises ContextFullError when capacity exceeds the limit. Never shrinks.
        """
        if capacity > self.limit:
            raise ContextFullError(f"{capacity} tokens do not fit the context window of {self.limit}")
        if capacity <= self.capacity:
            return
        self.bindings.clear()
        for i, old in enumerate(self.arrays):
            new = np.zeros((*old.shape[:2], capacity, old.shape[3]), np.float32)
            new[:, :, : self.length] = old[:, :, : self.length]
            self.arrays[i] = new

    def make_room(self, num_tokens: int) -> None:
        """Grow, by doubling, until `num_tokens` more fit. Raises ContextFullError when they never will."""
        self.check_room(num_tokens)
        needed = self.length + num_tokens
        if needed > self.capacity:
            self.grow(min(self.limit, max(needed, 2 * self.capacity)))


@dataclass(frozen=True)
class CacheSlice:
    """Tokens cut out of a cache: keys and values by layer, and the position of the first."""

    arrays: list[np.ndarray]
    start: int

    @property
    def length(self) -> int:
        return int(self.arrays[0].shape[2])


def turning(turn: int, half: int, rope_theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine (half,) float32 that move rotary positions by `turn`; angles in double precision."""
    angles = turn * rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def turn_keys(keys: np.ndarray, turn: int, rope_theta: float) -> np.ndarray:
    """Keys (..., K) whose rotary positions (arXiv:2104.09864, half by half) move by `turn`; below 0 to the front."""
    if turn == 0:
        return keys
    half = keys.shape[-1] // 2
    cosine, sine = turning(turn, half, rope_theta)
    first, second = keys[..., :half], keys[..., half:]
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def _move(source: list[np.ndarray], target: list[np.ndarray], length: int) -> None:
    for old, new in zip(source, target, strict=True):
        new[:, :, :length] = old[:, :, :length]
