"""Reading ahead never changes an answer: on nano, on tiny random graphs, and wherever an answer may end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpm_o import ImagePart, Message, MiniCPMO, TextPart
from minicpm_o.checkpoints.graphs.language import build_language
from minicpm_o.model.config import LanguageConfig, tiny
from minicpm_o.runtime.cache import KVCache
from minicpm_o.runtime.device import DevicePlan
from minicpm_o.runtime.engine import Embeddings, Engine, Step, open_steady
from minicpm_o.runtime.events import GenerationEnd
from minicpm_o.runtime.generate import generate
from minicpm_o.runtime.run_times import RUN_COSTS, RunTimes
from minicpm_o.runtime.sampling import SamplingConfig
from minicpm_o.runtime.speculate import (
    MOST_DRAFTED,
    PROOF_TOKENS,
    REST_TOKENS,
    Guess,
    PromptLookup,
    Speculator,
    best_length,
)
from tests.runtime.test_engine import random_weights

CONFIG = replace(tiny().language, context_tokens=96)
PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())
PROMPTS = (
    "Give me a reason to plant trees.",
    "Copy this list:\n- a red apple\n- a green pear\n- a red apple\n- a green pear",
    "Write the numbers from 1 to 15.",
    "def add(a, b):\n    return a + b\n\nWrite this function for three numbers.",
    "写一个句子。",
    "Say hello.",
)


class Letters:
    """A tokenizer whose token is one letter."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(0x4E00 + token_id) for token_id in ids)


class Oracle:
    """Drafts what plain decoding said, with some of it wrong: token `at` of the answer whenever at % wrong_every is 0.
    """

    def __init__(self, num_prompt: int, said: Sequence[int], wrong_every: int = 0) -> None:
        self.num_prompt, self.said, self.wrong_every = num_prompt, said, wrong_every
        self.learned: list[tuple[int, int]] = []

    def draft(self, ids: Sequence[int], states: Sequence[np.ndarray], most: int) -> list[Guess]:
        start = len(ids) - self.num_prompt
        assert list(ids[self.num_prompt :]) == list(self.said[:start]), "drafts are asked for behind the answer so far"
        return [Guess(self._guess(at), 0.99) for at in range(start, min(len(self.said), start + most))]

    def _guess(self, at: int) -> int:
        is_wrong = self.wrong_every and at % self.wrong_every == 0
        return (self.said[at] + 1) % CONFIG.vocab_size if is_wrong else self.said[at]

    def learn(self, guesses: Sequence[Guess], num_right: int) -> None:
        self.learned.append((len(guesses), num_right))


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return tiny_engine(tmp_path_factory.mktemp("tiny"), replace(CONFIG, kind=request.param), bits=8)


def weights_of_any_kind(config: LanguageConfig) -> dict[str, np.ndarray]:
    """Random, with the biases of Qwen2 and the norms of Qwen3."""
    weights = random_weights(config)
    rng = np.random.default_rng(1)
    for layer in range(config.layers):
        name = f"model.layers.{layer}.self_attn"
        for part, heads in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads)):
            weights[f"{name}.{part}_proj.bias"] = rng.normal(0, 0.3, heads * config.head_width).astype(np.float32)
            weights[f"{name}.{part}_norm.weight"] = np.ones(config.head_width, np.float32)
    return weights


def tiny_engine(folder: Path, config: LanguageConfig, bits: int | None) -> Engine:
    """A random model; 16 numbers share a scale, as its matrices are narrow."""
    weights = weights_of_any_kind(config)
    build_language(weights, config, layer_bits=bits, head_bits=bits, block_size=16, folder=folder)
    table = weights["model.embed_tokens.weight"]
    scales = (np.abs(table).max(1, keepdims=True) / 127).astype(np.float16)
    rounded = np.rint(table / scales.astype(np.float32)).clip(-127, 127).astype(np.int8)
    made = Engine(open_steady(folder / "language.onnx", PLAN), config, Embeddings(rounded, scales))
    made.run_times = RunTimes(learning_rate=0.0)  # how long drafts are must not hang on the clock
    return made


