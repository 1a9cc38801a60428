"""The talker's loops over a network of arithmetic, and its sampling by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.model.config import TalkerConfig
from minicpm_o.runtime.filters import seeded_draw
from minicpm_o.runtime.talker import (
    CodeChunk,
    Spoken,
    TalkerSampling,
    TalkerStream,
    code_probabilities,
    conditions,
    embed_codes,
    generate,
    speak_unit,
)

CONFIG = TalkerConfig(llm_width=3, width=2, num_audio_tokens=12, num_text_tokens=20, audio_bos=18, text_eos=19,
                      max_positions=600)
END = CONFIG.audio_eos
PLAIN = TalkerSampling(temperature=1.0, top_p=1.0, top_k=12, repetition_penalty=1.0)


@dataclass
class Cache:
    read: list[tuple[float, float]] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.read)

    def copy(self) -> Cache:
        return Cache(self.read.copy())


class Network:
    """Remembers what it reads; a word's embedding is (id, 0), a speech token's (id, 1)."""

    config = CONFIG

    def __init__(self) -> None:
        self.caches: list[Cache] = []

    def new_cache(self) -> Cache:
        self.caches.append(Cache())
        return self.caches[-1]

    def embed_text(self, ids):
        return np.stack([ids, np.zeros(len(ids))], axis=1).astype(np.float32)

    def embed_codes(self, codes):
        return np.stack([codes, np.ones(len(codes))], axis=1).astype(np.float32)

    def project(self, hidden):
        return hidden[:, :2]

    def run(self, embeds, cache):
        cache.read += [(float(a), float(b)) for a, b in embeds]
        return np.linspace(-1, 1, CONFIG.num_audio_tokens, dtype=np.float32)


def script(*codes):
    rest = list(codes)
    return lambda probabilities: rest.pop(0)


def words(count):
    return np.arange(count), np.zeros((count, 3), np.float32)


def test_conditions_are_words_and_thoughts_of_length_one():
    hidden = np.array([[3, 4, 9], [0, 0, 9]], np.float32)
    got = conditions(Network(), [5, 6], hidden, text_finished=True)
    assert np.allclose(got, [[5.6, 0.8], [6, 0], [CONFIG.text_eos, 0], [CONFIG.audio_bos, 0]])
    assert np.allclose(conditions(Network(), [], np.zeros((0, 3)), text_finished=False), [[CONFIG.audio_bos, 0]])


def test_generate_stops_at_the_end_and_does_not_read_it():
    network = Network()
    embeds = conditions(network, *words(2), text_finished=True)
    assert generate(network, embeds, script(4, 5, END), min_codes=0) == Spoken((4, 5), True)
    assert network.caches[0].read[4:] == [(4, 1), (5, 1)]
    assert generate(network, embeds, script(END), min_codes=0) == Spoken((), True)


def test_generate_drops_the_last_of_a_reply_that_is_cut_short():
    assert generate(Network(), np.ones((1, 2)), script(1, 2, 3), max_codes=3) == Spoken((1, 2), False)


def test_the_end_may_not_come_too_early():
    seen = []

    def draw(probabilities):
        seen.append(probabilities[END] > 0)
        return END if seen[-1] else 1

    assert generate(Network(), np.ones((1, 2)), draw, sampling=PLAIN, min_codes=3) == Spoken((1, 1, 1), True)
    assert seen == [False, False, False, True]


def test_a_stream_gives_full_pieces_and_the_rest_at_the_end():
    network = Network()
    stream = TalkerStream(network, script(1, 2, 3, END, 4, END, 5, END), chunk_codes=2)
    assert list(stream.read(*words(1), text_finished=False)) == [CodeChunk((1, 2), False)]
    assert list(stream.read(*words(1), text_finished=False)) == [CodeChunk((3, 4), False)]
    assert list(stream.read(*words(1), text_finished=True)) == [CodeChunk((5,), True)]
    kinds = [kind for _, kind in stream.cache.read]
    assert kinds == [0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 1]  # every speech token is read, no end is
    assert len(network.caches) == 1


def test_a_stream_that_says_nothing_still_ends():
    stream = TalkerStream(Network(), script(END, END))
    assert list(stream.read(*words(1), text_finished=False)) == []
    assert list(stream.read(*words(1), text_finished=True)) == [CodeChunk((), True)]


def test_a_stream_that_is_cut_short_loses_nothing():
    stream = TalkerStream(Network(), script(1, 2, 3), chunk_codes=2)
    pieces = list(stream.read(*words(1), text_finished=True, max_codes=3))
    assert pieces == [CodeChunk((1, 2), False), CodeChunk((3,), True)]


def test_a_copied_stream_goes_its_own_way():
    stream = TalkerStream(Network(), script(1, END, 2, END, 3, END), chunk_codes=2)
    list(stream.read(*words(1), text_finished=False))
    twin = stream.copy()
    assert list(twin.read(*words(1), text_finished=True)) == [CodeChunk((1, 2), False), CodeChunk((), True)]
    assert list(stream.read(*words(1), text_finished=True)) == [CodeChunk((1, 3), False), CodeChunk((), True)]


def test_a_long_stream_goes_on_in_a_new_cache():
    network = Network()
    stream = TalkerStream(network, lambda probabilities: 1)
    for _ in range(2):
        assert len(list(stream.read(*words(3), text_finished=False))) == 20
    assert [cache.length <= CONFIG.max_positions for cache in network.caches] == [True, True]


def test_units_of_a_turn():
    network, draws = Network(), [*range(11), *range(11), *range(4), *range(11), END]
    draw, embeds = script(*draws), conditions(network, *words(1), text_finished=False)
    first, state = speak_unit(network, embeds, None, draw)
    assert first == Spoken(tuple(draws[:25]), False)
    assert state.cache.length == 2 + 25  # the 26th was not read
    second, state = speak_unit(network, embeds, state, draw, end_of_turn=True)
    assert second == Spoken(tuple(range(11)), True)
    assert state.cache.length == 2 * (2) + 25 + 11


def test_only_the_outer_units_of_a_turn_may_end_early():
    network, seen = Network(), []

    def draw(probabilities):
        seen.append(bool(probabilities[END] > 0))
        return 1

    embeds = conditions(network, *words(1), text_finished=False)
    _, state = speak_unit(network, embeds, None, draw, sampling=PLAIN)
    _, state = speak_unit(network, embeds, state, draw, sampling=PLAIN)
    speak_unit(network, embeds, state, draw, sampling=PLAIN, end_of_turn=True)
    assert seen == [True] * 26 + [False] * 26 + [True] * 26


def test_a_snapshot_of_a_unit_stays_as_it_was():
    network = Network()
    _, state = speak_unit(network, np.ones((1, 2)), None, script(END))
    kept = state.copy()
    speak_unit(network, np.ones((1, 2)), state, script(*[1] * 26))
    assert (kept.cache.length, state.cache.length) == (1, 27)


def test_the_penalty_counts_the_last_sixteen():
    logits = np.array([2.0, -2.0, 0.5, 0.0], np.float32)
    sampling = replace(PLAIN, repetition_penalty=2.0, top_k=4)
    history = [2, *[0] * 2, *[1] * 1, *[3] * 13]  # the 2 is out of the window
    got = code_probabilities(logits, history, sampling, first=False)
    expected = np.exp([2.0 / 4, -2.0 * 2, 0.5, 0.0])
    assert np.allclose(got, expected / expected.sum(), atol=1e-6)


def test_the_filters_keep_three_and_may_be_left_out():
    logits = np.array([9.0, 3.0, 2.0, 1.0, 0.0], np.float32)
    narrow = TalkerSampling(temperature=1.0, top_p=0.1, top_k=1, repetition_penalty=1.0)
    assert (code_probabilities(logits, [0], narrow, first=False) > 0).tolist() == [True] * 3 + [False] * 2
    assert (code_probabilities(logits, [0], narrow, first=False, filters=False) > 0).all()
    assert (code_probabilities(logits, [0], narrow, first=True) > 0).all()


def test_equals_of_the_kth_stay():
    logits = np.array([5.0, 1.0, 1.0, 1.0, 0.0], np.float32)
    sampling = replace(PLAIN, top_k=3)
    assert (code_probabilities(logits, [0], sampling, first=False) > 0).tolist() == [True] * 4 + [False]


def test_draws_follow_the_probabilities_and_the_seed():
    probabilities = np.array([0.0, 0.25, 0.0, 0.75], np.float32)
    draw = seeded_draw(3)
    drawn = [draw(probabilities) for _ in range(4000)]
    again = seeded_draw(3)
    assert drawn[:20] == [again(probabilities) for _ in range(20)]
    assert set(drawn) == {1, 3} and abs(np.mean(np.array(drawn) == 3) - 0.75) < 0.03


def test_bad_input_is_refused_in_words():
    network = Network()
    with pytest.raises(OptionError, match=r"hidden states have shape \(2, 5\); 2 words need \(2, 3\)"):
        conditions(network, [1, 2], np.zeros((2, 5)), text_finished=True)
    with pytest.raises(OptionError, match=r"words must lie within 0 and 19; these span 1 to 20"):
        conditions(network, [1, 20], np.zeros((2, 3)), text_finished=True)
    with pytest.raises(OptionError, match="no speech tokens"):
        embed_codes(network, [])
    with pytest.raises(OptionError, match=r"speech tokens must lie within 0 and 11; these span -1 to -1"):
        embed_codes(network, [-1])
    with pytest.raises(OptionError, match="must be 1 or more"):
        generate(network, np.ones((1, 2)), script(1), max_codes=0)
    with pytest.raises(OptionError, match="temperature"):
        TalkerSampling(temperature=0)
    with pytest.raises(OptionError, match="top_p"):
        TalkerSampling(top_p=0)
    with pytest.raises(CheckpointError, match="finite maximum"):
        code_probabilities(np.full(4, np.nan, np.float32), [], PLAIN, first=True)
