"""Waveform to text with Whisper's decoder, and to no text where nobody speaks.

Finds speech first (Silero), cuts it into windows of at most 30 s at pauses, hears each window, and writes greedily
without timestamps. A window's text is kept only if it is not a loop, not mostly doubt, and not on top of silence.
Letters: N samples, M mel bins, F mel frames, V vocabulary of the recogniser. Source: Whisper (arXiv:2212.04356), 4.5.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ..errors import CheckpointError, OptionError
from ..inputs.audio import log_mel, pad_to
from ..model.config import HearingConfig
from ..rates import AUDIO_RATE_HZ, HOP_SAMPLES, WINDOW_S
from .device import DevicePlan, make_session
from .encoders import run_encoder
from .filters import log_softmax
from .vad import Segment, SpeechDetector

if TYPE_CHECKING:
    import tokenizers
    from onnxruntime import InferenceSession, OrtValue

    from ..checkpoints.bundle import Bundle

STYLES = {"zh": "\u4ee5\u4e0b\u662f\u666e\u901a\u8bdd\u3002"}
"""A sentence given as if it came before: "what follows is Mandarin", in simplified characters, for simplified text."""


@dataclass(frozen=True)
class RecogniserConfig:
    """When a window's text is believed."""

    window_s: float = float(WINDOW_S)
    """Whisper hears at most this much at once."""
    pad_s: float = 4.0
    """Silence after a window's speech, in which the decoder ends its text; with 1 s it says short texts twice."""
    least_s: float = 10.0
    """Shortest window, with its silence. Whisper was trained on 30 s; a third of it costs a third and loses nothing."""
    sentence_s: float = 1.0
    """From here on speech is more than a word, and `sentence_least_s` is enough of a window."""
    sentence_least_s: float = 7.0
    brief_pad_s: float = 2.0
    brief_least_s: float = 3.0
    """A sentence is heard so at first. Where the decoder then says it twice, it is heard again as above."""
    max_gap_s: float = 2.0
    """Pauses up to this stay within a window."""
    tokens_per_s: float = 16.0
    """Nobody speaks faster; more tokens than this (and 24) are a loop."""
    max_tokens: int = 220
    max_no_speech: float = 0.5
    """Above this chance of no speech, the text must be surer of itself: hum that sets in suddenly passes for voice."""
    min_avg_logprob: float = -1.0
    """Mean log-probability of a token below which the text is doubt, and is tried again."""
    sure_avg_logprob: float = -0.8
    """The same, where the recogniser thinks that nobody speaks."""
    least_avg_logprob: float = -1.5
    """A doubtful text below this is dropped; above, it passes where the recogniser thinks that somebody speaks."""
    max_compression: float = 2.4
    """Text that shrinks more than this says the same over and over."""
    retry_temperatures: tuple[float, ...] = (0.4, 0.8)
    """Drawn anew at these when the likeliest text is not believed; the seed is fixed."""


@dataclass(frozen=True)
class TextSegment:
    """What one window said."""

    start_s: float
    stop_s: float
    text: str
    avg_logprob: float
    no_speech: float
    """Probability that nobody speaks, by the recogniser itself."""


@dataclass(frozen=True)
class Transcript:
    """What a sound said."""

    text: str
    """Empty where nobody speaks."""
    language: str | None
    """Two or three letters, as given or detected; None where nobody speaks."""
    segments: tuple[TextSegment, ...] = ()


@dataclass(frozen=True)
class Reading:
    """One attempt at a window's text."""

    ids: tuple[int, ...]
    avg_logprob: float
    looped: bool
    """It said the same over and over, or did not end in time."""


Cross: TypeAlias = "dict[str, OrtValue]"
"""What was heard, as keys and values of the decoder's layers, by the names of its inputs."""

Past: TypeAlias = "tuple[OrtValue, OrtValue]"
"""Keys and values of the words so far, of all layers."""


@dataclass(frozen=True)
class _Heard:
    """A window in the decoder's ears."""

    cross: Cross
    logits: np.ndarray
    """(V,) for the first word."""
    past: Past
    """Of the prompt."""
    seconds: float
    """Of speech."""
    language: str
    no_speech: float


