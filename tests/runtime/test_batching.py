"""Several conversations in one run of the language model: alone is together, and nobody waits for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.api import MiniCPMO
from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.runtime.batching import Ask, Combiner, SharedEngine, open_together
from minicpm_o.runtime.cache import KVCache
from minicpm_o.runtime.engine import Step

PROMPTS = ("Tell me about the sea.", "Name three colours.", "What is a fox?", "How do birds fly?")


@pytest.fixture(scope="module")
def shared(nano: Path) -> MiniCPMO:
    model = MiniCPMO.from_pretrained(str(nano), threads=2)
    assert model.share(2)
    return model


@pytest.mark.parametrize("slots", [2, 3])
def test_alone_is_together(model: MiniCPMO, slots: int) -> None:
    engine, bundle = model.parts.engine, model.parts.bundle
    together = SharedEngine(engine.session, engine.config, engine.embeddings,
                            open_together(bundle.path("language.onnx"), model.plan, slots), slots)
    ids = [model.parts.tokenizer.encode(prompt) for prompt in PROMPTS[:slots]]
    caches, twins = ([engine.new_cache(16) for _ in range(slots)] for _ in range(2))
    for prompt, cache, twin in zip(ids, caches, twins, strict=True):
        engine.prefill(engine.embed(prompt), cache)
        engine.prefill(engine.embed(prompt), twin)
    for step in range(30):  # long enough for the caches to grow on the way
        tokens = [100 + 7 * step + slot for slot in range(slots)]
        used = slots - (step % 2)  # now and then a slot stands empty
        for cache in caches[:used]:
            cache.make_room(1)
        asks = [Ask(token, cache) for token, cache in zip(tokens[:used], caches[:used], strict=True)]
        together._answer(asks) if used > 1 else together.decode(tokens[0], caches[0])
        for ask, token, twin in zip(asks, tokens, twins, strict=False):
            alone = engine.decode(token, twin)
            if ask.steps:
                assert np.abs(ask.steps[0].logits - alone.logits).max() < 2e-3 * np.abs(alone.logits).max()
                assert ask.steps[0].hidden.shape == alone.hidden.shape
        assert [cache.length for cache in caches[:used]] == [twin.length for twin in twins[:used]]


def test_threads_are_answered_as_each_alone(model: MiniCPMO, shared: MiniCPMO) -> None:
    wanted = {prompt: model.chat(prompt, max_tokens=40).text for prompt in PROMPTS}
    found: dict[str, str] = {}
    threads = [threading.Thread(target=lambda prompt=prompt: found.update({
        prompt: shared.chat(prompt, max_tokens=40).text})) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    # a run of two rounds otherwise than a run of one, so that a word of many may differ; never the first ones
    assert all(found[prompt][:16] == wanted[prompt][:16] for prompt in PROMPTS)
    assert shared.parts.engine.runs_together > 20


def test_one_alone_never_shares(shared: MiniCPMO) -> None:
    time.sleep(0.2)
    before = shared.parts.engine.runs_together
    assert shared.chat("Hello.", max_tokens=10).text and shared.parts.engine.runs_together == before


def test_drafts_are_read_alone_and_left_in_company(shared: MiniCPMO) -> None:
    engine = shared.parts.engine
    prompts = [engine.embed(shared.parts.tokenizer.encode(prompt)) for prompt in PROMPTS[:2]]
    caches = [engine.new_cache(64) for _ in prompts]
    for prompt, cache in zip(prompts, caches, strict=True):
        engine.prefill(prompt, cache)
    starts = [cache.length for cache in caches]
    time.sleep(0.2)  # nobody is at it any more
    alone = engine.verify([100, 200, 300], caches[0])
    assert len(alone) == 3 and caches[0].length == starts[0] + 3
    caches[0].truncate(starts[0])
    asks = [Ask(100, caches[0], (200, 300)), Ask(400, caches[1], (500,))]
    engine._answer(asks)
    assert [len(ask.steps) for ask in asks] == [1, 1]
    assert [cache.length for cache in caches] == [start + 1 for start in starts]
    np.testing.assert_allclose(asks[0].steps[0].logits, alone[0].logits, atol=1e-3 * np.abs(alone[0].logits).max())


def test_in_a_full_window_each_is_answered_alone(shared: MiniCPMO) -> None:
    engine = shared.parts.engine
    caches = [engine.new_cache(16) for _ in range(2)]
    for cache in caches:
        engine.prefill(engine.embed([5, 6, 7]), cache)
    caches[0].limit = 4  # room for one token more, and for no row of zeros behind it
    asks = [Ask(100, cache) for cache in caches]
    before = engine.runs_together
    engine._answer(asks)
    assert engine.runs_together == before and [cache.length for cache in caches] == [4, 4]
    assert all(len(ask.steps) == 1 for ask in asks)


class Log:
    """Answers after a moment, and notes who was answered together."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, asks: Sequence[Ask]) -> None:
        time.sleep(0.002)
        self.batches.append(len(asks))
        for ask in asks:
            if ask.token_id < 0:
                raise KeyError("no such token")
            ask.steps = [Step(np.array([ask.token_id]), np.zeros((1, 1)))]


def asked(combine: Combiner, token_ids: Sequence[int]) -> list[int]:
    cache = KVCache([], 10)
    return [int(combine(Ask(token_id, cache))[0].logits[0]) for token_id in token_ids]


def test_those_who_ask_at_once_are_answered_at_once() -> None:
    log = Log()
    combine = Combiner(log, 2)
    found: dict[int, list[int]] = {}
    threads = [threading.Thread(target=lambda base=base: found.update({
        base: asked(combine, range(base, base + 50))})) for base in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert all(found[base] == list(range(base, base + 50)) for base in (0, 100, 200))
    assert sum(log.batches) == 150 and max(log.batches) == 2 and log.batches.count(2) > 40


def test_a_failure_is_told_to_those_it_met_and_nobody_hangs() -> None:
    combine = Combiner(Log(), 2)
    with pytest.raises(KeyError):
        asked(combine, [-1])
    assert asked(combine, [5]) == [5]


def test_what_cannot_be_shared_is_said(nano: Path, tmp_path: Path, model: MiniCPMO) -> None:
    (tmp_path / "language.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match="several conversations"):
        open_together(tmp_path / "language.onnx", model.plan, 2)
    with pytest.raises(OptionError, match="slots"):
        model.parts.share(0)