def prompt(count: int = 20, seed: int = 2) -> list[int]:
    return [int(token_id) for token_id in np.random.default_rng(seed).integers(0, CONFIG.vocab_size, count)]


def answer(engine: Engine, ids: Sequence[int], drafter: Any = None, cancel_after: int | None = None,
           **options: Any) -> tuple[GenerationEnd, KVCache, Speculator | None, list[int]]:
    """The end of an answer, its cache, who read ahead, and the cache's length at every token."""
    cache = engine.new_cache(32)
    first = engine.prefill(engine.embed(ids), cache)
    ahead = None
    if drafter is not None:
        ahead = Speculator(engine, [drafter], list(ids), list(first.hidden), options.get("max_tokens", 256))
    cancel, lengths = threading.Event(), []
    end = None
    for event in generate(ahead or engine, cache, first, Letters(), cancel=cancel, **options):
        if isinstance(event, GenerationEnd):
            end = event
            continue
        lengths.append(cache.length)
        if len(lengths) == cancel_after:
            cancel.set()
    assert end is not None
    return end, cache, ahead, lengths


def same_caches(one: KVCache, other: KVCache) -> bool:
    return one.length == other.length and all(
        np.array_equal(mine[:, :, : one.length], theirs[:, :, : one.length])
        for mine, theirs in zip(one.arrays, other.arrays, strict=True))


@pytest.fixture(autouse=True)
def proven(request: pytest.FixtureRequest) -> None:
    """Tiny engines need no proof again in every test; that they pass it is a test of its own."""
    if "engine" in request.fixturenames:
        tiny_one: Engine = request.getfixturevalue("engine")
        tiny_one.is_exact = True


# --- the graph --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_a_run_of_several_is_single_steps_bit_by_bit(engine: Engine, count: int) -> None:
    caches = [engine.new_cache(8) for _ in range(2)]
    for cache in caches:
        engine.prefill(engine.embed(prompt()), cache)
    ids = prompt(count, seed=3)
    single = [engine.decode(token_id, caches[0]) for token_id in ids]
    together = engine.verify(ids, caches[1])
    assert len(together) == count
    for one, other in zip(single, together, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.hidden, other.hidden)
    assert same_caches(*caches)


def test_proof_sees_another_rounding(engine: Engine) -> None:
    cache = engine.new_cache()
    engine.prefill(engine.embed(prompt()), cache)
    ids = prompt(PROOF_TOKENS, seed=4)
    steps = [engine.decode(token_id, cache) for token_id in ids]
    assert engine.prove(ids, steps, cache) and cache.length == 20 + PROOF_TOKENS
    off = Step(np.nextafter(steps[2].logits, np.float32(9)), steps[2].hidden)
    assert not engine.prove(ids, [*steps[:2], off, *steps[3:]], cache)
    assert engine.is_exact is False


def test_a_graph_that_rounds_otherwise_is_never_run_ahead(engine: Engine) -> None:
    engine.is_exact = False
    plain, _, _, _ = answer(engine, prompt(), max_tokens=20)
    _, _, ahead, _ = answer(engine, prompt(), Oracle(20, plain.token_ids), max_tokens=20)
    assert ahead is not None and ahead.tally.drafted == 0