class Vocabulary:
    """The recogniser's tokens by what they do."""

    def __init__(self, backend: tokenizers.Tokenizer, suppressed: Sequence[int] = (),
                 not_first: Sequence[int] = ()) -> None:
        """suppressed: ids never written; not_first: ids that do not begin a text."""
        self.backend = backend
        self.start, self.end = self._id("<|startoftranscript|>"), self._id("<|endoftext|>")
        self.transcribe, self.plain = self._id("<|transcribe|>"), self._id("<|notimestamps|>")
        self.previous = self._id("<|startofprev|>")
        self.no_speech = self._id("<|nospeech|>", "<|nocaptions|>")
        self.suppressed = np.array(suppressed, np.int64)
        self.not_first = np.array(not_first, np.int64)

    @classmethod
    def from_files(cls, tokenizer: Path, config: Path) -> Vocabulary:
        """Read a tokenizer.json, and the lists `suppress_ids` and `suppress_ids_begin` of a config.json.

        Raises CheckpointError when either is damaged.
        """
        import tokenizers

        try:
            lists = json.loads(config.read_text(encoding="utf-8"))
            backend = tokenizers.Tokenizer.from_str(tokenizer.read_text(encoding="utf-8"))
            return cls(backend, lists["suppress_ids"], lists["suppress_ids_begin"])
        except CheckpointError:
            raise
        except Exception as error:  # the tokenizer's library raises bare Exception on malformed files
            raise CheckpointError(f"{tokenizer} or {config} cannot be read ({error}); assemble the model again"
                                  ) from error

    def _id(self, *names: str) -> int:
        found = [token_id for token_id in map(self.backend.token_to_id, names) if token_id is not None]
        if not found:
            raise CheckpointError(f"the recogniser's tokenizer has no token {names[0]!r}; assemble the model again")
        return int(found[0])

    @cached_property
    def languages(self) -> dict[str, int]:
        """Language code to token id: the specials between the start and <|translate|>."""
        ids = range(self.start + 1, self._id("<|translate|>"))
        return {str(self.backend.id_to_token(i)).strip("<|>"): i for i in ids}

    def prompt(self, language: str) -> tuple[list[int], list[int]]:
        """What the decoder reads before the first word: a style (with the start), or [] if the start will do; then
        the language and the task."""
        style = STYLES.get(language)
        words = self.backend.encode(style, add_special_tokens=False).ids if style else []
        before = [self.previous, *words, self.start] if style else []
        return before, [self.languages[language], self.transcribe, self.plain]

    def text(self, ids: Sequence[int]) -> str:
        return str(self.backend.decode(list(ids), skip_special_tokens=True))


@dataclass(frozen=True)
class RecogniserSessions:
    """The three graphs of Whisper."""

    encoder: InferenceSession
    cross: InferenceSession
    decoder: InferenceSession

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan, encoder: InferenceSession | None = None
                    ) -> RecogniserSessions:
        """encoder: the hearing encoder's session, to share it instead of loading it twice."""
        encoder = encoder or make_session(bundle.path("hearing_encoder.onnx"), plan, kind="hearing")
        return cls(encoder, make_session(bundle.path("recogniser_cross.onnx"), plan, kind="recogniser"),
                   make_session(bundle.path("recogniser.onnx"), plan, kind="recogniser"))


