"""4.5 live: every second what was seen and heard goes in, and the model decides by itself to listen or to speak.

The same face as `LiveSession`: `hear` and `see` are quick, a `Work` does the computing. Nothing detects speech here and
nothing ends a turn but the model; an answer may begin unasked. Sound goes in whole seconds; where computing cannot keep
up, the oldest seconds are left out, and told. N samples at 16 kHz, A tokens of a sound, D language width.

Source: MiniCPMODuplex of MiniCPM-o 4.5, `streaming_prefill` and `streaming_generate`; prompts of its `as_duplex`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import OptionError
from ...inputs.image import load_image
from ...inputs.sources import Source
from ...rates import AUDIO_RATE_HZ, SPEECH_RATE_HZ
from ..decide import DecideConfig, DuplexTokens
from ..duplex import (
    MAX_UNIT_TOKENS,
    DuplexEngine,
    Ears,
    Spoken,
    Stream,
    feed_unit,
    hear_second,
    speak_unit,
    start_stream,
    text_of,
)
from ..filters import Draw, seeded_draw
from ..listening import HearingNetwork
from ..talker import TalkerNetwork, UnitState, conditions
from ..talker import speak_unit as speak_codes
from ..token2wav import Token2Wav, Token2WavState
from ..window import Window, WindowConfig
from .events import AudioChunk, Interrupted, Lagging, Listening, LiveEvent, Speaking, TextPiece, TurnEnded
from .session import SessionEvent, Work, new_id

UNIT_SAMPLES = AUDIO_RATE_HZ
MOST_WAITING = 4
"""Seconds that wait while one is being computed; beyond them the oldest is left out."""
SYSTEM_PROMPT = "Streaming Omni Conversation."


@dataclass(frozen=True)
class DuplexVoice:
    """What speaks: talker and token2wav."""

    talker: TalkerNetwork
    token2wav: Token2Wav


@dataclass(frozen=True, eq=False)
class VoiceState:
    """A voice between two units: a value."""

    sound: Token2WavState
    turn: UnitState | None = None
    """None where a turn begins."""


@dataclass(frozen=True)
class DuplexNetworks:
    """What a session asks of a model, whoever runs it."""

    engine: DuplexEngine
    hearing: HearingNetwork
    tokens: DuplexTokens
    decode: Callable[[Sequence[int]], str]
    look: Callable[[Any], np.ndarray]
    """A picture to its pieces' tokens (pieces, Q, D)."""
    voice: DuplexVoice | None = None


@dataclass(frozen=True)
class DuplexConfig:
    """How a session decides; the defaults are the official ones."""

    decide: DecideConfig = field(default_factory=DecideConfig)
    window: WindowConfig = field(default_factory=lambda: WindowConfig("basic"))
    force_listen: int = 0
    """Units from the beginning in which the model only listens."""
    max_tokens: int = MAX_UNIT_TOKENS
    """Steps of a unit."""
    seed: int | None = None


def speak_aloud(voice: DuplexVoice, state: VoiceState, spoken: Sequence[Spoken], end_of_turn: bool,
                draw: Draw) -> tuple[np.ndarray, VoiceState]:
    """A unit's words to its sound (N,) at 24 kHz and the state after it; a turn's end begins the next one."""
    ids = np.array([item.token_id for item in spoken], np.int64)
    width = voice.talker.config.llm_width
    hidden = np.stack([item.hidden for item in spoken]) if len(spoken) else np.zeros((0, width), np.float32)
    embeds = conditions(voice.talker, ids, hidden, text_finished=False)
    codes, turn = speak_codes(voice.talker, embeds, state.turn, draw, end_of_turn=end_of_turn)
    waveform, sound = voice.token2wav.speak_unit(state.sound, codes.codes, is_first=state.turn is None,
                                                 end_of_turn=end_of_turn)
    return waveform, VoiceState(sound, None if end_of_turn else turn)