# --- where an answer may end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong_every", [0, 1, 2, 3, 7])
def test_same_answer_and_cache_however_wrong_the_draft(engine: Engine, wrong_every: int) -> None:
    plain, cache, _, lengths = answer(engine, prompt(), max_tokens=40)
    oracle = Oracle(20, plain.token_ids, wrong_every)
    end, other, ahead, other_lengths = answer(engine, prompt(), oracle, max_tokens=40)
    assert (end, other_lengths) == (plain, lengths) and same_caches(cache, other)
    assert ahead is not None
    if wrong_every == 0:
        assert ahead.tally.runs <= 1 + 40 // (1 + MOST_DRAFTED) and ahead.tally.accepted == ahead.tally.drafted
    if wrong_every == 1:
        assert ahead.tally.accepted == 0 and ahead.tally.runs == 39
    assert all(right <= made for made, right in oracle.learned) and oracle.learned


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_longest_answer_inside_a_draft(engine: Engine, max_tokens: int) -> None:
    said = answer(engine, prompt(), max_tokens=40)[0].token_ids
    plain, cache, _, _ = answer(engine, prompt(), max_tokens=max_tokens)
    end, other, ahead, _ = answer(engine, prompt(), Oracle(20, said), max_tokens=max_tokens)
    assert end == plain and end.finish_reason == "length" and same_caches(cache, other)
    assert ahead is not None and ahead.tally.drafted <= max(0, max_tokens - 2), "what cannot be said was read"


@pytest.mark.parametrize("at", [3, 4, 5, 9])
def test_end_and_stop_string_inside_a_draft(engine: Engine, at: int) -> None:
    said = answer(engine, prompt(), max_tokens=40)[0].token_ids
    for options in ({"eos_ids": [said[at]]}, {"stop": [Letters().decode(said[at : at + 2])]}):
        plain, cache, _, _ = answer(engine, prompt(), max_tokens=40, **options)
        end, other, _, _ = answer(engine, prompt(), Oracle(20, said), max_tokens=40, **options)
        assert plain.finish_reason != "length", "the answer has to end early for this test"
        assert end == plain and same_caches(cache, other)


@pytest.mark.parametrize("after", [1, 2, 5])
def test_cancelled_inside_a_draft(engine: Engine, after: int) -> None:
    said = answer(engine, prompt(), max_tokens=40)[0].token_ids
    plain, cache, _, _ = answer(engine, prompt(), cancel_after=after, max_tokens=40)
    end, other, _, _ = answer(engine, prompt(), Oracle(20, said), cancel_after=after, max_tokens=40)
    assert end == plain and end.finish_reason == "cancelled" and same_caches(cache, other)


@pytest.mark.parametrize("wrong_every", [0, 3])
def test_end_of_the_window(engine: Engine, wrong_every: int) -> None:
    ids = prompt(CONFIG.context_tokens - 11)
    plain, cache, _, _ = answer(engine, ids, max_tokens=40)
    end, other, _, _ = answer(engine, ids, Oracle(len(ids), plain.token_ids, wrong_every), max_tokens=40)
    assert end == plain and end.finish_reason == "length" and len(end.token_ids) == 12
    assert same_caches(cache, other) and cache.length == CONFIG.context_tokens


def test_drawn_answers_are_the_same_too(engine: Engine) -> None:
    sampling = SamplingConfig(temperature=1.5, repetition_penalty=1.2, seed=5)
    plain, cache, _, _ = answer(engine, prompt(), sampling=sampling, max_tokens=30)
    oracle = Oracle(20, plain.token_ids, wrong_every=4)
    end, other, ahead, _ = answer(engine, prompt(), oracle, sampling=sampling, max_tokens=30)
    assert end == plain and same_caches(cache, other) and ahead is not None and ahead.tally.accepted > 10


