"""Heads that share a key as rows of one product: where they are laid, and that nothing but time depends on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.model.config import tiny
from minicpm_o.runtime import rows
from minicpm_o.runtime.engine import Engine
from minicpm_o.runtime.rows import Rows, goes_by_rows, num_rows
from tests.runtime.test_speculate import same_caches, tiny_engine

CONFIG = replace(tiny().language, context_tokens=64)


@pytest.fixture(scope="module", params=[("llama", 4, 4), ("llama", 6, 2), ("qwen2", 4, 1), ("qwen3", 4, 2)],
                ids=lambda param: "-".join(map(str, param)))
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    kind, heads, kv_heads = request.param
    config = replace(CONFIG, kind=kind, heads=heads, kv_heads=kv_heads)
    return tiny_engine(tmp_path_factory.mktemp("tiny"), config, bits=8)


def read(engine: Engine, pieces: list[int], embeds: np.ndarray) -> list[np.ndarray]:
    """Hidden states, keys and values of embeds, read in pieces of so many tokens."""
    cache = engine.new_cache(8)
    hidden, start = [], 0
    for piece in pieces:
        hidden.append(engine.prefill(embeds[start : start + piece], cache).hidden)
        start += piece
    return [np.concatenate(hidden), *(array[:, :, : cache.length] for array in cache.arrays)]


def test_rows_of_two_tokens_written_out() -> None:
    """4 heads over 2 of keys and values; heads of a token: queries 0 to 3, keys 4 and 5, values 6 and 7."""
    laid = Rows.of(2, replace(CONFIG, heads=4, kv_heads=2))
    np.testing.assert_array_equal(laid.tokens, [0, 1, 0, 1])
    np.testing.assert_array_equal(laid.taken[0], [[0, 2, 4, 5, 6, 7], [8, 10, 12, 13, 14, 15],
                                                  [1, 3, 4, 5, 6, 7], [9, 11, 12, 13, 14, 15]])
    np.testing.assert_array_equal(laid.given[0], [[0, 4, 1, 5], [2, 6, 3, 7]])


def test_a_head_alone_with_its_key_gets_a_row_more() -> None:
    laid = Rows.of(1, replace(CONFIG, heads=2, kv_heads=2))
    np.testing.assert_array_equal(laid.taken[0], [[0, 1, 2, 3, 4, 5]] * 2)
    np.testing.assert_array_equal(laid.given[0], [[0, 1]])


@pytest.mark.parametrize("pieces", [[5, *[1] * 19], [5, 3, 1, 8, 2, 4, 1], [5, 8, 8, 3]])
def test_the_same_bit_by_bit_however_tokens_are_cut(engine: Engine, pieces: list[int], monkeypatch: pytest.MonkeyPatch
                                                    ) -> None:
    embeds = np.random.default_rng(4).normal(0, 0.5, (sum(pieces), engine.config.width)).astype(np.float32)
    built = read(engine, [5, 19], embeds)  # too long for rows
    for far in (0, 1000):
        monkeypatch.setattr(rows, "FAR_TOKENS", far)
        for one, other in zip(built, read(engine, pieces, embeds), strict=True):
            np.testing.assert_array_equal(one, other)


def test_far_runs_of_several_are_single_steps(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "FAR_TOKENS", 0)
    ids = [int(token_id) for token_id in np.random.default_rng(5).integers(0, engine.config.vocab_size, 12)]
    caches = [engine.new_cache(8) for _ in range(2)]
    for cache in caches:
        engine.prefill(engine.embed(ids[:7]), cache)
    single = [engine.decode(token_id, caches[0]) for token_id in ids[7:]]
    for one, other in zip(single, engine.verify(ids[7:], caches[1]), strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
    assert same_caches(*caches)


def test_which_runs_are_short(tmp_path: Path) -> None:
    config = replace(CONFIG, heads=6, kv_heads=2, context_tokens=2000)
    cache = tiny_engine(tmp_path, config, bits=8).new_cache()
    assert not goes_by_rows(1, cache, config), "the first of all"
    cache.length = 5
    assert goes_by_rows(1, cache, config) and not goes_by_rows(2, cache, config)
    cache.length = rows.FAR_TOKENS
    assert goes_by_rows(rows.MOST_BY_ROWS, cache, config) and not goes_by_rows(rows.MOST_BY_ROWS + 1, cache, config)
    cache.length = 2000 - num_rows(1, config)
    assert goes_by_rows(1, cache, config) and not goes_by_rows(2, cache, config)
    cache.length += 1
    assert not goes_by_rows(1, cache, config)
