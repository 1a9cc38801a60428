"""A full-duplex stream: what is fed in which order, and what a unit that does not fit leaves behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicpm_o.errors import ContextFullError, InputError, OptionError
from minicpm_o.runtime.decide import DecideConfig, DuplexTokens
from minicpm_o.runtime.duplex import Ears, Stream, feed_unit, hear_second, speak_unit, start_stream
from minicpm_o.runtime.engine import Step
from minicpm_o.runtime.window import Window, WindowConfig

NAMES = ("unit_start", "unit_end", "image_start", "image_end", "slice_start", "slice_end", "listen", "speak", "tts_bos",
         "tts_eos", "chunk_eos", "chunk_tts_eos", "turn_eos", "im_end")
TOKENS = DuplexTokens(**{name: place for place, name in enumerate(NAMES)})
VOCABULARY = 32


class Cache:
    def __init__(self, limit: int) -> None:
        self.length, self.limit = 0, limit

    def truncate(self, length: int) -> None:
        self.length = length


class Counter:
    """An engine whose embeddings are the ids, and which always wants to listen."""

    def __init__(self, limit: int = 1000) -> None:
        self.config = SimpleNamespace(rope_theta=1e6)
        self.limit = limit
        self.read: list[int] = []

    def new_cache(self, capacity: int = 512) -> Cache:
        return Cache(self.limit)

    def embed(self, ids: Any) -> np.ndarray:
        return np.asarray(ids, np.float32).reshape(-1, 1)

    def prefill(self, embeds: np.ndarray, cache: Cache) -> Step:
        if cache.length + len(embeds) > cache.limit:
            raise ContextFullError("full")
        cache.length += len(embeds)
        self.read += embeds[:, 0].astype(int).tolist()
        logits = np.zeros(VOCABULARY, np.float32)
        logits[TOKENS.listen] = 5
        return Step(logits, embeds)

    def decode(self, token_id: int, cache: Cache) -> Step:
        return self.prefill(self.embed([token_id]), cache)


def open_stream(engine: Counter, mode: str = "off") -> Stream:
    return start_stream(engine, Window(WindowConfig(mode)), engine.embed([20, 21]), [22])


def test_a_unit_is_laid_as_the_model_knows_it() -> None:
    engine = Counter()
    stream = open_stream(engine)
    engine.read.clear()
    picture = np.stack([np.full((2, 1), 30.0), np.full((2, 1), 31.0)])
    feed_unit(stream, engine, TOKENS, pictures=[picture], sound=np.full((3, 1), 29.0), text_ids=[28])
    t = TOKENS
    assert engine.read == [t.unit_start, t.image_start, 30, 30, t.image_end, t.slice_start, 31, 31, t.slice_end,
                           29, 29, 29, 28]
    result = speak_unit(stream, engine, TOKENS, DecideConfig(greedy=True), lambda probabilities: 0)
    assert result.is_listen and result.fed_ids == (t.listen, t.unit_end)
    assert stream.window.units[0].length == 15


@pytest.mark.parametrize(("mode", "prefix", "suffix"), [("off", 3, ()), ("basic", 3, ()), ("context", 2, (22,))])
def test_only_a_kept_text_needs_the_end_of_the_system_prompt(mode: str, prefix: int, suffix: tuple[int, ...]) -> None:
    window = open_stream(Counter(), mode).window
    assert (window.prefix, window.suffix_ids, window.preserved) == (prefix, suffix, 3)


def test_a_unit_that_does_not_fit_leaves_nothing_behind() -> None:
    engine = Counter(limit=8)
    stream = open_stream(engine)
    with pytest.raises(ContextFullError):
        feed_unit(stream, engine, TOKENS, sound=np.zeros((9, 1)))
    assert stream.cache.length == 3 and stream.pending is None and stream.units_started == 0
    feed_unit(stream, engine, TOKENS, sound=np.zeros((2, 1)))
    assert stream.cache.length == 6


def test_what_cannot_be_is_said() -> None:
    engine = Counter()
    stream = open_stream(engine)
    with pytest.raises(InputError, match="empty"):
        feed_unit(stream, engine, TOKENS)
    with pytest.raises(OptionError, match="no unit is open"):
        speak_unit(stream, engine, TOKENS, DecideConfig(), lambda probabilities: 0)
    feed_unit(stream, engine, TOKENS, text_ids=[23])
    with pytest.raises(OptionError, match="open already"):
        feed_unit(stream, engine, TOKENS, text_ids=[23])


def test_sound_waits_for_its_second() -> None:
    class Deaf:
        config = SimpleNamespace(mel_bins=80, max_frames=1500, pool_step=5)

        def hear(self, log_mel: np.ndarray, kept: np.ndarray, *_: Any, keep: bool) -> tuple[np.ndarray, None]:
            return np.zeros((1, len(kept) // 5, 4), np.float32), None

    tokens, ears = hear_second(Deaf(), Ears(), np.zeros(16000, np.float32))
    assert tokens is not None and tokens.shape == (10, 4) and len(ears.waiting) == 80
    nothing, ears = hear_second(Deaf(), ears, np.zeros(8000, np.float32))
    assert nothing is None and len(ears.waiting) == 8080
    tokens, ears = hear_second(Deaf(), ears, np.zeros(8000, np.float32))
    assert tokens is not None and tokens.shape == (10, 4) and len(ears.waiting) == 80
