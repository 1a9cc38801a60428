"""A live session over a model that answers at once: what is heard, answered, cut short and remembered."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicpm_o.errors import OptionError
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, TextPart
from minicpm_o.runtime.live.events import (
    AudioChunk,
    Called,
    Heard,
    Interrupted,
    Speaking,
    SpeechStarted,
    SpeechStopped,
    TextPiece,
    TurnEnded,
)
from minicpm_o.runtime.live.gate import GateConfig
from minicpm_o.runtime.live.session import LiveConfig, LiveSession, Work
from minicpm_o.runtime.speech.speaker import Speech
from minicpm_o.runtime.vad import WINDOW_SAMPLES

GATE = GateConfig(silence_ms=480, early_ms=160)
RATE_HZ = 1000


class Loudness:
    def look(self, window: np.ndarray, state: np.ndarray) -> tuple[float, np.ndarray]:
        return float(np.abs(window[-WINDOW_SAMPLES:]).max() > 0.2), state


class Model:
    """Answers every prompt with the next of its answers, and hears what it is told to hear."""

    def __init__(self, *answers: str, heard: str = "What is it?") -> None:
        self.answers = list(answers) or ["It is fine. It is good."]
        self.heard = heard
        self.asked: list[list[Message]] = []
        self.ahead: list[list[Message]] = []

    def chat(self, messages: Any, *, stream: bool = False, cancel: threading.Event | None = None, **_: Any) -> Any:
        self.asked.append(list(messages))
        text = self.answers[min(len(self.asked), len(self.answers)) - 1]
        usage = SimpleNamespace(prompt=3, output=4, cached=0)
        reply = SimpleNamespace(text=text, finish_reason="stop", usage=usage, warnings=())
        return self._stream(text, reply, cancel) if stream else reply

    def _stream(self, text: str, reply: Any, cancel: threading.Event | None) -> Iterator[Any]:
        for word in text.split(" "):
            if cancel is not None and cancel.is_set():
                break
            yield SimpleNamespace(text=word + " ")
        yield reply

    def written_down(self, waveform: np.ndarray, language: str | None = None) -> str:
        return self.heard

    def read_ahead(self, messages: Any, cancel: threading.Event | None = None) -> int:
        self.ahead.append(list(messages))
        return 1

    def quick_voice(self, text: str) -> None:
        return None

    def speak_stream(self, text: str, voice: Any = None, speed: float = 1.0) -> Iterator[Speech]:
        yield Speech(np.ones(100 * len(text.split()), np.float32), "", RATE_HZ)


def session(model: Model | None = None, **options: Any) -> LiveSession:
    return LiveSession(model or Model(), Loudness(), LiveConfig(gate=GATE, **options))


def windows(*runs: tuple[int, float]) -> np.ndarray:
    return np.concatenate([np.full(count * WINDOW_SAMPLES, level, np.float32) for count, level in runs])


TURN = windows((10, 0.0), (10, 0.5), (20, 0.0))


def works(events: list[Any]) -> list[Work]:
    """Answers; reading ahead is left out."""
    return [event for event in events if isinstance(event, Work) and event.kind != "ahead"]


def texts(live: LiveSession) -> list[str]:
    return [part.text for entry in live.entries for part in entry.message.parts if isinstance(part, TextPart)]


def test_a_turn_is_answered_and_both_are_remembered() -> None:
    live = session()
    events = live.hear(TURN)
    assert [type(event) for event in events] == [SpeechStarted, Work, Work, SpeechStopped]
    work = works(events)[0]
    assert work.confirmed.is_set() and events[0].turn_id == events[3].turn_id == live.entries[0].id
    told = list(work.run())
    assert isinstance(told[0], Heard) and isinstance(told[-1], TurnEnded)
    assert "".join(event.text for event in told if isinstance(event, TextPiece)).strip() == "It is fine. It is good."
    assert len([event for event in told if isinstance(event, AudioChunk)]) == 2
    assert [entry.message.role for entry in live.entries] == ["user", "assistant"]
    sound = live.entries[0].message.parts[0]
    assert isinstance(sound, AudioPart) and 9 * 512 + 4800 <= len(sound.source) <= 11 * 512 + 4800 + 2560


def test_an_answer_begun_in_a_pause_is_dropped_when_speech_goes_on() -> None:
    live = session()
    first = works(live.hear(windows((10, 0.5), (6, 0.0))))[0]
    assert not first.confirmed.is_set() and not live.entries
    list(first.run())  # complete before the turn is: nothing of it is remembered
    assert not live.entries
    events = live.hear(windows((10, 0.5), (20, 0.0)))
    assert first.cancel.is_set() and [type(event) for event in events] == [Work, SpeechStopped]
    list(works(events)[0].run())
    assert [entry.message.role for entry in live.entries] == ["user", "assistant"]
    assert len(live.entries[0].message.parts[0].source) > 25 * 512


def test_an_answer_that_is_ready_early_is_remembered_when_the_turn_ends() -> None:
    live = session()
    work = works(live.hear(windows((10, 0.5), (6, 0.0))))[0]
    list(work.run())
    live.hear(windows((20, 0.0)))
    assert work.confirmed.is_set() and texts(live) == ["It is fine. It is good."]


def test_speech_into_an_answer_ends_it_and_keeps_what_was_heard() -> None:
    live = session()
    work = works(live.hear(TURN))[0]
    run = work.run()
    for event in run:
        if isinstance(event, AudioChunk):
            break
    live.played(200)  # of 300 ms: "It is" of "It is fine."
    events = live.hear(windows((6, 0.5)))
    stopped = next(event for event in events if isinstance(event, Interrupted))
    assert stopped.kept_text == "It is" and stopped.played_ms == 200 and work.cancel.is_set()
    rest = list(run)
    assert [type(event) for event in rest][-1:] in ([], [TurnEnded])
    assert texts(live) == ["It is"]


def test_an_answer_of_which_nothing_was_heard_is_forgotten() -> None:
    live = session(speaks=True)
    work = works(live.read("Hello?"))[0]
    next(work.run())
    assert live.interrupt() == Interrupted(0.0, "")
    assert texts(live) == ["Hello?"] and live.interrupt() is None


def test_a_played_answer_is_not_interrupted_but_can_be_cut() -> None:
    live = session()
    work = works(live.hear(TURN))[0]
    list(work.run())
    live.played(10_000)
    assert not live.is_busy and live.interrupt() is None
    assert live.truncate(work.answer_id, 300) == "It is fine." and texts(live) == ["It is fine."]
    assert live.truncate("item_unknown", 300) is None


def test_without_barge_in_the_answer_goes_on() -> None:
    live = session(barge_in=False)
    work = works(live.hear(TURN))[0]
    list(work.run())
    assert not any(isinstance(event, Interrupted) for event in live.hear(windows((6, 0.5))))
    assert not work.cancel.is_set()


def test_the_newest_picture_goes_with_the_turn() -> None:
    live = session()
    live.see(b"old")
    live.see(b"new")
    live.hear(TURN)
    assert live.entries[0].message.parts[0] == ImagePart(b"new")


def test_what_is_known_is_read_while_the_user_speaks() -> None:
    model = Model()
    live = session(model, instructions="Be brief.")
    live.see(b"first")
    started = live.hear(windows((6, 0.5)))
    (ahead,) = [event for event in started if isinstance(event, Work)]
    assert ahead.kind == "ahead" and live.see(b"second") == []  # one at a time
    assert list(ahead.run()) == [] and list(model.ahead[0][-1].parts) == [ImagePart(b"first")]
    live.hear(windows((6, 0.5), (20, 0.0)))
    assert live.entries[0].message.parts[0] == ImagePart(b"first")  # what was looked at
    live.hear(TURN)
    assert live.entries[-1].message.parts[0] == ImagePart(b"second")


def test_noise_without_words_is_not_answered() -> None:
    live = session(Model(heard=""))
    told = list(works(live.hear(TURN))[0].run())
    assert told == [Heard(""), TurnEnded("", "nothing_said")] and len(live.entries) == 1


def test_turns_without_detection_are_committed() -> None:
    live = session(detects=False, answers=False)
    assert live.hear(TURN) == [] and live.waiting_s > 1
    entry = live.commit()
    assert entry is not None and len(entry.message.parts[0].source) == len(TURN)
    assert live.commit() is None and live.waiting_s == 0
    live.hear(TURN)
    live.clear()
    assert live.commit() is None


def test_a_call_is_no_speech() -> None:
    live = session(Model('{"name": "go"}'), form="start: text")
    told = list(live.respond().run()) if live.add(Message("user", (TextPart("Go."),))) else []
    assert [type(event) for event in told] == [Called, TurnEnded] and told[0].text.strip() == '{"name": "go"}'


def test_long_histories_are_cut_by_halves() -> None:
    live = session(keep_turns=4)
    for place in range(5):
        live.add(Message("user", (TextPart(f"question {place}"),)))
        live.add(Message("assistant", (TextPart(f"answer {place}"),)))
    assert texts(live)[0] == "question 2" and len(live.entries) == 6
    large = session(keep_mb=0.1)
    for _ in range(5):
        large.add(Message("user", (AudioPart(np.zeros(16_000, np.float32), 16_000),)))
    assert len(large.entries) <= 2


def test_hours_of_quiet_take_no_memory() -> None:
    live = session()
    for _ in range(600):
        live.hear(np.zeros(16_000, np.float32))
    assert live.waiting_s < 3.5 and live.now_ms == 600_000


def test_an_endless_turn_is_answered_where_it_stands() -> None:
    live = session()
    events = [event for _ in range(65) for event in live.hear(np.full(16_000, 0.5, np.float32))]
    assert any(isinstance(event, SpeechStopped) for event in events) and works(events)


def test_a_rule_is_promised_watched_for_and_spoken_once() -> None:
    model = Model("No.", "Yes.", "Yes.", "Yes.", heard="Tell me when you see a dog.")
    live = session(model)
    told = list(works(live.hear(TURN))[0].run())
    assert told[-1].text == "All right, I will tell you." and not model.asked
    live.played(60_000)
    live.see(b"picture")
    spoken = [event for _ in range(4) for work in live.tick() for event in work.run()]
    assert [type(event) for event in spoken] == [Speaking, TextPiece, AudioChunk, TurnEnded]
    assert spoken[1].text == "I see a dog." and len(model.asked) == 3
    assert live.is_busy and texts(live)[-1] == "I see a dog."  # while it is heard, nobody looks


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(OptionError, match="keep_turns"):
        LiveConfig(keep_turns=1)
