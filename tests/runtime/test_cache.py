"""The cache as a value: room, cutting back, copies."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.errors import ContextFullError, OptionError
from minicpm_o.model.config import LanguageConfig, tiny
from minicpm_o.runtime.cache import KVCache, cache_bytes

CONFIG = tiny().language


def filled(length: int, capacity: int = 8) -> KVCache:
    cache = KVCache.empty(CONFIG, capacity)
    for i, array in enumerate(cache.arrays):
        array[:, :, :length] = np.random.default_rng(i).normal(size=array[:, :, :length].shape)
    cache.length = length
    return cache


def test_shapes_and_size() -> None:
    cache = KVCache.empty(CONFIG, 8)
    assert [array.shape for array in cache.arrays] == [(1, CONFIG.kv_heads, 8, CONFIG.head_width)] * 2 * CONFIG.layers
    assert cache.nbytes == cache_bytes(CONFIG, 8)
    assert cache_bytes(LanguageConfig(), 512) == 2 * 30 * 3 * 512 * 64 * 4


def test_grow_keeps_contents() -> None:
    cache = filled(5)
    before = [array[:, :, :5].copy() for array in cache.arrays]
    cache.grow(32)
    assert (cache.capacity, cache.length) == (32, 5)
    for old, new in zip(before, cache.arrays, strict=True):
        np.testing.assert_array_equal(new[:, :, :5], old)
    cache.grow(16)
    assert cache.capacity == 32


def test_room_doubles_up_to_the_limit() -> None:
    cache = filled(8)
    cache.make_room(1)
    assert cache.capacity == 16
    cache.make_room(100)
    assert cache.capacity == 108
    cache.make_room(CONFIG.context_tokens - 8)
    assert cache.capacity == CONFIG.context_tokens


def test_no_room_is_said_and_changes_nothing() -> None:
    cache = filled(8)
    with pytest.raises(ContextFullError, match=f"{CONFIG.context_tokens}"):
        cache.make_room(CONFIG.context_tokens - 7)
    with pytest.raises(ContextFullError):
        cache.grow(CONFIG.context_tokens + 1)
    assert (cache.capacity, cache.length) == (8, 8)


def test_copies_are_independent() -> None:
    cache = filled(5)
    twin = cache.copy()
    cache.arrays[0][:] = 7
    cache.truncate(1)
    assert twin.length == 5
    assert twin.arrays[0][0, 0, 0, 0] != 7


@pytest.mark.parametrize("length", [-1, 6])
def test_truncate_refuses_what_is_not_there(length: int) -> None:
    with pytest.raises(OptionError, match="holds 5"):
        filled(5).truncate(length)


@pytest.mark.parametrize("capacity", [0, CONFIG.context_tokens + 1])
def test_capacity_out_of_range(capacity: int) -> None:
    with pytest.raises(OptionError, match="capacity"):
        KVCache.empty(CONFIG, capacity)
