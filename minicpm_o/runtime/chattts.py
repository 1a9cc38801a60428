"""The order of things in the voice of 2.6: what is read when, who sees whom, how codes are drawn and joined to sound.

Text comes in as ids, as slowly as it likes; pieces of a 24 kHz waveform go out. Knows no onnxruntime and no torch: the
network is whatever follows `VoiceNetwork`. Letters: n positions of a run, P positions before it, D width, q codebooks,
V codes of one, T steps, M mel bins, N samples.

The slots of a segment: 0 [Stts], 1 the speaker, 2 .. 301 text and one [Etts], 302 [Ptts], then the codes. The first 302
exist, as zeros, from the start: text is filled in, ten tokens at a time, while sound already grows behind it, and a
step of sound sees ten tokens more for every fifty steps. A long text goes on in a new segment, which first reads the
last words and the last sound of the old one.

Source: modeling_minicpmo.py of MiniCPM-o 2.6; its quirks are kept where the weights were used with them and named
where they are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..errors import CheckpointError, InputError, OptionError
from ..model.config import ChatTTSConfig
from .filters import Draw, keep_nucleus, keep_top_k, penalise, seeded_draw, softmax

FIRST_TEXT_SLOT = 2
"""After [Stts] and the one speaker."""

MIN_STEPS_PER_CALL = 10
"""Sound of fewer steps is too short to be faded at both ends."""


class VoiceNetwork(Protocol):
    """The raw calls; arrays are float32, ids and codes int64, caches opaque."""

    config: ChatTTSConfig

    def new_cache(self) -> Any:
        """The slots before [Ptts], all zeros."""

    def condition(self, ids: np.ndarray, speaker_hidden: np.ndarray | None) -> np.ndarray:
        """Text (n,) -> (n, D); speaker_hidden (1, llm width) takes the place of the speaker's token."""

    def embed_codes(self, codes: np.ndarray) -> np.ndarray:
        """(n, q) -> (n, D)."""

    def run(self, embeds: np.ndarray, visible: np.ndarray, cache: Any) -> np.ndarray:
        """Read embeds (n, D) into slots P .. P + n - 1, each seeing what its row of visible (n, P + n) bool allows.

        Returns logits (q, V) of the last one."""


@dataclass(frozen=True)
class SpeechTokens:
    """Ids of the marks around the text, as the voice's tokenizer has them."""

    start: int
    speaker: int
    end: int
    pad: int
    audio_bos: int


@dataclass(frozen=True)
class VoiceSampling:
    """How codes are drawn."""

    temperatures: tuple[float, ...] = (0.1, 0.3, 0.1, 0.3)
    """One per codebook."""
    top_p: float = 0.7
    top_k: int = 20
    min_keep: int = 3
    """Codes that both filters leave at least."""
    repetition_penalty: float = 1.0
    """Above 1, codes of the last `penalty_steps` become less likely, once for each time; 1 is off."""
    penalty_steps: int = 16
    steps_per_call: int = 25
    """Steps drawn for every ten tokens of text, and between two pieces of sound."""
    min_steps: int = 10
    """No end within the first so many steps of a call."""
    max_steps: int = 2048
    """A segment that has not ended by then is cut off: it is caught in a loop."""

    def __post_init__(self) -> None:
        if not self.temperatures or min(self.temperatures) <= 0:
            raise OptionError(f"temperatures are {self.temperatures}; one above 0 is needed for each codebook")
        if not 0 < self.top_p <= 1 or self.top_k < 1 or self.min_keep < 1 or self.repetition_penalty <= 0:
            raise OptionError(f"top_p is {self.top_p} (0 to 1), top_k {self.top_k} and min_keep {self.min_keep} (1 or "
                              f"more), repetition_penalty {self.repetition_penalty} (above 0)")
        if self.steps_per_call < MIN_STEPS_PER_CALL:
            raise OptionError(f"steps_per_call is {self.steps_per_call}; pieces of sound fade into each other at both "
                              f"ends, so each needs {MIN_STEPS_PER_CALL} steps or more")
        if not 0 <= self.min_steps < self.steps_per_call:
            raise OptionError(f"min_steps is {self.min_steps}; it must be at least 0 and below steps_per_call, "
                              f"{self.steps_per_call}")