def test_in_company_nothing_is_drafted_for_a_while(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, cache, _, _ = answer(engine, prompt(), max_tokens=30)
    asked: list[int] = []
    monkeypatch.setattr(type(engine), "verify", lambda self, ids, cache: asked.append(len(ids)) or [
        self.decode(ids[0], cache)])
    end, other, ahead, _ = answer(engine, prompt(), Oracle(20, plain.token_ids), max_tokens=30)
    assert end == plain and same_caches(cache, other) and ahead is not None and ahead.tally.drafted == 0
    assert len(asked) == -(-29 // (1 + REST_TOKENS)), "guesses were made although they are not read"


def test_the_cache_goes_on_as_after_plain_decoding(engine: Engine) -> None:
    said = answer(engine, prompt(), max_tokens=20)[0].token_ids
    _, cache, _, _ = answer(engine, prompt(), max_tokens=13)
    _, other, _, _ = answer(engine, prompt(), Oracle(20, said, 3), max_tokens=13)
    more = engine.embed(prompt(9, seed=8))
    np.testing.assert_array_equal(engine.prefill(more, cache).logits, engine.prefill(more, other).logits)


# --- nano ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(model: MiniCPMO) -> Any:
    """Answers without and with reading ahead, on fresh caches."""
    def ask(messages: Any, **options: Any) -> list[Any]:
        replies = []
        for model.speculate in (False, True):
            model.forget()
            replies.append(model.chat(messages, **options))
        return [(reply.text, reply.finish_reason, reply.usage) for reply in replies]

    yield ask
    model.speculate = True


@pytest.mark.parametrize("words", PROMPTS)
def test_nano_says_the_same(both: Any, words: str) -> None:
    plain, ahead = both(words, max_tokens=60)
    assert plain == ahead and plain[0]


def test_nano_says_the_same_of_a_picture(both: Any, samples: Path) -> None:
    picture = [Message("user", (ImagePart(samples / "photo.jpg"), TextPart("What is in the picture?")))]
    plain, ahead = both(picture, max_tokens=40)
    assert plain == ahead and plain[0]
    plain, ahead = both(picture, max_tokens=30, temperature=1.0, seed=3, stop=["."])
    assert plain == ahead


def test_nano_is_exact_and_guesses_right_now_and_then(model: MiniCPMO, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Speculator] = []
    speculating = type(model)._speculating
    monkeypatch.setattr(type(model), "_speculating",
                        lambda *given: made.append(speculating(*given)) or made[-1])
    model.chat("Write the numbers from 1 to 20, separated by commas.", max_tokens=60)
    assert model.parts.engine.is_exact, "a run of several tokens rounds otherwise on this processor"
    tally = made[-1].tally
    assert 0 < tally.accepted <= tally.drafted and tally.runs < 50


# --- drafts -------------------------------------------------------------------------------------------------------


def test_lookup_takes_the_longest_match_and_the_latest_place() -> None:
    drafter, nothing = PromptLookup(), [np.zeros(1)]
    ids = [1, 2, 3, 9, 9, 2, 3, 4, 5, 1, 2, 3]
    assert [guess.token_id for guess in drafter.draft(ids, nothing, 2)] == [9, 9], "1 2 3 stood before 9"
    assert [guess.token_id for guess in drafter.draft([*ids, 7, 2, 3], nothing, 1)] == [7], "2 3 stood before 7 last"
    assert drafter.draft([*ids, 7, 2, 3, 8], nothing, 3) == []


def test_lookup_learns_how_often_it_is_right() -> None:
    drafter, nothing = PromptLookup(), [np.zeros(1)]
    ids = [1, 2, 3, 4, 1, 2]
    before = drafter.draft(ids, nothing, 2)
    for _ in range(20):
        drafter.learn(before, 0)
    (after, _) = drafter.draft(ids, nothing, 2)
    assert after.probability < before[0].probability / 2


@pytest.mark.parametrize(("chances", "length"), [((), 0), ((0.1,), 0), ((0.9,), 1), ((0.9, 0.05, 0.05), 1),
                                                ((1.0,) * 20, MOST_DRAFTED)])
def test_as_many_guesses_as_pay(chances: Sequence[float], length: int) -> None:
    count, rate = best_length([Guess(1, chance) for chance in chances], RUN_COSTS)
    assert count == length
    assert rate == pytest.approx((1 + sum(np.cumprod(chances[:length]))) / RUN_COSTS[length])


def test_where_longer_runs_are_cheap_more_is_read() -> None:
    guesses = [Guess(1, 0.6)] * 7
    short, _ = best_length(guesses, [1 + 0.5 * place for place in range(8)])
    long, _ = best_length(guesses, [1 + 0.02 * place for place in range(8)])
    assert short < 2 and long > 5


def test_drafting_that_costs_more_than_it_gives_is_left() -> None:
    assert best_length([Guess(1, 0.5)], RUN_COSTS, draft_cost=0.5)[1] < 1
