"""A live conversation in turns: sound and pictures come in while they happen, words and sound go out.

    hear(samples)  -> SpeechStarted, Work (read ahead) ... Work (the answer, begun in the first pause) ... SpeechStopped
    Work.run()     -> Heard, TextPiece, AudioChunk ..., TurnEnded       (slow: on a thread of the caller's)
    played(ms)     -> what the user has heard;  interrupt() -> the history keeps that alone

`hear` is quick and safe to call while an answer is being computed. The answer is begun as soon as the user pauses, and
held back until the pause is long enough (`Work.confirmed`); where the user goes on it is dropped. Works over anything
that answers as `MiniCPMO` does. N samples at 16 kHz; times in ms from the session's first sample.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from ...errors import OptionError
from ...inputs.messages import AudioPart, ImagePart, Message, Part, TextPart
from ...inputs.sources import MIB, Source
from ...rates import AUDIO_RATE_HZ
from ..vad import SpeechDetector
from . import gate as gates
from .events import (
    Called,
    Heard,
    Interrupted,
    LiveEvent,
    Speaking,
    SpeechStarted,
    SpeechStopped,
    TextPiece,
    TurnEnded,
)
from .gate import Gate, GateConfig
from .rules import Rule, Watched, is_heard, is_yes, parse_rule, watched
from .voice import Playback, Say, heard_text, played, sent, speak_along, words_of

TAIL_MS = 160.0
"""Kept behind the last speech of a turn: the ears hear its end better."""
MAX_TURN_S = 60.0
"""A longer turn is answered where it stands."""
KEPT_ANSWERS = 4
"""Answers whose playback is remembered, so that they can still be cut to what was heard."""
RULE_ANSWER_TOKENS = 3
RULE_AGAIN = 2
"""So many looks in a row must agree before a rule speaks, and disagree before it may speak again."""


class LiveModel(Protocol):
    """What a session asks of a model; `MiniCPMO` is one."""

    @property
    def chat(self) -> Callable[..., Any]: ...

    @property
    def speak_stream(self) -> Callable[..., Any]: ...

    def written_down(self, waveform: np.ndarray, language: str | None = None) -> str | None: ...

    def read_ahead(self, messages: Any, cancel: threading.Event | None = None) -> int: ...

    def quick_voice(self, text: str) -> str | None: ...


@dataclass(frozen=True)
class LiveConfig:
    """How a session listens and answers."""

    gate: GateConfig = field(default_factory=GateConfig)
    instructions: str = ""
    voice: Source | None = None
    """None: the quickest there is."""
    speed: float = 1.0
    speaks: bool = True
    language: str | None = None
    """Of the user's speech, "en" or so; None finds it out each time."""
    max_tokens: int = 256
    temperature: float | None = None
    seed: int | None = None
    detects: bool = True
    """Find turns in the sound; off leaves that to `commit`."""
    answers: bool = True
    """Answer when a turn ends; off leaves that to `respond`."""
    barge_in: bool = True
    """Speech of the user ends the answer that is being played."""
    rules: bool = True
    """Requests to speak up later are kept as rules."""
    keep_turns: int = 16
    """Turns of the history that are kept; beyond them the oldest half is forgotten."""
    keep_mb: float = 256.0
    """Of pictures and sounds in the history; beyond it the oldest half is forgotten too."""
    hears: Literal["words", "sound"] = "words"
    """What a turn puts into the prompt where the model has a recogniser: the words that it wrote down, or the tokens of
    the sound beside them, which takes longer. Without a recogniser the sound."""
    form: Any = None
    """A grammar for answers (`MiniCPMO.chat`) in which what begins with a brace calls a function."""

    def __post_init__(self) -> None:
        if self.keep_turns < 2:
            raise OptionError(f"keep_turns is {self.keep_turns}; it must be 2 or more")


@dataclass(frozen=True)
class Entry:
    """One message of the history, by a name of its own."""

    id: str
    message: Message


Kind = Literal["turn", "rule", "asked", "ahead"]
"""An answer to a turn that was heard, a look for the rules, an answer that was asked for, reading ahead."""


