"""Full duplex (4.5): a second of what is seen and heard goes in, listening or a few spoken tokens come out.

    <unit> [<image> 64 </image> (<slice> 64 </slice>)*]* [10 audio tokens]       fed, without newlines
    <|listen|> | <|speak|> words … <|chunk_eos|> | … <|turn_eos|> <|chunk_eos|>   decided, token by token
    </unit>

Everything lies in one KV cache; what leaves it says `window`. Written over an engine, so that torch and onnxruntime run
the same rules. The state of a stream is a value that is passed in and changes; it knows no voice: `UnitResult.spoken`
is what a talker gets. Letters: T tokens, D language width, V vocabulary, N samples.

Source: MiniCPMODuplex of MiniCPM-o 4.5, quirks included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..errors import ContextFullError, InputError, OptionError
from ..inputs.mel import StreamingMel, check_sound
from ..rates import AUDIO_RATE_HZ
from .decide import DecideConfig, DuplexTokens, decide
from .engine import Step
from .filters import Draw
from .listening import HearingNetwork, StreamingHearing, hear_chunk
from .window import Reader, Unit, Window, keep_within

MAX_UNIT_TOKENS = 20
"""Steps of a unit; the last one is always `<|chunk_eos|>`."""


class DuplexEngine(Reader, Protocol):
    """What a stream needs of a language model."""

    def new_cache(self, capacity: int = ...) -> Any: ...

    def decode(self, token_id: int, cache: Any) -> Step: ...


@dataclass(frozen=True, eq=False)
class Ears:
    """What a session has heard: a value, so that to keep one is to be able to go back to it."""

    waiting: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Samples that wait for the rest of their second."""
    mel: StreamingMel = field(default_factory=StreamingMel)
    heard: StreamingHearing = field(default_factory=StreamingHearing)


