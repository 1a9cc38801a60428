"""Beam search: finds what greedy decoding misses, on copies of the cache, under the same limits."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from minicpm_o.errors import OptionError
from minicpm_o.model.config import tiny
from minicpm_o.runtime import beam as beam_module
from minicpm_o.runtime.beam import BeamConfig, search
from minicpm_o.runtime.cache import KVCache
from minicpm_o.runtime.engine import Step
from minicpm_o.runtime.events import GenerationEnd, TextDelta
from minicpm_o.runtime.sampling import SamplingConfig

END, BANNED, PROMPT = 0, 1, (2, 3)
LETTERS = {2: "p", 3: "q", 4: "a", 5: "b", 6: "c", 7: "d"}
CHANCES: dict[tuple[int, ...], dict[int, float]] = {
    (): {4: 0.5, 5: 0.4, BANNED: 0.1},  # "a" is likelier first, but nothing likely follows it
    (4,): {4: 0.35, 5: 0.28, 6: 0.27, END: 0.1},
    (5,): {6: 0.95, END: 0.05},
    (5, 6): {END: 0.9, 7: 0.1},
}
"""What follows an answer so far; anything else ends for certain."""


@dataclass
class Tree:
    """A language model that reads its own tokens back from the cache: a wrong cache gives a wrong answer."""

    context_tokens: int = 64
    chances: dict[tuple[int, ...], dict[int, float]] = field(default_factory=lambda: CHANCES)
    read: list[tuple[int, ...]] = field(default_factory=list)

    def decode(self, token_id: int, cache: KVCache) -> Step:
        cache.make_room(1)
        cache.arrays[0][0, 0, cache.length, 0] = token_id
        cache.length += 1
        return self.think(cache)

    def think(self, cache: KVCache) -> Step:
        held = tuple(int(v) for v in cache.arrays[0][0, 0, : cache.length, 0])
        assert held[: len(PROMPT)] == PROMPT
        self.read.append(held[len(PROMPT) :])
        logits = np.full(8, -60.0)
        for token, chance in self.chances.get(held[len(PROMPT) :], {END: 1.0}).items():
            logits[token] = np.log(chance)
        return Step(logits, np.zeros((1, 1)))


class Letters:
    def decode(self, ids) -> str:
        return "".join(LETTERS[i] for i in ids)


def ask(config: BeamConfig | None = None, tree: Tree | None = None, **options):
    config, tree = config or BeamConfig(3, 0.0), tree or Tree()
    cache = KVCache.empty(tiny().language, 4)
    for token in PROMPT:
        step = tree.decode(token, cache) if cache.length else _first(cache, token)
    options = {"eos_ids": (END,), "banned_ids": (BANNED,), **options}
    events = list(search(tree, cache, step, Letters(), config, **options))
    assert cache.length == len(PROMPT), "the prompt's cache is left as it was"
    assert all(event.text == "" and event.token_id is not None for event in events[:-2])
    assert isinstance(events[-2], TextDelta) and isinstance(events[-1], GenerationEnd)
    assert events[-2].text == events[-1].text
    return events[-1]


def _first(cache: KVCache, token: int) -> None:
    cache.arrays[0][0, 0, 0, 0] = token
    cache.length = 1


def test_the_likeliest_whole_wins_over_the_likeliest_first_word() -> None:
    assert ask(BeamConfig(1, 0.0)).text == "aa"  # greedy
    assert ask(BeamConfig(3, 0.0)) == GenerationEnd("stop", (5, 6), "bc")


def test_a_length_penalty_favours_longer_answers() -> None:
    assert BeamConfig(length_penalty=1.0).score(-4.0, 4) == -1.0
    assert BeamConfig(length_penalty=0.0).score(-4.0, 4) == -4.0
    chances = {(): {END: 0.45, 5: 0.5, 7: 0.05}, (5,): {6: 0.95, 7: 0.05}, (5, 6): {END: 0.8, 7: 0.2}}
    assert ask(BeamConfig(2, 0.0), Tree(chances=chances)).text == "", "0.45 for nothing, 0.38 for all of it"
    assert ask(BeamConfig(2, 1.0), Tree(chances=chances)).text == "bc", "0.45 a token for nothing, 0.72 for all of it"


def test_every_beam_reads_its_own_words() -> None:
    tree = Tree()
    ask(BeamConfig(4, 1.0), tree)
    assert all(held in CHANCES or held[:-1] in CHANCES for held in tree.read), tree.read


def test_nothing_but_ends_ends_the_search() -> None:
    chances = {(): {4: 0.5, 5: 0.5}, (4,): {END: 0.7, BANNED: 0.3}, (5,): {END: 0.6, BANNED: 0.4}}
    found = ask(BeamConfig(2, 0.0), Tree(chances=chances), eos_ids=(END, BANNED), banned_ids=())
    assert found == GenerationEnd("stop", (4,), "a")


def test_limits_hold() -> None:
    assert ask(max_tokens=1) == GenerationEnd("length", (4,), "a")
    assert ask(tree=Tree(context_tokens=len(PROMPT) + 1)).finish_reason == "length"
    cancel = threading.Event()
    cancel.set()
    assert ask(cancel=cancel) == GenerationEnd("cancelled", (), "")
    assert ask(stop=["c"]) == GenerationEnd("stop_string", (5, 6), "b")


@pytest.mark.parametrize("options", [{"num_beams": 0}, {"num_beams": 17}, {"num_beams": 1.5}, {"length_penalty": -1.0}])
def test_options_out_of_range_are_named(options) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        BeamConfig(**options)
    with pytest.raises(OptionError, match="max_tokens"):
        search(Tree(), KVCache.empty(tiny().language, 4), None, Letters(), max_tokens=0)


def test_a_tail_is_taken_over_from_a_cache_with_the_same_beginning() -> None:
    one, other = (KVCache.empty(tiny().language, 4) for _ in range(2))
    tree = Tree()
    for cache in (one, other):
        _first(cache, PROMPT[0])
        tree.decode(PROMPT[1], cache)
    for token in (4, 5, 6, 7):
        tree.decode(token, other)
    one.take_tail(other, len(PROMPT))
    assert one.length == other.length
    for mine, theirs in zip(one.arrays, other.arrays, strict=True):
        np.testing.assert_array_equal(mine[:, :, : one.length], theirs[:, :, : other.length])
    with pytest.raises(OptionError, match="must hold the 9 common tokens"):
        one.take_tail(other, 9)


def test_sampled_beams_follow_their_seed_and_their_filters() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    beam = beam_module._Beam((), 0.0, None, logits)  # type: ignore[arg-type]
    nobody = np.empty(0, np.int64)

    def drawn(sampling: SamplingConfig) -> list[int]:
        return [child.token_id for child in beam_module._children([beam], nobody, 2, sampling, sampling.rng(), 2)]

    first = {tuple(drawn(SamplingConfig(temperature=1.0, seed=seed))) for seed in range(40)}
    assert len(first) > 3, "forty seeds drew nearly the same"
    assert drawn(SamplingConfig(temperature=1.0, seed=7)) == drawn(SamplingConfig(temperature=1.0, seed=7))
    for seed in range(40):
        assert set(drawn(SamplingConfig(temperature=1.0, top_k=2, seed=seed))) == {0, 1}
        assert set(drawn(SamplingConfig(temperature=1.0, top_p=0.6, seed=seed))) == {0, 1}


def test_beams_without_a_temperature_heed_the_repetition_penalty() -> None:
    logits = np.log(np.array([0.5, 0.4, 0.1], np.float32))
    said = beam_module._Beam((0,), 0.0, None, logits)  # type: ignore[arg-type]
    plain, strict = (beam_module._children([said], np.empty(0, np.int64), 1, sampling, sampling.rng(), 2)[0].token_id
                     for sampling in (SamplingConfig(), SamplingConfig(repetition_penalty=2.0)))
    assert (plain, strict) == (0, 1)