@dataclass(eq=False)
class Work:
    """An answer to be computed. `run` is slow; `cancel` ends it at its next word."""

    run: Callable[[], Iterator[LiveEvent]]
    kind: Kind = "turn"
    turn: Entry | None = None
    """What the user said, added to the history when the work is confirmed."""
    heard_id: str = ""
    """The message whose sound is written down first."""
    answer_id: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)
    confirmed: threading.Event = field(default_factory=threading.Event)
    """Whether the turn has really ended; until then nothing of it may be shown."""
    playback: Playback = field(default_factory=Playback)
    first_audio_at: float | None = None
    """`time.monotonic()` when the first sound was taken; the clock of players that tell nothing."""
    text: str = ""
    is_done: bool = False
    is_committed: bool = False

    def forget(self) -> None:
        """Nobody runs it any more: what it would need is let go at once, not when cycles are looked for."""
        self.run = _nothing


def _nothing() -> Iterator[LiveEvent]:
    return iter(())


SessionEvent: TypeAlias = "LiveEvent | Work"


class LiveSession:
    """One user's conversation. `hear`, `see`, `played` and `interrupt` are quick; a `Work` is run by the caller."""

    def __init__(self, model: LiveModel, detector: SpeechDetector, config: LiveConfig | None = None) -> None:
        self.model = model
        self.detector = detector
        self.config = config or LiveConfig()
        self.entries: list[Entry] = []
        self.rules: list[Rule] = []
        self.current: Work | None = None
        """The latest answer, until the next one begins."""
        self.num_cached = 0
        """Tokens of the latest prompt and answer."""
        self._gate = Gate()
        self._sound: list[np.ndarray] = []
        self._sound_start = 0
        """Samples before those that are kept."""
        self._samples = 0
        self._began_ms: float | None = None
        self._turn_id = ""
        self._said: dict[str, str] = {}
        """Words of the turns that were written down, by their entries' names."""
        self._earlier: OrderedDict[str, Work] = OrderedDict()
        self._picture: Source | None = None
        self._watched: dict[str, Watched] = {}
        self._looking: Work | None = None
        self._ahead: Work | None = None
        self._looked_at: Source | None = None
        self._lock = threading.RLock()

    @property
    def now_ms(self) -> float:
        return 1000 * self._samples / AUDIO_RATE_HZ

    @property
    def waiting_s(self) -> float:
        """Seconds of sound that are kept and belong to no turn yet."""
        return (self._samples - self._sound_start) / AUDIO_RATE_HZ

    # --- what comes in ---------------------------------------------------------------------------------------------

    def hear(self, waveform: np.ndarray) -> list[SessionEvent]:
        """More of what the microphone hears, (N,) float32 in [-1, 1] at 16 kHz, any N."""
        with self._lock:
            self._sound.append(np.asarray(waveform, np.float32))
            self._samples += len(waveform)
            if not self.config.detects:
                return []
            found, self._gate = gates.listen(self.detector, self._gate, waveform, self.config.gate)
            events = [event for item in found for event in self._react(item)]
            if self._began_ms is not None and self.now_ms - self._began_ms > 1000 * MAX_TURN_S:
                events += self._end_turn(self.now_ms)
            elif self._began_ms is None:
                self._forget_before(self.now_ms - self.config.gate.prefix_ms - 1000)
            return events

    def see(self, picture: Source) -> list[SessionEvent]:
        """The newest picture of the camera. While the user speaks it is looked at ahead; a turn is answered with the
        newest that was looked at, else with the newest."""
        with self._lock:
            self._picture = picture
            return self._read_ahead() if self._began_ms is not None else []

    def read(self, text: str) -> list[SessionEvent]:
        """Words that were typed: a turn of its own, which ends an answer that is being given."""
        with self._lock:
            stopped = self.interrupt()
            self.add(Message("user", (*self._pictures(), TextPart(text))))
            return [*([stopped] if stopped else []), self.respond()]

    def commit(self) -> Entry | None:
        """The sound so far as a turn of the user's, for callers who end turns themselves; None when there is none."""
        with self._lock:
            start_ms = self._began_ms if self._began_ms is not None else 1000 * self._sound_start / AUDIO_RATE_HZ
            waveform = self._cut(start_ms, self.now_ms)
            self.clear()
            return self.add(self._message(waveform)) if len(waveform) else None

    def clear(self) -> None:
        """Forget the sound that is no turn yet."""
        with self._lock:
            self._forget_before(self.now_ms)
            self._began_ms = None
            self._gate = replace(self._gate, phase="quiet", loud_windows=0)

    # --- the history -----------------------------------------------------------------------------------------------

    def add(self, message: Message, entry_id: str | None = None) -> Entry:
        """A message at the end of the history."""
        with self._lock:
            entry = Entry(entry_id or new_id("item"), message)
            self.entries.append(entry)
            self._keep_within()
            return entry

    def remove(self, entry_id: str) -> bool:
        """Forget a message; whether there was one."""
        with self._lock:
            before = len(self.entries)
            self.entries = [entry for entry in self.entries if entry.id != entry_id]
            return len(self.entries) < before

    def _keep_within(self) -> None:
        """Past `keep_turns` turns, forget the oldest half at once: the cache of the rest is made anew that seldom."""
        users = [place for place, entry in enumerate(self.entries) if entry.message.role == "user"]
        is_large = sum(map(_nbytes, self.entries)) > self.config.keep_mb * MIB
        if len(users) > self.config.keep_turns or (is_large and len(users) > 1):
            self.entries = self.entries[users[len(users) // 2] :]
            alive = {entry.id for entry in self.entries}
            self._said = {name: words for name, words in self._said.items() if name in alive}

    # --- what goes out ---------------------------------------------------------------------------------------------

    def respond(self, config: LiveConfig | None = None) -> Work:
        """An answer to the history as it stands, perhaps given another way; the caller runs it."""
        work = self._answer(None, "asked", config)
        work.confirmed.set()
        return work

    def tick(self) -> list[SessionEvent]:
        """Once per unit: the rules about what is seen, as work; nothing while an answer is given."""
        with self._lock:
            rules = [rule for rule in self.rules if rule.sense == "see"]
            is_looking = self._looking is not None and not self._looking.is_done
            if not rules or self._picture is None or self.is_busy or self._began_ms is not None or is_looking:
                return []
            picture = self._picture
            self._looking = self._new_work("rule", lambda work: self._watch(work, rules, picture))
            return [self._looking]

    def played(self, ms: float) -> None:
        """The player is `ms` into the sound of the current answer."""
        with self._lock:
            if self.current is not None:
                self.current.playback = played(self.current.playback, ms)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is being computed or played."""
        work = self.current
        return work is not None and not work.cancel.is_set() and (not work.is_done or not self._is_played(work))

    def interrupt(self) -> Interrupted | None:
        """End the current answer; the history keeps what was heard of it. None where nothing is being said."""
        with self._lock:
            work = self.current
            if work is None or not self.is_busy:
                return None
            work.playback = played(work.playback, self._played_ms(work))
            work.cancel.set()
            kept = heard_text(work.playback) if self.config.speaks else work.text
            self._rewrite(work, kept)
            return Interrupted(work.playback.played_ms, kept)

    def truncate(self, entry_id: str, played_ms: float) -> str | None:
        """Keep of an answer what was played until `played_ms`; the text that is left, None for no such answer."""
        with self._lock:
            work = self._earlier.get(entry_id)
            if work is None:
                return None
            work.playback = replace(work.playback, played_ms=min(played_ms, work.playback.sent_ms))
            kept = heard_text(work.playback)
            self._rewrite(work, kept)
            return kept

    # --- turns -----------------------------------------------------------------------------------------------------

    def _react(self, event: gates.GateEvent) -> list[SessionEvent]:
        """What the gate noticed to what the session does."""
        if isinstance(event, gates.SpeechBegan):
            self._began_ms, self._turn_id = event.at_ms, new_id("item")
            stopped = self.interrupt() if self.config.barge_in else None
            self._looked_at = None
            return [SpeechStarted(event.at_ms, self._turn_id), *([stopped] if stopped else []), *self._read_ahead()]
        if isinstance(event, gates.SpeechWentOn):
            self._drop_early()
            return []
        if self._began_ms is None:
            return []
        if isinstance(event, gates.SpeechPaused):
            return self._begin_early(event.at_ms)
        return self._end_turn(event.at_ms)

    def _begin_early(self, at_ms: float) -> list[SessionEvent]:
        """Begin the answer in a pause, in case that the turn has ended; not while another one is playing."""
        if not self.config.answers or self.is_busy:
            return []
        return [self._answer(self._turn(at_ms), "turn")]

    def _drop_early(self) -> None:
        work = self.current
        if work is not None and not work.confirmed.is_set() and work.kind == "turn":
            work.cancel.set()
            self.current = None

    def _end_turn(self, at_ms: float) -> list[SessionEvent]:
        events: list[SessionEvent] = [SpeechStopped(at_ms, self._turn_id)]
        early = self.current if self.current and not self.current.confirmed.is_set() else None
        if early is None or early.kind != "turn":
            turn = self._turn(at_ms)
            early = self._answer(turn, "turn") if self.config.answers else None
            if early is not None:
                events.append(early)
            else:
                self.entries.append(turn)
        self._began_ms = self._looked_at = None
        self._forget_before(at_ms)
        if early is not None:
            self._confirm(early)
        return events

    def _turn(self, at_ms: float) -> Entry:
        start_ms = (self._began_ms or 0.0) - self.config.gate.prefix_ms
        return Entry(self._turn_id, self._message(self._cut(start_ms, at_ms + TAIL_MS)))

    def _message(self, waveform: np.ndarray) -> Message:
        return Message("user", (*self._pictures(), AudioPart(waveform, AUDIO_RATE_HZ)))

    def _pictures(self) -> tuple[Part, ...]:
        picture = self._picture if self._looked_at is None else self._looked_at
        return () if picture is None else (ImagePart(picture),)

    def _read_ahead(self) -> list[SessionEvent]:
        """Work that reads all but the words of the turn that is being said; nothing while it is being read."""
        is_reading = self._ahead is not None and not self._ahead.is_done
        if not self.config.answers or self.is_busy or is_reading:
            return []
        picture = self._picture
        parts = (ImagePart(picture),) if picture is not None else (TextPart("."),)
        messages = [*self._system(self.config), *self._told(self.entries, self.config), Message("user", parts)]
        self._ahead = self._new_work("ahead", lambda work: self._reading(work, messages, picture))
        return [self._ahead]

    def _reading(self, work: Work, messages: Sequence[Message], picture: Source | None) -> Iterator[LiveEvent]:
        try:
            self.model.read_ahead(messages, work.cancel)
            with self._lock:
                self._looked_at = picture
        finally:
            work.is_done = True
        yield from ()

    def _system(self, config: LiveConfig) -> list[Message]:
        return [Message("system", (TextPart(config.instructions),))] if config.instructions.strip() else []

    def _confirm(self, work: Work) -> None:
        """The turn has ended: its words join the history, and the answer's if they are there already."""
        if work.turn is not None:
            self.add(work.turn.message, work.turn.id)
        work.confirmed.set()
        if work.is_done:
            self._commit(work)

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answer(self, turn: Entry | None, kind: Literal["turn", "asked"], config: LiveConfig | None = None) -> Work:
        entries = [*self.entries, *([turn] if turn else [])]
        settled = config or self.config
        work = self._new_work(kind, lambda work: self._run(work, entries, settled), turn)
        work.heard_id = entries[-1].id if entries else ""
        return work

    def _new_work(self, kind: Kind, run: Callable[[Work], Iterator[LiveEvent]],
                  turn: Entry | None = None) -> Work:
        work = Work(lambda: run(work), kind, turn, answer_id=new_id("item"))
        if kind in ("rule", "ahead"):
            work.confirmed.set()
        else:
            self._begin(work)
        return work

    def _begin(self, work: Work) -> None:
        self.current = self._earlier[work.answer_id] = work
        while len(self._earlier) > KEPT_ANSWERS:
            self._earlier.popitem(last=False)

    def _run(self, work: Work, entries: Sequence[Entry], config: LiveConfig) -> Iterator[LiveEvent]:
        """The answer's words and sound."""
        said = self._written(entries[-1].message) if entries else None
        if said is not None:
            with self._lock:
                self._said[entries[-1].id] = said
            yield Heard(said)
            if not said.strip():  # a cough, a door: nobody said anything
                yield from self._end(work, "", "nothing_said")
                return
        rule = parse_rule(said or _words(entries[-1].message)) if config.rules and entries else None
        if rule is not None:
            self.rules.append(rule)
            yield from self._voiced(work, iter([rule.promise]), config)
            yield from self._end(work, rule.promise, "stop")
            return
        yield from self._heard_rules(work, said, config)
        yield from self._chat(work, self._told(entries, config), config)

    def _told(self, entries: Sequence[Entry], config: LiveConfig) -> list[Message]:
        """The history as the model reads it: a sound that was written down as its words, unless sounds are wanted."""
        if config.hears == "sound":
            return [entry.message for entry in entries]
        return [in_words(entry.message, self._said.get(entry.id, "")) for entry in entries]

    def _chat(self, work: Work, messages: Sequence[Message], config: LiveConfig) -> Iterator[LiveEvent]:
        system = self._system(config)
        replies: list[Any] = []
        events = self.model.chat([*system, *messages], stream=True, max_tokens=config.max_tokens,
                                 temperature=config.temperature, seed=config.seed, cancel=work.cancel,
                                 form=config.form, keep_prefix=False)  # no look of the camera comes twice
        words = words_of(events, replies)
        first = next((word for word in words if word.strip()), "")
        if config.form is not None and first.lstrip().startswith("{"):
            yield Called(first + "".join(words))
        else:
            yield from self._voiced(work, chain([first], words), config)
        reply = replies[-1]
        self.num_cached = reply.usage.prompt + reply.usage.output
        yield from self._end(work, reply.text, reply.finish_reason, reply.usage, reply.warnings)

    def _voiced(self, work: Work, texts: Iterator[str], config: LiveConfig) -> Iterator[LiveEvent]:
        """Words and sound until the work is cancelled; what was sent is noted for `Playback`."""
        def say(clause: str) -> Iterator[Any]:
            voice = config.voice if config.voice is not None else self.model.quick_voice(clause)
            return iter(self.model.speak_stream(clause, voice=voice, speed=config.speed))

        sayer: Say | None = say if config.speaks else None
        for event in speak_along(texts, sayer):
            if work.cancel.is_set():
                return
            with self._lock:
                if isinstance(event, TextPiece):
                    work.text += event.text
                else:
                    work.playback = sent(work.playback, event)
                    work.first_audio_at = work.first_audio_at or time.monotonic()
            yield event

    def _end(self, work: Work, text: str, reason: str, usage: Any = None,
             warnings: tuple[str, ...] = ()) -> Iterator[LiveEvent]:
        with self._lock:
            if work.cancel.is_set():
                reason = "interrupted"
            else:
                work.text, work.is_done = text, True
                if work.confirmed.is_set():
                    self._commit(work)
        yield TurnEnded(text, reason, usage, warnings)

    def _commit(self, work: Work) -> None:
        if not work.is_committed and work.text.strip() and not work.cancel.is_set():
            self.add(Message("assistant", (TextPart(work.text),)), work.answer_id)
        work.is_committed = True

    def _rewrite(self, work: Work, kept: str) -> None:
        """What the history holds of an answer that was cut short; nothing where nothing was heard of it."""
        self.remove(work.answer_id)
        if kept.strip():
            self.add(Message("assistant", (TextPart(kept),)), work.answer_id)
        work.is_committed = work.is_done = True

    def _played_ms(self, work: Work) -> float:
        """As told by the player, else by the clock since the first sound."""
        if work.playback.played_ms or work.first_audio_at is None:
            return work.playback.played_ms
        return 1000 * (time.monotonic() - work.first_audio_at)

    def lead_s(self, work: Work) -> float:
        """Seconds of sound that a player of an answer still has ahead; 0 before the first."""
        return max(0.0, work.playback.sent_ms - self._played_ms(work)) / 1000

    def _is_played(self, work: Work) -> bool:
        return not work.playback.sent or played(work.playback, self._played_ms(work)).is_over

    def _written(self, message: Message) -> str | None:
        """The words of a message's sound; None where it has none, or where the model writes none down."""
        sounds = [part for part in message.parts if isinstance(part, AudioPart)]
        return self.model.written_down(np.asarray(sounds[-1].source), self.config.language) if sounds else None

    # --- rules -----------------------------------------------------------------------------------------------------

    def _watch(self, work: Work, rules: Sequence[Rule], picture: Source) -> Iterator[LiveEvent]:
        """Look once for every rule; those that hold speak, once until they have ceased to hold."""
        try:
            yield from self._look(work, rules, picture)
        finally:
            work.is_done = True

    def _look(self, work: Work, rules: Sequence[Rule], picture: Source) -> Iterator[LiveEvent]:
        for rule in rules:
            if work.cancel.is_set():
                return
            turn = Message("user", (ImagePart(picture), TextPart(rule.question)))
            holds = is_yes(self.model.chat([turn], max_tokens=RULE_ANSWER_TOKENS, temperature=0.0,
                                           keep_prefix=False).text)
            speaks, state = watched(self._watched.get(rule.asked, Watched()), holds, RULE_AGAIN)
            if not speaks or not self.is_busy:  # what would be said into an answer is said after it
                self._watched[rule.asked] = state
            if speaks and not self.is_busy:
                yield from self._speak_up(work, rule)
                return

    def _heard_rules(self, work: Work, said: str | None, config: LiveConfig) -> Iterator[LiveEvent]:
        for rule in self.rules if said else ():
            if rule.sense == "hear" and is_heard(rule, said or ""):
                yield Speaking("rule", rule.asked)
                yield from self._voiced(work, iter([rule.say + " "]), config)

    def _speak_up(self, work: Work, rule: Rule) -> Iterator[LiveEvent]:
        """Speak unasked: the work that looked becomes the current answer."""
        with self._lock:
            self._begin(work)
        yield Speaking("rule", rule.asked)
        yield from self._voiced(work, iter([rule.say]), self.config)
        yield from self._end(work, rule.say, "stop")

    # --- sound -----------------------------------------------------------------------------------------------------

    def _cut(self, start_ms: float, stop_ms: float) -> np.ndarray:
        """Samples of a stretch of time, as far as they are kept."""
        whole = np.concatenate(self._sound) if self._sound else np.zeros(0, np.float32)
        self._sound = [whole]
        start, stop = (max(0, round(ms * AUDIO_RATE_HZ / 1000) - self._sound_start) for ms in (start_ms, stop_ms))
        cut: np.ndarray = whole[start:stop].copy()
        return cut

    def _forget_before(self, ms: float) -> None:
        keep_from = round(max(0.0, ms) * AUDIO_RATE_HZ / 1000)
        while self._sound and self._sound_start + len(self._sound[0]) <= keep_from:
            self._sound_start += len(self._sound.pop(0))


def _nbytes(entry: Entry) -> int:
    """Memory of a message's media, as far as it can be told."""
    sources = [part.source for part in entry.message.parts if not isinstance(part, TextPart)]
    return sum(_source_bytes(source) for source in sources)


def _source_bytes(source: Any) -> int:
    if isinstance(source, np.ndarray):
        return int(source.nbytes)
    size = getattr(source, "size", None)  # of a PIL picture: width and height
    return 3 * size[0] * size[1] if isinstance(size, tuple) else len(source) if isinstance(source, bytes) else 0


def in_words(message: Message, said: str) -> Message:
    """A message with the words of its only sound in that sound's place; as it is where it has none, or more."""
    if not said.strip() or sum(isinstance(part, AudioPart) for part in message.parts) != 1:
        return message
    return Message(message.role, tuple(TextPart(said) if isinstance(part, AudioPart) else part
                                       for part in message.parts))


def _words(message: Message) -> str:
    return " ".join(part.text for part in message.parts if isinstance(part, TextPart))


def new_id(kind: str) -> str:
    """A name that no other thing has."""
    return f"{kind}_{uuid.uuid4().hex[:20]}"
