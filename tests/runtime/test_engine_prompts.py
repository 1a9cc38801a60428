"""An engine with a graph of its own for prompts: the rest of an answer is as without, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.bundle import PROMPTS_FILE, Bundle, describe_files
from minicpm_o.checkpoints.graphs.prompts import build_prompts
from minicpm_o.errors import ContextFullError
from minicpm_o.model.config import LanguageConfig, tiny
from minicpm_o.runtime.batching import SharedEngine
from minicpm_o.runtime.device import make_session
from minicpm_o.runtime.engine import Engine, open_steady
from minicpm_o.runtime.rows import MOST_BY_ROWS, num_rows
from tests.runtime.test_engine import PLAN, random_weights
from tests.runtime.test_speculate import prompt, same_caches, tiny_engine, weights_of_any_kind

CONFIG = replace(tiny().language, heads=4, kv_heads=2, context_tokens=64)


def with_prompts(folder: Path, config: LanguageConfig, plain: Engine) -> Engine:
    """plain's engine, whose files lie in folder, with a graph for prompts."""
    build_prompts(weights_of_any_kind(config), config, bits=4, block_size=16, folder=folder)
    session = open_steady(folder / "language.onnx", PLAN, by_rows_alone=True)
    prompts = make_session(folder / PROMPTS_FILE, PLAN, kind="language")
    return Engine(session, config, plain.embeddings, prompts)


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Engine]:
    """Without and with."""
    folder, config = tmp_path_factory.mktemp("tiny"), replace(CONFIG, kind=request.param)
    plain = tiny_engine(folder, config, bits=4)
    return plain, with_prompts(folder, config, plain)


def test_a_prompt_is_nearly_the_same(engines: tuple[Engine, Engine]) -> None:
    ids = prompt(40)
    steps, caches = [], []
    for engine in engines:
        caches.append(engine.new_cache(16))
        steps.append(engine.prefill(engine.embed(ids), caches[-1]))
    plain, quick = steps
    assert plain.hidden.shape == quick.hidden.shape and plain.logits.shape == quick.logits.shape
    assert caches[0].length == caches[1].length == 40
    difference = np.abs(plain.hidden - quick.hidden)
    assert 0 < difference.mean() < 0.08 * plain.hidden.std(), "rounded by rows, and no further off than that"
    for array, again in zip(caches[0].arrays, caches[1].arrays, strict=True):
        one, other = array[:, :, :40], again[:, :, :40]
        assert np.abs(one - other).mean() < 0.08 * one.std()


def test_what_follows_is_the_same_bit_by_bit(engines: tuple[Engine, Engine]) -> None:
    """Single tokens and short runs behind the same prompt, and the very first token."""
    plain, quick = engines
    caches = [plain.new_cache(16)]
    plain.prefill(plain.embed(prompt(12)), caches[0])
    caches.append(caches[0].copy())
    for token_id in prompt(5, seed=3):
        one, other = (engine.decode(token_id, cache) for engine, cache in zip(engines, caches, strict=True))
        np.testing.assert_array_equal(one.logits, other.logits)
    ids = prompt(MOST_BY_ROWS, seed=4)
    single = [plain.decode(token_id, caches[0]) for token_id in ids]
    for expected, found in zip(single, quick.verify(ids, caches[1]), strict=True):
        np.testing.assert_array_equal(expected.logits, found.logits)
    assert same_caches(*caches)
    first, second = (engine.prefill(engine.embed([7]), engine.new_cache(4)) for engine in engines)
    np.testing.assert_array_equal(first.logits, second.logits)


def test_the_last_token_is_read_by_the_language_graph(engines: tuple[Engine, Engine]) -> None:
    _, quick = engines
    ids = prompt(30)
    whole, cut = quick.new_cache(64), quick.new_cache(64)
    step = quick.prefill(quick.embed(ids), whole)
    chunks = list(quick.prefill_chunks(quick.embed(ids[:29]), cut))
    cut.truncate(29)
    last = quick.decode(ids[29], cut)
    assert len(chunks) == 1
    assert np.abs(step.logits - last.logits).max() < 0.1 * step.logits.std(), "token 29 was read by another graph"


def test_chunks_that_more_follows_have_no_logits(engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
                                                 ) -> None:
    _, quick = engines
    embeds = quick.embed(prompt(40))
    whole, cut = quick.new_cache(64), quick.new_cache(64)
    expected = quick.prefill(embeds, whole)
    monkeypatch.setattr(Engine, "chunk_tokens", 15)
    chunks = list(quick.prefill_chunks(embeds, cut))
    assert [chunk.logits.shape for chunk in chunks] == [(0,), (0,), expected.logits.shape]
    hidden = np.concatenate([chunk.hidden for chunk in chunks])
    assert np.abs(hidden - expected.hidden).max() < 0.05 * hidden.std(), "tokens are rounded one by one"
    np.testing.assert_allclose(chunks[-1].logits, expected.logits, atol=0.05 * expected.logits.std())


def test_the_window_ends_where_a_step_has_no_room(engines: tuple[Engine, Engine]) -> None:
    _, quick = engines
    spare = num_rows(1, quick.config) - 1
    assert quick.context_tokens == quick.config.context_tokens - spare
    cache = quick.new_cache()
    with pytest.raises(ContextFullError):
        quick.prefill(quick.embed(prompt(quick.context_tokens + 1)), cache)
    assert cache.length == 0
    quick.prefill(quick.embed(prompt(quick.context_tokens - 3)), cache)
    assert len(quick.verify(prompt(3), cache.copy())) == 2, "rows of two tokens fit"
    for token_id in prompt(3):
        assert np.isfinite(quick.decode(token_id, cache).logits).all()
    assert cache.length == quick.context_tokens
    for ask in (lambda: quick.decode(5, cache), lambda: quick.verify([5], cache)):
        with pytest.raises(ContextFullError):
            ask()


def test_drafts_behind_nothing_are_read_one_by_one(engines: tuple[Engine, Engine]) -> None:
    _, quick = engines
    assert len(quick.verify(prompt(4), quick.new_cache())) == 1


def test_a_bundle_is_opened_with_it_alone_and_for_several(tmp_path: Path) -> None:
    from minicpm_o.checkpoints.embeddings import write_embeddings

    plain = tiny_engine(tmp_path, CONFIG, bits=4)
    expected = with_prompts(tmp_path, CONFIG, plain)
    weights = random_weights(CONFIG)
    write_embeddings(weights, "model.embed_tokens.weight", (CONFIG.vocab_size, CONFIG.width),
                     tmp_path / "embeddings.safetensors")
    bundle = Bundle(tmp_path, "tiny", replace(tiny(), language=CONFIG), {}, describe_files(tmp_path), parts={})
    alone, shared = Engine.from_bundle(bundle, PLAN), SharedEngine.from_bundle(bundle, PLAN, 2)
    ids = prompt(30)
    want = expected.prefill(expected.embed(ids), expected.new_cache()).hidden
    for engine in (alone, shared):
        assert engine.prompts is not None and engine.context_tokens == CONFIG.context_tokens - 1
        cache = engine.new_cache()
        np.testing.assert_array_equal(engine.prefill(engine.embed(ids), cache).hidden, want)
    caches = [shared.new_cache() for _ in range(2)]
    steps = [shared.prefill(shared.embed(ids[:20]), cache) for cache in caches]
    together = shared.decode_many([5, 6], caches)
    single = alone.new_cache()
    alone.prefill(alone.embed(ids[:20]), single)
    np.testing.assert_array_equal(together[0].logits, alone.decode(5, single).logits)
    assert steps[0].logits.shape == together[0].logits.shape