def hear_second(network: HearingNetwork, ears: Ears, waveform: np.ndarray) -> tuple[np.ndarray | None, Ears]:
    """waveform (N,) at 16 kHz, about a second -> the second's tokens (T, D), or None until it is full.

    Silence is put before the first piece, whose last frames look ahead into 35 ms more than a second.
    Raises AudioError for what is no waveform.
    """
    sound = np.concatenate([ears.waiting, check_sound(np.asarray(waveform, np.float32))])
    is_first, settings = not ears.mel.emitted_frames, ears.mel.settings
    if is_first and len(sound):
        sound = np.pad(sound, (max(0, settings.first_chunk_ms * AUDIO_RATE_HZ // 1000 - len(sound)), 0))
    needed = ears.mel.wanted_samples
    if len(sound) < needed:
        return None, replace(ears, waiting=sound)
    frames, mel = ears.mel.process(sound[:needed])
    ears = replace(ears, waiting=sound[needed:], mel=mel)
    if frames is None:
        return None, ears
    context = settings.context_frames
    tokens, heard = hear_chunk(network, ears.heard, frames, prefix_frames=0 if is_first else context,
                               suffix_frames=context)
    return tokens, replace(ears, heard=heard)


@dataclass(frozen=True)
class Spoken:
    """A token for the talker."""

    token_id: int
    hidden: np.ndarray
    """(D,) what the language model made of it."""
    ends_turn: bool


@dataclass(frozen=True)
class UnitResult:
    """What became of one unit."""

    fed_ids: tuple[int, ...]
    """Everything decided and fed, `</unit>` last."""
    is_listen: bool
    end_of_turn: bool
    spoken: tuple[Spoken, ...]
    """Empty where the unit ends in listening, even if words came first, as in the reference."""
    num_tokens: int
    """Words decided, those of a unit that ends in listening too."""


@dataclass
class Stream:
    """The state of one session."""

    cache: Any
    window: Window
    history: list[int] = field(default_factory=list)
    """Tokens that the repetition penalty counts."""
    said: list[int] = field(default_factory=list)
    """All words of the session."""
    turn_ended: bool = True
    """Whether listening is allowed: nobody falls silent in the middle of a turn."""
    units_decided: int = 0
    units_started: int = 0
    unit_start: int = 0
    """Cache length where the open unit began."""
    pending: Step | None = None
    """The step at the end of the open unit's input; its logits decide."""


def start_stream(engine: DuplexEngine, window: Window, prefix: np.ndarray, suffix_ids: Sequence[int]) -> Stream:
    """Read the system prompt: prefix (T, D) embeddings, words and the voice to clone fused, and the ids that end it.

    `window` comes back filled in. A suffix stays open to text before it only in the window's "context" mode.
    """
    stream = Stream(engine.new_cache(), window)
    if len(prefix):
        engine.prefill(prefix, stream.cache)
    window.prefix = stream.cache.length
    if len(suffix_ids):
        engine.prefill(engine.embed(suffix_ids), stream.cache)
    if window.config.mode == "context":
        window.suffix_ids = tuple(suffix_ids)
    else:
        window.prefix = stream.cache.length
    return stream


def feed_unit(stream: Stream, engine: DuplexEngine, tokens: DuplexTokens, *, pictures: Sequence[np.ndarray] = (),
              sound: np.ndarray | None = None, text_ids: Sequence[int] = ()) -> None:
    """Open a unit and feed what came in: pictures (pieces, Q, D) each, sound (T, D), words.

    The decision is made from the last position of the sound, else of the pictures, else of the words.
    Raises InputError when nothing came, ContextFullError, with the stream as it was, when it does not fit.
    """
    if not len(pictures) and sound is None and not len(text_ids):
        raise InputError("the unit is empty; give it a second of sound, a picture or words")
    if stream.pending is not None:
        raise OptionError("a unit is open already; decide what to say (`speak_unit`) before the next one is fed")
    stream.unit_start = stream.cache.length
    try:
        stream.pending = _read_unit(stream, engine, tokens, pictures, sound, text_ids)
    except ContextFullError:
        stream.cache.truncate(stream.unit_start)  # no half of a unit that the window does not know
        raise
    stream.units_started += 1


def _read_unit(stream: Stream, engine: DuplexEngine, tokens: DuplexTokens, pictures: Sequence[np.ndarray],
               sound: np.ndarray | None, text_ids: Sequence[int]) -> Step | None:
    """Feed it; returns the step that decides."""
    pending: Step | None = None
    engine.prefill(engine.embed([tokens.unit_start]), stream.cache)
    if len(pictures):
        laid = np.concatenate([_picture(piece, place, engine, tokens) for pieces in pictures
                               for place, piece in enumerate(pieces)])
        pending = engine.prefill(laid, stream.cache)
    if sound is not None:
        pending = engine.prefill(sound, stream.cache)
    if len(text_ids):
        step = engine.prefill(engine.embed(text_ids), stream.cache)
        pending = pending or step
    return pending


def _picture(piece: np.ndarray, place: int, engine: DuplexEngine, tokens: DuplexTokens) -> np.ndarray:
    """(Q, D) between its markers: the thumbnail is an image, what follows are slices."""
    start, end = (tokens.image_start, tokens.image_end) if place == 0 else (tokens.slice_start, tokens.slice_end)
    return np.concatenate([engine.embed([start]), piece, engine.embed([end])])


def speak_unit(stream: Stream, engine: DuplexEngine, tokens: DuplexTokens, config: DecideConfig, draw: Draw, *,
               max_tokens: int = MAX_UNIT_TOKENS, force_listen: int = 0) -> UnitResult:
    """Decide the open unit's words and close it. force_listen: units from the session's start that only listen.

    Raises OptionError when no unit is open.
    """
    if stream.pending is None:
        raise OptionError("no unit is open; feed one (`feed_unit`) first")
    logits, stream.pending = stream.pending.logits, None
    listens = stream.units_decided < force_listen
    stream.units_decided += 1
    fed: list[int] = []
    spoken: list[Spoken] = []
    end_of_turn = False
    for place in range(max_tokens):
        if place == max_tokens - 1:
            fed.append(_feed(stream, engine, tokens.chunk_eos))
            break
        token = tokens.listen if listens else _decide(stream, logits, tokens, config, draw)
        fed.append(token)
        step = engine.decode(token, stream.cache)
        if token in tokens.ends_chunk:
            break
        logits = step.logits
        end_of_turn = stream.turn_ended = token == tokens.turn_eos
        if token != tokens.speak:
            stream.said.append(token)
        if place:  # the first token of a unit is never spoken
            spoken.append(Spoken(token, step.hidden[-1], end_of_turn))
    is_listen = bool(fed) and fed[-1] == tokens.listen
    fed.append(_feed(stream, engine, tokens.unit_end))
    _close(stream, engine, () if is_listen else tuple(item.token_id for item in spoken))
    return UnitResult(tuple(fed), is_listen, end_of_turn and not is_listen, () if is_listen else tuple(spoken),
                      len(spoken))


def _decide(stream: Stream, logits: np.ndarray, tokens: DuplexTokens, config: DecideConfig, draw: Draw) -> int:
    token, counts = decide(logits, stream.history, tokens, config, draw)
    if counts:
        stream.history.append(token)
    return tokens.tts_bos if token == tokens.listen and not stream.turn_ended else token


def _feed(stream: Stream, engine: DuplexEngine, token: int) -> int:
    engine.decode(token, stream.cache)
    return token


def _close(stream: Stream, engine: DuplexEngine, said: tuple[int, ...]) -> None:
    """Note the unit, then let old ones leave."""
    stream.window.units.append(Unit(stream.units_started - 1, stream.cache.length - stream.unit_start, said))
    keep_within(stream.window, stream.cache, engine)


def text_of(result: UnitResult, tokens: DuplexTokens) -> list[int]:
    """Ids of a unit's words without special ones."""
    return [item.token_id for item in result.spoken if item.token_id not in tokens.special]