class DuplexSession:
    """One user's session."""

    def __init__(self, networks: DuplexNetworks, prefix: np.ndarray, suffix_ids: Sequence[int],
                 config: DuplexConfig | None = None, voice: VoiceState | None = None) -> None:
        """prefix (T, D): the embeddings of the system prompt, the voice's clip in it; suffix_ids: what ends it."""
        self.networks = networks
        self.config = config or DuplexConfig()
        self.stream: Stream = start_stream(networks.engine, Window(self.config.window), prefix, suffix_ids)
        self.ears = Ears()
        self.voice = voice
        self.current: Work | None = None
        self.results: deque[Any] = deque(maxlen=4)
        """The latest units, as `duplex.speak_unit` gave them."""
        self._draw = seeded_draw(self.config.seed)
        self._sound = np.zeros(0, np.float32)
        self._pictures: list[Source] = []
        self._words: list[int] = []
        self._waiting: deque[tuple[np.ndarray, list[Source], list[int]]] = deque()
        self._dropped = 0
        self._forced = 0
        self._speaking = False
        self._lock = threading.RLock()

    # --- what comes in ---------------------------------------------------------------------------------------------

    def hear(self, waveform: np.ndarray) -> list[SessionEvent]:
        """More of what the microphone hears, (N,) float32, any N; work for every second that is full."""
        with self._lock:
            self._sound = np.concatenate([self._sound, np.asarray(waveform, np.float32)])
            while len(self._sound) >= UNIT_SAMPLES:
                self._waiting.append((self._sound[:UNIT_SAMPLES], self._pictures, self._words))
                self._sound, self._pictures, self._words = self._sound[UNIT_SAMPLES:], [], []
            while len(self._waiting) > MOST_WAITING:
                _, pictures, words = self._waiting.popleft()
                sound, later, more = self._waiting[0]
                self._waiting[0] = (sound, [*pictures[-1:], *later], [*words, *more])
                self._dropped += 1
            if not self._waiting or (self.current is not None and not self.current.is_done):
                return []
            work = Work(lambda: self._run(work), "asked", answer_id=new_id("item"))
            work.confirmed.set()
            self.current = work
            return [work]

    def see(self, picture: Source) -> list[SessionEvent]:
        """A picture of the second that is being heard; no work of its own."""
        with self._lock:
            self._pictures = [*self._pictures, picture][-2:]
        return []

    def interrupt(self) -> Interrupted | None:
        """Make the model listen from its next unit on, in the middle of a turn too."""
        with self._lock:
            was_speaking, self._forced, self._speaking = self._speaking, 1, False
            return Interrupted(0.0, "") if was_speaking else None

    def tick(self) -> list[SessionEvent]:
        """Nothing: the model looks by itself."""
        return []

    def played(self, ms: float) -> None:
        """Nothing: the model hears the user, not the player."""

    def lead_s(self, work: Work) -> float:
        """Each unit is urgent: the next one begins a second later."""
        return 0.0

    @property
    def is_busy(self) -> bool:
        """Whether the model is in the middle of a turn."""
        return self._speaking

    @property
    def num_cached(self) -> int:
        return int(self.stream.cache.length)

    # --- units -----------------------------------------------------------------------------------------------------

    def _run(self, work: Work) -> Iterator[LiveEvent]:
        """Every second that waits, one after the other."""
        try:
            while not work.cancel.is_set():
                with self._lock:
                    unit = self._waiting.popleft() if self._waiting else None
                    dropped, self._dropped = self._dropped, 0
                    if unit is None:
                        work.is_done = True
                        return
                if dropped:
                    yield Lagging(dropped)
                yield from self._unit(*unit)
        finally:
            work.is_done = True

    def _unit(self, sound: np.ndarray, pictures: list[Source], words: list[int]) -> Iterator[LiveEvent]:
        """One second in, listening or a few words out."""
        networks = self.networks
        tokens, self.ears = hear_second(networks.hearing, self.ears, sound)
        looked = [networks.look(picture) for picture in pictures]
        if tokens is None and not looked and not words:
            return
        feed_unit(self.stream, networks.engine, networks.tokens, pictures=looked, sound=tokens, text_ids=words)
        yield from self._decide()

    def _decide(self) -> Iterator[LiveEvent]:
        networks, number = self.networks, self.stream.units_decided
        with self._lock:
            forced, self._forced = self._forced, 0
        listens = number + 1 if forced else self.config.force_listen
        result = speak_unit(self.stream, networks.engine, networks.tokens, self.config.decide, self._draw,
                            max_tokens=self.config.max_tokens, force_listen=max(listens, self.config.force_listen))
        self.results.append(result)
        if result.is_listen:
            self._fall_silent(forced=bool(forced))
            yield Listening(number)
            return
        if not self._speaking:
            yield Speaking("model")
        self._speaking = not result.end_of_turn
        text = networks.decode(text_of(result, networks.tokens))
        if text:
            yield TextPiece(text)
        yield from self._aloud(result.spoken, result.end_of_turn, text)
        if result.end_of_turn:
            yield TurnEnded(text, "stop")

    def _fall_silent(self, *, forced: bool) -> None:
        """Listening ends a turn that was broken off; the voice begins anew with the next."""
        if forced and not self.stream.turn_ended:
            self.stream.turn_ended = True
            if self.voice is not None and self.networks.voice is not None:
                _, sound = self.networks.voice.token2wav.speak_unit(self.voice.sound, (), is_first=False,
                                                                    end_of_turn=True)
                self.voice = VoiceState(sound)
        self._speaking = False

    def _aloud(self, spoken: Sequence[Spoken], end_of_turn: bool, text: str) -> Iterator[AudioChunk]:
        if self.voice is None or self.networks.voice is None:
            return
        waveform, self.voice = speak_aloud(self.networks.voice, self.voice, spoken, end_of_turn, self._draw)
        if len(waveform):
            yield AudioChunk(waveform, SPEECH_RATE_HZ, text)


