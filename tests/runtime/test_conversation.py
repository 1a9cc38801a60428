"""Prompts into a cache: what is reused, what is encoded, and where runs of media end up."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from minicpm_o.errors import FusionError
from minicpm_o.inputs.processor import AudioMedia, ImageMedia, Media, ModelInputs, Usage
from minicpm_o.model.config import LanguageConfig
from minicpm_o.model.fusion.spans import Span
from minicpm_o.runtime.cache import KVCache
from minicpm_o.runtime.conversation import (
    MAX_IDLE,
    MIN_RUN_TOKENS,
    Conversation,
    Pool,
    content_digest,
    embed,
    prefill,
    prompt_keys,
)
from minicpm_o.runtime.engine import Step

CONFIG = LanguageConfig(vocab_size=50, width=4, layers=1, heads=1, kv_heads=1, head_width=2, context_tokens=64)
PLACEHOLDER = 9


class CountingEngine:
    """Embeds a token as its number and keeps nothing but lengths."""

    def __init__(self) -> None:
        self.read: list[np.ndarray] = []

    def new_cache(self, capacity: int = 8) -> KVCache:
        return KVCache.empty(CONFIG, 8)

    def embed(self, ids: np.ndarray) -> np.ndarray:
        return np.repeat(np.asarray(ids, np.float32)[:, None], 4, axis=1)

    def prefill_chunks(self, embeds: np.ndarray, cache: KVCache) -> Iterator[Step]:
        for start in range(0, len(embeds), 4):
            chunk = embeds[start : start + 4]
            self.read.append(chunk)
            cache.make_room(len(chunk))
            cache.length += len(chunk)
            yield Step(np.zeros(50, np.float32), chunk)


def image(value: float, *spans: tuple[int, int]) -> ImageMedia:
    return ImageMedia(np.full((len(spans), 3, 2, 2), value, np.float32), tuple(Span(*span) for span in spans))


def sound(value: float, *spans: tuple[int, int]) -> AudioMedia:
    return AudioMedia(np.full(8, value, np.float32), tuple(Span(*span) for span in spans))


def prompt(num_tokens: int, *media: Media) -> ModelInputs:
    ids = np.arange(10, 10 + num_tokens)
    for item in media:
        for span in item.spans:
            ids[span.start : span.stop] = PLACEHOLDER
    return ModelInputs(ids, media, Usage(text=num_tokens))


def encode(media: Sequence[Media]) -> list[np.ndarray]:
    """Each token of a medium is -1, -2, ... so that its place can be seen."""
    lengths = [sum(span.length for span in item.spans) for item in media]
    return [-np.repeat(np.arange(1.0, length + 1)[:, None], 4, axis=1) for length in lengths]


def never(media: Sequence[Media]) -> list[np.ndarray]:
    raise AssertionError("these media need not be encoded")


def test_keys_of_text_are_its_ids() -> None:
    assert prompt_keys(prompt(5)).tolist() == [10, 11, 12, 13, 14]


def test_keys_of_media_tell_content_and_place() -> None:
    one, same, other = (prompt_keys(prompt(6, image(value, (1, 3), (4, 5)))) for value in (0.5, 0.5, 0.25))
    assert one.tolist() == same.tolist()
    assert (one != other).tolist() == [False, True, True, False, True, False]
    assert len({*one[[1, 2, 4]].tolist()}) == 3
    assert one[[1, 2, 4]].max() < 0


def test_digest_tells_shapes_apart() -> None:
    assert content_digest(np.zeros((2, 3))) != content_digest(np.zeros((3, 2)))


def test_features_land_in_their_runs_though_media_interleave() -> None:
    inputs = prompt(9, image(1, (1, 3), (6, 7)), sound(1, (4, 5), (8, 9)))
    assert embed(inputs, 0, CountingEngine(), encode)[:, 0].tolist() == [10, -1, -2, 13, -1, 15, -3, 17, -2]


def test_media_before_the_start_are_not_encoded() -> None:
    inputs = prompt(8, image(1, (1, 3)), sound(1, (5, 6)))
    assert embed(inputs, 7, CountingEngine(), never)[:, 0].tolist() == [17]


def test_features_of_the_wrong_number_are_refused() -> None:
    with pytest.raises(FusionError, match="holds 2 tokens"):
        embed(prompt(5, image(1, (1, 3))), 0, CountingEngine(), lambda media: [np.zeros((3, 4))])


def run(conversation: Conversation, inputs: ModelInputs, engine: CountingEngine, encoder=encode) -> int:
    step, start = prefill(conversation, inputs, prompt_keys(inputs), engine, encoder, threading.Event())
    assert step is not None
    assert conversation.cache.length == len(inputs.ids)
    return start


def test_prefill_reads_only_what_is_new() -> None:
    engine = CountingEngine()
    conversation = Conversation(engine.new_cache())
    assert run(conversation, prompt(6, image(1, (1, 3))), engine) == 0
    engine.read.clear()
    assert run(conversation, prompt(9, image(1, (1, 3))), engine, never) == 6
    assert np.concatenate(engine.read)[:, 0].tolist() == [16, 17, 18]


def test_prefill_reads_the_shortest_run_of_a_known_prompt() -> None:
    engine = CountingEngine()
    conversation = Conversation(engine.new_cache())
    run(conversation, prompt(6), engine)
    assert run(conversation, prompt(6), engine) == 6 - MIN_RUN_TOKENS


def test_media_that_lie_on_both_sides_are_read_again_whole() -> None:
    engine = CountingEngine()
    conversation = Conversation(engine.new_cache())
    run(conversation, prompt(12, image(1, (1, 3), (8, 9)), sound(1, (5, 6), (10, 11))), engine)
    changed = prompt(12, image(1, (1, 3), (8, 9)), sound(2, (5, 6), (10, 11)))
    assert run(conversation, changed, engine) == 1, "the sound is new from 5 on, and the picture lies around it"


def test_cancelled_prefill_keeps_what_was_read() -> None:
    engine, event = CountingEngine(), threading.Event()
    event.set()
    conversation = Conversation(engine.new_cache())
    inputs = prompt(10)
    assert prefill(conversation, inputs, prompt_keys(inputs), engine, never, event) == (None, 0)
    assert conversation.keys.tolist() == inputs.ids[:4].tolist()
    assert conversation.cache.length == 4


def test_decoded_tokens_are_read_again() -> None:
    engine = CountingEngine()
    conversation = Conversation(engine.new_cache())
    run(conversation, prompt(4), engine)
    conversation.cache.length += 3  # an answer of the tokens 14, 15 and 16 was decoded
    engine.read.clear()
    assert run(conversation, prompt(9), engine) == 4
    assert np.concatenate(engine.read)[:, 0].tolist() == [14, 15, 16, 17, 18]


def test_pool_gives_the_longest_match_and_keeps_the_latest() -> None:
    engine, pool = CountingEngine(), Pool()
    keys = [np.array([1, 2, 3]), np.array([1, 5, 6]), np.array([7])]
    kept = [Conversation(engine.new_cache(), key) for key in keys]
    for conversation in kept:
        conversation.cache.length = len(conversation.keys)
        pool.give_back(conversation)
    assert len(pool.idle) == MAX_IDLE
    assert kept[0] not in pool.idle
    assert pool.take(np.array([1, 5, 9]), engine) is kept[1]
    assert pool.take(np.array([2]), engine) not in kept


def test_a_question_in_between_leaves_the_conversation_its_cache() -> None:
    """All prompts begin alike; the second question takes the cache of the first, not that of the conversation."""
    engine, pool = CountingEngine(), Pool()
    long = Conversation(engine.new_cache(), np.array([1, 2, *range(10, 20)]))
    long.cache.length = len(long.keys)
    pool.give_back(long)
    question = pool.take(np.array([1, 2, 3, 4]), engine)
    assert question is not long
    question.keys = np.array([1, 2, 3, 4])
    question.cache.length = 4
    pool.give_back(question)
    assert pool.take(np.array([1, 2, 5]), engine) is question
    assert pool.take(long.keys, engine) is long


def test_keys_of_what_the_cache_has_lost_are_forgotten() -> None:
    engine, pool = CountingEngine(), Pool()
    conversation = Conversation(engine.new_cache(), np.array([1, 2, 3]))
    conversation.cache.length = 1
    pool.give_back(conversation)
    assert conversation.keys.tolist() == [1]