class Recogniser:
    """Writes down what is said. Holds no state between calls."""

    def __init__(self, sessions: RecogniserSessions, vocabulary: Vocabulary, shape: HearingConfig,
                 detector: SpeechDetector, config: RecogniserConfig | None = None) -> None:
        self.sessions = sessions
        self.vocabulary = vocabulary
        self.shape = shape
        self.detector = detector
        self.config = config or RecogniserConfig()

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan, *, encoder: InferenceSession | None = None) -> Recogniser:
        """Load the recogniser; `encoder` shares HearingEncoder.encoder's session and memory."""
        vocabulary = Vocabulary.from_files(bundle.path("recogniser_tokenizer.json"),
                                           bundle.path("recogniser_config.json"))
        return cls(RecogniserSessions.from_bundle(bundle, plan, encoder), vocabulary, bundle.nano.hearing,
                   SpeechDetector.from_bundle(bundle, plan))

    def transcribe(self, waveform: np.ndarray, language: str | None = None) -> Transcript:
        """waveform (N,) float32 at 16 kHz -> its words; "" where nobody speaks.

        language: code such as "en"; detected in the first window with speech when None.
        Raises OptionError for a language that the recogniser does not know.
        """
        if language is not None and language not in self.vocabulary.languages:
            raise OptionError(f"language {language!r} is unknown; known are {', '.join(self.vocabulary.languages)}")
        segments: list[TextSegment] = []
        for window in speech_windows(waveform, self.detector.segments(waveform), self.config):
            language, segment = self._window(waveform, window, language)
            segments += [segment] if segment.text.strip() else []
        text = "".join(segment.text for segment in segments).strip()
        return Transcript(text, language if text else None, tuple(segments))

    def _window(self, waveform: np.ndarray, window: Segment, language: str | None) -> tuple[str, TextSegment]:
        """The language and the text of one window."""
        start, stop = round(window.start_s * AUDIO_RATE_HZ), round(window.stop_s * AUDIO_RATE_HZ)
        is_word = window.seconds < self.config.sentence_s
        sizes = [(self.config.pad_s, self.config.least_s if is_word else self.config.sentence_least_s)]
        sizes = sizes if is_word else [(self.config.brief_pad_s, self.config.brief_least_s), *sizes]
        heard = self._hear(waveform[start:stop], sizes[0], language)
        text, score = self._believed(self._readings(heard, waveform[start:stop], sizes[1:]), heard.no_speech)
        return heard.language, TextSegment(window.start_s, window.stop_s, text, score, heard.no_speech)

    def _hear(self, speech: np.ndarray, size: tuple[float, float], language: str | None) -> _Heard:
        """Speech (N,), at most a window, to what the decoder attends to, up to the first word; size: seconds of silence
        behind it, and of the window at least."""
        mel = log_mel(padded_speech(speech, *size))
        frames = run_encoder(self.sessions.encoder, mel, np.zeros((mel.shape[1] // 2,) * 2, np.float32))
        names = [output.name for output in self.sessions.cross.get_outputs()]  # named as the decoder's inputs are
        values = self.sessions.cross.run_with_ort_values(names, {"encoder_out": _value(frames)})
        cross = dict(zip(names, values, strict=True))
        logits, past = self._read([self.vocabulary.start], self._empty_past(), cross)
        no_speech = float(np.exp(log_softmax(logits)[self.vocabulary.no_speech]))
        language = language or self._language(logits)
        before, prompt = self.vocabulary.prompt(language)
        past = self._read(before, self._empty_past(), cross)[1] if before else past
        logits, past = self._read(prompt, past, cross)
        return _Heard(cross, logits, past, len(speech) / AUDIO_RATE_HZ, language, no_speech)

    def _language(self, logits: np.ndarray) -> str:
        languages = self.vocabulary.languages
        return max(languages, key=lambda code: float(logits[languages[code]]))

    def _readings(self, heard: _Heard, speech: np.ndarray, larger: Sequence[tuple[float, float]]) -> Iterator[Reading]:
        """Attempts, the cheapest first: the likeliest text, the same in larger windows, then after as much silence as
        Whisper was trained with."""
        yield self._write(heard, 0.0)
        for size in larger:
            yield self._write(self._hear(speech, size, heard.language), 0.0)
        heard = self._hear(speech, (self.config.pad_s, self.config.window_s), heard.language)
        for temperature in (0.0, *self.config.retry_temperatures):
            yield self._write(heard, temperature)

    def _believed(self, readings: Iterable[Reading], no_speech: float) -> tuple[str, float]:
        """The first reading that is believed, else the best of those that may pass, else ""; and its score."""
        least = self.config.min_avg_logprob if no_speech <= self.config.max_no_speech else self.config.sure_avg_logprob
        doubtful: list[tuple[float, str]] = []
        for reading in readings:
            text = self.vocabulary.text(reading.ids)
            is_repeating = reading.looped or compression(text) > self.config.max_compression or is_doubled(text)
            if not is_repeating and reading.avg_logprob >= least:
                return text, reading.avg_logprob
            if not is_repeating and no_speech <= self.config.max_no_speech:
                doubtful.append((reading.avg_logprob, text))
        score, text = max(doubtful, default=(-math.inf, ""))
        return (text, score) if score >= self.config.least_avg_logprob else ("", score)

    def _write(self, heard: _Heard, temperature: float) -> Reading:
        """Token after token until the end, the limit or a loop."""
        rng = np.random.default_rng(0)
        limit = min(self.config.max_tokens, 24 + round(heard.seconds * self.config.tokens_per_s))
        logits, past, ids, logprobs = heard.logits.copy(), heard.past, list[int](), list[float]()
        while len(ids) < limit:
            logprob = log_softmax(self._allowed(logits, is_first=not ids))
            token_id = _pick(logprob, temperature, rng)
            logprobs.append(float(logprob[token_id]))
            if token_id == self.vocabulary.end:
                return Reading(tuple(ids), float(np.mean(logprobs)), looped=False)
            ids.append(token_id)
            if loop_length(ids):
                return Reading(tuple(ids), float(np.mean(logprobs)), looped=True)
            logits, past = self._read([token_id], past, heard.cross)
        return Reading(tuple(ids), float(np.mean(logprobs)), looped=heard.seconds * self.config.tokens_per_s < limit)

    def _allowed(self, logits: np.ndarray, *, is_first: bool) -> np.ndarray:
        """(V,) with what may not be written now at -inf; in place."""
        logits[self.vocabulary.suppressed] = -np.inf
        logits[self.vocabulary.end + 1 :] = -np.inf
        if is_first:
            logits[self.vocabulary.not_first] = -np.inf
        return logits

    def _empty_past(self) -> Past:
        shape = (self.shape.decoder_layers, 1, self.shape.heads, 0, self.shape.width // self.shape.heads)
        return _value(np.zeros(shape, np.float32)), _value(np.zeros(shape, np.float32))

    def _read(self, ids: list[int], past: Past, cross: Cross) -> tuple[np.ndarray, Past]:
        """Logits (V,) after ids, and the keys and values of all that was read."""
        values = {"ids": _value(np.array([ids], np.int64)), "past_k": past[0], "past_v": past[1], **cross}
        logits, key, value = self.sessions.decoder.run_with_ort_values(["logits", "present_k", "present_v"], values)
        return logits.numpy()[0], (key, value)


def _value(array: np.ndarray) -> OrtValue:
    from onnxruntime import OrtValue

    return OrtValue.ortvalue_from_numpy(array)


def _pick(logprob: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    """The likeliest id, or one drawn at a temperature."""
    if temperature == 0.0:
        return int(logprob.argmax())
    chances = np.exp(log_softmax(logprob.astype(np.float64) / temperature))
    return int(rng.choice(len(logprob), p=chances / chances.sum()))


def loop_length(ids: Sequence[int], least_repeats: int = 4, least_tokens: int = 16) -> int:
    """Tokens of the phrase that ids end with over and over; 0 when they do not."""
    for length in range(1, len(ids) // least_repeats + 1):
        repeats = max(least_repeats, -(-least_tokens // length))
        tail = ids[-length * repeats :]
        if len(tail) == length * repeats and all(tail[i] == tail[i % length] for i in range(len(tail))):
            return length
    return 0


def compression(text: str) -> float:
    """How many times zlib shortens a text: ordinary sentences stay below 2."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def is_doubled(text: str, least_letters: int = 6) -> bool:
    """Whether a text says the same thing twice and nothing else; short things ("no, no") may be."""
    letters = "".join(filter(str.isalnum, text.casefold()))
    half = len(letters) // 2
    return half >= least_letters and letters[:half] == letters[half:]


def padded_speech(speech: np.ndarray, pad_s: float, least_s: float) -> np.ndarray:
    """Silence after (N,): at least pad_s, up to least_s in all, an even number of mel frames, at most 30 s."""
    wanted = max(len(speech) + round(pad_s * AUDIO_RATE_HZ), round(least_s * AUDIO_RATE_HZ))
    frames = -(-min(wanted, WINDOW_S * AUDIO_RATE_HZ) // (2 * HOP_SAMPLES))
    return pad_to(speech, frames * 2 * HOP_SAMPLES)


def speech_windows(waveform: np.ndarray, speech: Sequence[Segment], config: RecogniserConfig) -> list[Segment]:
    """Stretches of speech to windows of at most window_s: neighbours joined, long ones cut where it is quietest."""
    windows: list[Segment] = []
    for piece in (part for segment in speech for part in cut_long(waveform, segment, config.window_s)):
        last = windows[-1] if windows else None
        if last and piece.stop_s - last.start_s <= config.window_s and piece.start_s - last.stop_s <= config.max_gap_s:
            windows[-1] = Segment(last.start_s, piece.stop_s)
        else:
            windows.append(piece)
    return windows


def cut_long(waveform: np.ndarray, segment: Segment, window_s: float) -> Iterator[Segment]:
    """A segment in pieces of at most window_s, each cut at the quietest tenth of a second of its last third."""
    while segment.seconds > window_s:
        at = quietest(waveform, segment.start_s + window_s * 2 / 3, segment.start_s + window_s)
        yield Segment(segment.start_s, at)
        segment = Segment(at, segment.stop_s)
    yield segment


def quietest(waveform: np.ndarray, start_s: float, stop_s: float) -> float:
    """Middle, in seconds, of the quietest tenth of a second within start_s to stop_s."""
    step = AUDIO_RATE_HZ // 10
    part = waveform[round(start_s * AUDIO_RATE_HZ) : round(stop_s * AUDIO_RATE_HZ)]
    energy = np.square(part[: len(part) // step * step].reshape(-1, step).astype(np.float64)).sum(1)
    return start_s + (int(energy.argmin()) + 0.5) * step / AUDIO_RATE_HZ