@dataclass(eq=False)
class Segment:
    """One run of slots: its cache, its text so far and its codes so far."""

    cache: Any
    text: list[int] = field(default_factory=list)
    codes: list[np.ndarray] = field(default_factory=list)
    """Each (q,); those taken over from the segment before come first."""
    read: int = 0
    """Slots of text that are filled."""
    taken_over: int = 0
    """Codes that the segment before has spoken."""

    def code_array(self, start: int = 0) -> np.ndarray:
        return np.stack(self.codes[start:])


# ------------------------------------------------------------------------------------------------ who sees whom


def text_validity(config: ChatTTSConfig, num_text: int) -> np.ndarray:
    """(slots up to [Ptts],) bool: [Stts], the speaker, the text, [Etts] after it, and [Ptts].

    The mark's slot counts as soon as the text does, even while more text may still come and the slot holds zeros.
    """
    valid = np.zeros(config.text_reserved_tokens + 3, bool)
    valid[: FIRST_TEXT_SLOT + num_text + 1] = True
    valid[-1] = True
    return valid


def visible_slots(config: ChatTTSConfig, valid: np.ndarray, past: int) -> np.ndarray:
    """What a step of sound with `past` slots before it sees: (past + 1,) bool.

    Ten tokens of text more for every fifty steps; all sound; never [Ptts], which does not even see itself.
    """
    chunks = math.ceil((past - config.text_reserved_tokens) / config.audio_chunk_tokens)
    hidden = min(chunks * config.text_chunk_tokens, config.text_reserved_tokens) + FIRST_TEXT_SLOT
    row = np.ones(past + 1, bool)
    row[hidden : len(valid)] = False
    row[: len(valid)] &= valid
    return row


def causal(start: int, length: int) -> np.ndarray:
    """Text from slot `start` on sees all before and itself: (length, start + length) bool."""
    return np.arange(start + length) <= np.arange(start, start + length)[:, None]


# ------------------------------------------------------------------------------------------------ reading


def read_text(network: VoiceNetwork, segment: Segment, ids: Sequence[int], speaker_hidden: np.ndarray | None) -> None:
    """Fill the next slots with text; speaker_hidden is given with the first, which holds the speaker's token."""
    embeds = network.condition(np.asarray(ids, np.int64), speaker_hidden)
    network.run(embeds, causal(segment.read, len(ids)), segment.cache)
    segment.read += len(ids)


def read_codes(network: VoiceNetwork, segment: Segment, codes: np.ndarray) -> None:
    """Take over codes (T, q) of the segment before: [Ptts] and all but the last, which the next step reads.

    They all see the same, later ones too: the reference spreads one row of the mask over them.
    """
    config = network.config
    bos = network.condition(np.array([config.audio_bos], np.int64), None)
    embeds = np.concatenate([bos, network.embed_codes(codes[:-1])]) if len(codes) > 1 else bos
    past = config.text_reserved_tokens + FIRST_TEXT_SLOT
    row = visible_slots(config, text_validity(config, len(segment.text)), past)
    row = np.concatenate([row, np.ones(len(embeds) - 1, bool)])
    network.run(embeds, np.tile(row, (len(embeds), 1)), segment.cache)
    segment.codes = list(codes)
    segment.taken_over = len(codes)


# ------------------------------------------------------------------------------------------------ drawing


