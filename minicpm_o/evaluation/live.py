"""A clip as a live stream: second by second into a session, and what is said to it at which second.

Time is the stream's own: no clock plays a part in it, so that a slow machine hears the same answers. What is said while
second 3 goes in (from 3 to 4) is said at 4, when it has gone by. Knows no tasks. N samples at 16 kHz.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from minicpm_o.evaluation.moments import Utterance
from minicpm_o.evaluation.protocol import LiveStream
from minicpm_o.evaluation.rows import Media
from minicpm_o.inputs.video import load_video
from minicpm_o.rates import AUDIO_RATE_HZ
from minicpm_o.runtime.live.events import Listening, LiveEvent, TextPiece, TurnEnded
from minicpm_o.runtime.live.session import LiveConfig, SessionEvent, Work

MAX_STREAM_S = 600
"""A longer clip is refused: its pictures lie in memory."""


@dataclass(frozen=True, eq=False)
class Unit:
    """A second of a stream."""

    end_s: float
    """Seconds of the clip that have gone by when it has."""
    waveform: np.ndarray
    """(N,) float32, a whole second."""
    picture: Image.Image | None
    """On screen as the second begins."""


@dataclass(frozen=True)
class Attended:
    """What was said to a stream, and what it cost."""

    said: tuple[Utterance, ...]
    measured: Mapping[str, float]
    """unit_s, unit_max_s: seconds of computing for a second of the stream, the mean and the most."""


def stream(clip: Media) -> list[Unit]:
    """A video in seconds, the last filled up with silence. Raises VideoError as `load_video` does."""
    video = load_video(clip.for_model, frames_per_second=1.0, max_frames=MAX_STREAM_S, max_seconds=MAX_STREAM_S)
    begin_s = 0.0 if clip.window is None else clip.window[0]
    return [Unit(begin_s + number + 1, _second(video.waveform, number), frame.image)
            for number, frame in enumerate(video.frames)]


def dark(units: Iterable[Unit]) -> list[Unit]:
    """The same seconds, without pictures and in silence."""
    return [replace(unit, waveform=np.zeros_like(unit.waveform), picture=None) for unit in units]


def live_config(max_tokens: int, temperature: float, seed: int | None) -> LiveConfig:
    """A session that answers in writing; drawn answers come from a seed."""
    return LiveConfig(speaks=False, max_tokens=max_tokens, temperature=temperature, seed=seed)


def attend(session: LiveStream, works: Sequence[SessionEvent], units: Iterable[Unit]) -> Attended:
    """Feed a stream to a session that was told what to do; `works` answer that.

    What is said before the stream begins is an answer to the request ("All right, I will tell you."), and does not
    count as speaking up."""
    _Told().take(works)
    told, seconds = _Told(), list[float]()
    for unit in units:
        begun = time.perf_counter()
        happened = [] if unit.picture is None else session.see(unit.picture)
        told.take(happened)
        told.take(session.hear(unit.waveform))
        told.take(session.tick())
        seconds.append(time.perf_counter() - begun)
        told.settle(unit.end_s)
    measured = {"unit_s": statistics.fmean(seconds), "unit_max_s": max(seconds)} if seconds else {}
    return Attended(told.said, measured)


@dataclass
class _Told:
    """What a session's work tells, as far as it may be shown."""

    waiting: list[tuple[Work, list[LiveEvent]]] = field(default_factory=list)
    """Answers that were begun in a pause, until the turn has really ended."""
    sentences: list[Utterance] = field(default_factory=list)
    is_open: bool = False
    """Whether the last of them goes on."""

    @property
    def said(self) -> tuple[Utterance, ...]:
        """Everything with words in it."""
        tidy = (replace(one, content=one.content.strip()) for one in self.sentences)
        return tuple(one for one in tidy if one.content)

    def take(self, happened: Iterable[SessionEvent]) -> None:
        """Run all work to its end."""
        for work in (item for item in happened if isinstance(item, Work)):
            self.waiting.append((work, list(work.run())))

    def settle(self, now_s: float) -> None:
        """What is said by now; answers to a turn that went on are dropped."""
        for work, events in self.waiting:
            if work.confirmed.is_set() and not work.cancel.is_set():
                for event in events:
                    self._tell(event, now_s)
        self.waiting = [(work, events) for work, events in self.waiting
                        if not (work.confirmed.is_set() or work.cancel.is_set())]

    def _tell(self, event: LiveEvent, now_s: float) -> None:
        if isinstance(event, TextPiece):
            if not self.is_open:
                self.sentences.append(Utterance(now_s, ""))
            self.sentences[-1] = replace(self.sentences[-1], content=self.sentences[-1].content + event.text)
        if isinstance(event, TextPiece | TurnEnded | Listening):  # full duplex may fall silent without ending a turn
            self.is_open = isinstance(event, TextPiece)


def _second(waveform: np.ndarray | None, number: int) -> np.ndarray:
    """Second `number` of a waveform (N,), silence where it has none."""
    found = np.zeros(AUDIO_RATE_HZ, np.float32)
    part = np.zeros(0, np.float32) if waveform is None else waveform[number * AUDIO_RATE_HZ:][:AUDIO_RATE_HZ]
    found[: len(part)] = part
    return found