def open_duplex(parts: Any, *, instructions: str = SYSTEM_PROMPT, ref_audio: Source | None = None,
                config: DuplexConfig | None = None, speaks: bool = True) -> DuplexSession:
    """A session of an official 4.5 checkpoint or bundle (`OfficialParts`).

    ref_audio: a clip of the voice to speak in, an array at 16 kHz; without it, and with speaks off, the model answers
    in text. Raises OptionError for models that were not taught to, AudioError for the clip.
    """
    from ...inputs.audio import load_audio
    from ...inputs.mel import clip_log_mel
    from ..listening import encode_clips

    if getattr(parts.config, "version", "") != "4.5":
        raise OptionError(f"{parts.config.name} was not taught full duplex; MiniCPM-o 4.5 was")
    tokenizer, engine = parts.tokenizer, parts.engine
    ids = tokenizer.encode(f"<|im_start|>system\n{instructions}", markup=True)
    prefix, clip = [engine.embed(ids)], ref_audio
    if clip is not None and not isinstance(clip, np.ndarray):
        clip = load_audio(clip)
    end = tokenizer.encode("<|im_end|>", markup=True)
    if clip is not None:
        prefix.append(engine.embed(tokenizer.encode("\n<|audio_start|>", markup=True)))
        prefix += encode_clips(parts.hearing, [clip_log_mel(clip)])
        end = tokenizer.encode("<|audio_end|><|im_end|>", markup=True)
    chosen = config or DuplexConfig()
    voice, state = None, None
    if clip is not None and speaks:
        voice = DuplexVoice(parts.voice.talker, parts.voice.token2wav)
        rng = np.random.default_rng(chosen.seed)
        state = VoiceState(voice.token2wav.start(parts.voice.prompt(clip), rng))
    networks = DuplexNetworks(engine, parts.hearing, tokens_of(tokenizer), tokenizer.decode, _looker(parts), voice)
    return DuplexSession(networks, np.concatenate(prefix), end, chosen, state)


def tokens_of(tokenizer: Any) -> DuplexTokens:
    """The steering tokens of 4.5's tokenizer (`OfficialTokenizer`)."""
    special = tokenizer.special
    names = [name for name in DuplexTokens.__dataclass_fields__ if name not in ("forbidden", "special")]
    pad = () if special.tts_pad is None else (special.tts_pad,)
    return DuplexTokens(**{name: getattr(special, name) for name in names}, forbidden=(*pad, *tokenizer.bad_token_ids),
                        special=tokenizer.added_ids)


def _looker(parts: Any) -> Callable[[Any], np.ndarray]:
    """Pictures whole, as the official session feeds them (`max_slice_nums` 1)."""
    from ...inputs.slices import slice_picture

    def look(picture: Any) -> np.ndarray:
        cut = slice_picture(load_image(picture), parts.config.slicing, max_slices=1)
        tokens: np.ndarray = parts.vision.encode(cut.pieces, cut.grid_sizes)
        return tokens

    return look