def code_probabilities(logits: np.ndarray, history: Sequence[np.ndarray], sampling: VoiceSampling, *, first: bool,
                       end_code: int | None) -> np.ndarray:
    """Logits (q, V) to what each codebook draws from, (q, V).

    history: codes so far, for the penalty. first: the very first step of sound is drawn unfiltered, as in the
    reference. end_code: the code that may not come yet, or None.
    """
    if len(sampling.temperatures) != len(logits):
        raise OptionError(f"{len(sampling.temperatures)} temperatures for {len(logits)} codebooks; give one for each")
    scores = logits.astype(np.float32) / np.array(sampling.temperatures, np.float32)[:, None]
    if not np.isfinite(scores).all():
        raise CheckpointError("the voice returned logits that are not numbers; its weights are damaged, fetch them "
                              "again")
    if not first:
        recent = np.array(history[-sampling.penalty_steps :], np.int64).reshape(-1, len(scores))  # (T, q)
        scores = np.stack([_filtered(row, codes, sampling) for row, codes in zip(scores, recent.T, strict=True)])
    if end_code is not None:
        scores[:, end_code] = -np.inf
    return softmax(scores)


def _filtered(scores: np.ndarray, recent: np.ndarray, sampling: VoiceSampling) -> np.ndarray:
    """One codebook's scores (V,) after penalty, nucleus and top-k."""
    scores = penalise(scores, recent, sampling.repetition_penalty)
    return keep_top_k(keep_nucleus(scores, sampling.top_p, sampling.min_keep), sampling.top_k, sampling.min_keep)


def generate(network: VoiceNetwork, segment: Segment, sampling: VoiceSampling, draw: Draw) -> bool:
    """Draw one call's steps into the segment; True when a codebook drew the end, whose step is not kept."""
    config = network.config
    valid = text_validity(config, len(segment.text))
    for step in range(sampling.steps_per_call):
        first = not segment.codes
        embeds = (network.condition(np.array([config.audio_bos], np.int64), None) if first
                  else network.embed_codes(segment.codes[-1][None]))
        past = config.text_reserved_tokens + FIRST_TEXT_SLOT + len(segment.codes)
        logits = network.run(embeds, visible_slots(config, valid, past)[None], segment.cache)
        probabilities = code_probabilities(logits, segment.codes, sampling, first=first,
                                           end_code=config.audio_eos if step < sampling.min_steps else None)
        codes = np.array([draw(row) for row in probabilities], np.int64)
        if (codes == config.audio_eos).any():
            return True
        segment.codes.append(codes)
    return False


# ------------------------------------------------------------------------------------------------ joining


def overlap_add(first: np.ndarray, second: np.ndarray, overlap: int) -> tuple[np.ndarray, np.ndarray]:
    """Fade from the end of one waveform into the start of the next over `overlap` samples.

    Returns what ends with the first waveform, and the rest of the second. Raises OptionError when one is shorter.
    """
    if not 0 < overlap <= min(len(first), len(second)):
        raise OptionError(f"cannot overlap {overlap} samples of waveforms of {len(first)} and {len(second)}")
    rising = np.arange(1, overlap + 1, dtype=np.float32) / np.float32(overlap + 1)
    mixed = first[-overlap:] * rising[::-1] + second[:overlap] * rising
    return np.concatenate([first[:-overlap], mixed.astype(np.float32)]), second[overlap:]


@dataclass(frozen=True)
class Joining:
    """How a segment's pieces of sound are cut and joined."""

    context_steps: int = 4
    """Steps before a piece that are decoded with it once more."""
    overlap_samples: int = 2048
    """The sound of those steps; the pieces fade into each other there."""


class SoundJoiner:
    """Pieces of one segment to a stream: all but the last samples of a piece go out at once."""

    def __init__(self, joining: Joining) -> None:
        self.joining = joining
        self.held: np.ndarray | None = None

    def add(self, waveform: np.ndarray) -> np.ndarray:
        """A piece that begins with the context of the one before -> what is certain now."""
        overlap = self.joining.overlap_samples
        if self.held is not None:
            mixed, rest = overlap_add(self.held, waveform, overlap)
            waveform = np.concatenate([mixed, rest])
        cut = max(0, len(waveform) - overlap)
        self.held = waveform[cut:]
        return waveform[:cut]

    def flush(self) -> np.ndarray:
        """What was held back."""
        held, self.held = self.held, None
        return np.empty(0, np.float32) if held is None else held


