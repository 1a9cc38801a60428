"""Streaming: whole characters, stop strings over token boundaries, endings, cancellation."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from minicpm_o.errors import OptionError
from minicpm_o.model.config import tiny
from minicpm_o.runtime.cache import KVCache
from minicpm_o.runtime.engine import Step
from minicpm_o.runtime.events import Event, GenerationEnd, TextDelta
from minicpm_o.runtime.generate import StopFilter, TextStream, generate
from minicpm_o.runtime.sampling import SamplingConfig

EOS = 256


class ByteTokenizer:
    """Every byte is a token; 256 ends the turn and has no text."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")


class Script:
    """An engine that says what it was told to say, whatever it reads."""

    def __init__(self, ids: Sequence[int], context_tokens: int = 1000) -> None:
        self.ids, self.context_tokens, self.read = list(ids), context_tokens, list[int]()

    def step(self, position: int) -> Step:
        logits = np.zeros(257, np.float32)
        logits[self.ids[position] if position < len(self.ids) else EOS] = 9.0
        return Step(logits, np.zeros((1, 4), np.float32))

    def decode(self, token_id: int, cache: KVCache) -> Step:
        self.read.append(token_id)
        cache.length += 1
        return self.step(len(self.read))


def say(text: str | bytes, **options: object) -> list[Event]:
    return list(say_script(Script(text.encode() if isinstance(text, str) else text), **options))


def say_script(script: Script, cache: KVCache | None = None, **options: object) -> Iterator[Event]:
    cache = cache or KVCache.empty(tiny().language, 8)
    return generate(script, cache, script.step(0), ByteTokenizer(), eos_ids=[EOS], **options)  # type: ignore[arg-type]


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def end_of(events: list[Event]) -> GenerationEnd:
    assert all(isinstance(event, TextDelta) for event in events[:-1])
    assert isinstance(events[-1], GenerationEnd)
    return events[-1]


@pytest.mark.parametrize("text", ["Hello.", "naïve café", "你好，世界", "👩‍👩‍👧 family", "a\n\n b", ""])
def test_text_arrives_whole(text: str) -> None:
    events = say(text)
    assert text_of(events) == text == end_of(events).text
    assert end_of(events).finish_reason == "stop"
    assert end_of(events).token_ids == tuple(text.encode())
    assert all("\ufffd" not in event.text for event in events)


def test_every_delta_is_whole_characters() -> None:
    deltas = [event.text for event in say("é你👋x")[:-1]]
    assert [delta for delta in deltas if delta] == ["é", "你", "👋", "x"]


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_character_cut_off_at_the_end_is_left_out(cut: int) -> None:
    events = say("ok 👋", max_tokens=3 + cut)
    assert text_of(events) == "ok " == end_of(events).text
    assert end_of(events).finish_reason == "length"


def test_bytes_that_are_no_utf8_do_not_block_the_stream() -> None:
    events = say(b"\xff" * 20 + b"abc")
    assert text_of(events).endswith("abc")
    assert max(len(event.text) for event in events[:-1]) < 20


@pytest.mark.parametrize(("stop", "expected"), [
    (["STOP"], "one two "), (["\n\nUser:"], "one two STOP three"), (["two", "one two S"], "one "),
    (["e t"], "on"), ("STOP", "one two "), (["missing"], "one two STOP three\n\nUser: hi"),
])
def test_stop_strings_over_token_boundaries(stop: Sequence[str], expected: str) -> None:
    events = say("one two STOP three\n\nUser: hi", stop=stop)
    assert text_of(events) == expected == end_of(events).text
    assert end_of(events).finish_reason == ("stop" if stop == ["missing"] else "stop_string")


def test_nothing_that_may_become_a_stop_string_leaves_early() -> None:
    seen = ""
    for event in say("aab aac!", stop=["aac"]):
        if isinstance(event, TextDelta):
            seen += event.text
            assert "aab aa" not in seen
    assert seen == "aab "


def test_a_beginning_of_a_stop_string_is_let_go_at_the_end() -> None:
    events = say("well aa", stop=["aaa"])
    assert text_of(events) == "well aa"
    assert end_of(events).finish_reason == "stop"


def test_a_stop_string_inside_one_token() -> None:
    stops = StopFilter(("END",))
    assert stops.push("the END of it") == ("the ", True)
    assert stops.flush() == ""


def test_stream_does_not_lose_leading_spaces_of_later_tokens() -> None:
    class Sentencepiece:
        """Drops the space before the first word, as sentencepiece does."""

        def decode(self, ids: Sequence[int]) -> str:
            return "".join([" a", " b", " c"][i] for i in ids).removeprefix(" ")

    stream = TextStream(Sentencepiece())
    assert [stream.push(i) for i in (0, 1, 2)] == ["a", " b", " c"]


def test_max_tokens() -> None:
    end = end_of(say("abcdef", max_tokens=3))
    assert (end.text, end.finish_reason, end.num_tokens) == ("abc", "length", 3)


def test_a_full_context_window_ends_with_length() -> None:
    script, cache = Script(b"abcdefgh", context_tokens=10), KVCache.empty(tiny().language, 8)
    cache.length = 6
    end = end_of(list(say_script(script, cache)))
    assert (end.text, end.finish_reason) == ("abcde", "length")  # 4 more are read, the fifth is only said
    assert cache.length == 10


def test_cache_holds_all_tokens_but_the_last() -> None:
    script = Script(b"abc")
    end = end_of(list(say_script(script)))
    assert tuple(script.read) == end.token_ids
    script = Script(b"abcdef")
    end = end_of(list(say_script(script, max_tokens=4)))
    assert tuple(script.read) == end.token_ids[:-1]


def test_cancel_stops_before_the_next_token() -> None:
    cancel, script, events = threading.Event(), Script(b"abcdef"), list[Event]()
    for event in say_script(script, cancel=cancel):
        events.append(event)
        if len(events) == 2:
            cancel.set()
    assert (end_of(events).text, end_of(events).finish_reason) == ("ab", "cancelled")
    assert script.read == list(b"a")


def test_cancel_before_the_first_token() -> None:
    cancel = threading.Event()
    cancel.set()
    assert say("abc", cancel=cancel) == [GenerationEnd("cancelled", (), "")]


def test_banned_tokens_are_never_said() -> None:
    end = end_of(say("aXb", banned_ids=[ord("X")], max_tokens=3))
    assert "X" not in end.text


def test_sampling_is_reproducible() -> None:
    options = {"sampling": SamplingConfig(temperature=4.0, seed=5), "max_tokens": 20}
    assert say("hello world", **options) == say("hello world", **options)


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"stop": [""]}, {"stop": [3]},
                                     {"sampling": None, "max_tokens": -1}])
def test_options_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(OptionError):
        say("abc", **options)