# ------------------------------------------------------------------------------------------------ speaking


@dataclass(frozen=True)
class Segmenting:
    """When a long text goes on in a new segment."""

    soft_tokens: int = 120
    """From here on at the next end of a sentence; at the latest when no more text fits."""
    carried_tokens: int = 5
    carried_steps: int = 50


class ChatTTSVoice:
    """Speaks: text ids and the language model's thought of the speaker to sound."""

    def __init__(self, network: VoiceNetwork, mel: Callable[[np.ndarray], np.ndarray],
                 vocode: Callable[[np.ndarray], np.ndarray], tokens: SpeechTokens, *,
                 ends_sentence: Callable[[Sequence[int]], bool] = lambda ids: False,
                 sampling: VoiceSampling | None = None, segmenting: Segmenting | None = None,
                 joining: Joining | None = None) -> None:
        """mel: codes (T, q) -> (M, frames). vocode: mel -> waveform (N,). ends_sentence: of the ids so far."""
        self.network = network
        self.mel = mel
        self.vocode = vocode
        self.tokens = tokens
        self.ends_sentence = ends_sentence
        self.sampling = sampling or VoiceSampling()
        self.segmenting = segmenting or Segmenting()
        self.joining = joining or Joining()

    def speak(self, text_ids: Iterable[int], speaker_hidden: np.ndarray, *, draw: Draw | None = None,
              seed: int | None = None) -> Iterator[np.ndarray]:
        """Yield the waveform in pieces (N,) float32 at 24 kHz, each as soon as it is certain.

        text_ids may be an iterator that still waits for text; speaker_hidden (1, llm width) or (llm width,): the last
        hidden state at the speaker's token. draw: instead of a generator of `seed`. Raises InputError for no text,
        OptionError for a hidden state or a token of the wrong kind.
        """
        hidden = self._checked_hidden(speaker_hidden)
        draw = draw or seeded_draw(seed)
        text = _Peekable(self._checked_ids(text_ids))
        if text.empty():
            raise InputError("the text to speak has no tokens; give at least one word")
        segment: Segment | None = None
        while not text.empty():
            segment = self._open(hidden, segment)
            stopped = yield from self._sound(self._steps(segment, text, hidden, draw), segment)
            if stopped:
                return

    def whole(self, text_ids: Iterable[int], speaker_hidden: np.ndarray, *, draw: Draw | None = None,
              seed: int | None = None) -> np.ndarray:
        """As speak, all at once: (N,) float32."""
        pieces = list(self.speak(text_ids, speaker_hidden, draw=draw, seed=seed))
        return np.concatenate(pieces) if pieces else np.empty(0, np.float32)

    def _open(self, hidden: np.ndarray, before: Segment | None) -> Segment:
        """An empty segment, or one that has read the last words and the last sound of the one before."""
        segment = Segment(self.network.new_cache())
        if before is None or not before.codes:
            return segment
        segment.text = before.text[-self.segmenting.carried_tokens :]
        read_text(self.network, segment, [self.tokens.start, self.tokens.speaker, *segment.text], hidden)
        read_codes(self.network, segment, before.code_array()[-self.segmenting.carried_steps :])
        return segment

    def _steps(self, segment: Segment, text: _Peekable, hidden: np.ndarray, draw: Draw) -> Iterator[bool]:
        """Read and draw by turns; yields after every call whether the whole reply is over."""
        config, chunk = self.network.config, self.network.config.text_chunk_tokens
        goal = chunk * (len(segment.text) // chunk + 1)
        while self._gather(segment, text, goal):
            self._read_up_to(segment, goal, hidden)
            goal += chunk
            if generate(self.network, segment, self.sampling, draw):
                yield True  # an end in the middle of the text ends the reply: the reference drops the rest too
                return
            yield False
        self._read_up_to(segment, len(segment.text), hidden)
        if len(segment.text) < config.text_reserved_tokens:
            read_text(self.network, segment, [self.tokens.end], None)
        limit = min(self.sampling.max_steps, config.max_positions - config.text_reserved_tokens - FIRST_TEXT_SLOT
                    - self.sampling.steps_per_call)
        while not (ended := generate(self.network, segment, self.sampling, draw)):
            if len(segment.codes) > limit:
                break
            yield False
        yield not ended

    def _gather(self, segment: Segment, text: _Peekable, goal: int) -> bool:
        """Take text until there are `goal` tokens; False when the segment's text is over before that."""
        limit = self.network.config.text_reserved_tokens
        while len(segment.text) < goal:
            if text.empty() or len(segment.text) >= limit:
                return False
            segment.text.append(text.take())
            if len(segment.text) >= self.segmenting.soft_tokens and self.ends_sentence(segment.text):
                return False
        return True

    def _read_up_to(self, segment: Segment, num_text: int, hidden: np.ndarray) -> None:
        """Fill the slots up to so many tokens of text; the marks and the speaker go with the first."""
        done = segment.read - FIRST_TEXT_SLOT
        if not segment.read:
            read_text(self.network, segment, [self.tokens.start, self.tokens.speaker, *segment.text[:num_text]], hidden)
        elif num_text > done:
            read_text(self.network, segment, segment.text[done:num_text], None)

    def _sound(self, steps: Iterator[bool], segment: Segment) -> Generator[np.ndarray, None, bool]:
        """Decode each call's codes with a little of what came before, and join; returns whether the reply is over."""
        joiner, spoken, stopped = SoundJoiner(self.joining), segment.taken_over, False
        for over in steps:
            stopped = over
            if len(segment.codes) == spoken:
                continue
            context = min(self.joining.context_steps, spoken)
            waveform = self.vocode(self.mel(segment.code_array(spoken - context)))
            if context and spoken == segment.taken_over:  # the segment before has played these steps
                waveform = waveform[self.joining.overlap_samples :]
            spoken = len(segment.codes)
            piece = joiner.add(waveform)
            if len(piece):
                yield piece
        rest = joiner.flush()
        if len(rest):
            yield rest
        return stopped

    def _checked_hidden(self, hidden: np.ndarray) -> np.ndarray:
        width = self.network.config.llm_width
        hidden = np.asarray(hidden, np.float32)
        if hidden.shape not in ((1, width), (width,)):
            raise OptionError(f"the speaker's hidden state has shape {hidden.shape}, expected (1, {width}): the "
                              f"language model's last hidden state at the speaker's token")
        if not np.isfinite(hidden).all():
            raise OptionError("the speaker's hidden state holds NaN or infinite numbers; the language model's weights "
                              "are damaged or of too few bits")
        return hidden.reshape(1, width)

    def _checked_ids(self, ids: Iterable[int]) -> Iterator[int]:
        top = self.network.config.num_text_tokens
        for token in ids:
            if not 0 <= int(token) < top:
                raise OptionError(f"text token {int(token)} is not of the voice's vocabulary of {top}; its tokenizer "
                                  f"is assets/chattts_tokenizer, not the language model's")
            yield int(token)


class _Peekable:
    """An iterator of ids that can be asked whether it is over."""

    def __init__(self, ids: Iterator[int]) -> None:
        self.ids = ids
        self.next: int | None = None

    def empty(self) -> bool:
        if self.next is None:
            self.next = next(self.ids, None)
        return self.next is None

    def take(self) -> int:
        if self.empty() or self.next is None:
            raise IndexError("the ids are over")
        taken, self.next = self.next, None
        return taken

