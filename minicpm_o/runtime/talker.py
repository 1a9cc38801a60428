"""Words and what the language model thought of them to speech tokens, 25 a second: the sampling loops of 4.5's talker.

Knows no weights: a torch module or an onnxruntime session stand behind `TalkerNetwork`, and every draw is the caller's.
Letters: N words, T positions, L language model's width, D talker's width, V speech tokens (the last one is the end).

Three ways to speak: `generate`, a whole reply at once; `TalkerStream`, text in pieces and speech tokens in pieces of 25
(half-duplex); `speak_unit`, one second at a time while listening (duplex).

Source: MiniCPMTTS.generate, TTSStreamingGenerator and MiniCPMTTS.generate_chunk of MiniCPM-o 4.5. What they do
differently from one another is kept, and marked where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import CheckpointError, OptionError
from ..model.config import TalkerConfig
from .cache import KVCache
from .device import DevicePlan, make_session
from .engine import Embeddings, Engine
from .filters import Draw, keep_nucleus, keep_top_k, penalise, softmax

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CHUNK_CODES = 25
"""Speech tokens of a second, and of a piece of a stream."""

UNIT_SAMPLES = CHUNK_CODES + 1
"""Duplex: one more is sampled than is spoken; it is neither spoken nor read by the talker."""

STREAM_MAX_CODES = 500
"""Most speech tokens for one piece of text."""

REPETITION_WINDOW = 16
KEPT_AT_LEAST = 3
"""Speech tokens that survive the nucleus and top-k."""


class TalkerCache(Protocol):
    """What a talker remembers; grows when it reads."""

    @property
    def length(self) -> int: ...

    def copy(self) -> Any:
        """An independent cache of the same positions."""


class TalkerNetwork(Protocol):
    """Raw calls; numpy float32 in and out."""

    @property
    def config(self) -> TalkerConfig: ...

    def new_cache(self) -> Any:
        """An empty `TalkerCache`."""

    def embed_text(self, ids: np.ndarray) -> np.ndarray:
        """(N,) ids of the talker's text table to (N, D)."""

    def embed_codes(self, codes: np.ndarray) -> np.ndarray:
        """(N,) speech tokens to (N, D)."""

    def project(self, hidden: np.ndarray) -> np.ndarray:
        """(N, L) to (N, D), not normed."""

    def run(self, embeds: np.ndarray, cache: Any) -> np.ndarray:
        """Read (T, D) into the cache; logits (V,) after the last."""


@dataclass(frozen=True)
class TalkerSampling:
    """How speech tokens are drawn; the defaults are the official ones."""

    temperature: float = 0.8
    top_p: float = 0.85
    top_k: int = 25
    repetition_penalty: float = 1.05

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise OptionError(f"temperature is {self.temperature!r} and repetition_penalty "
                              f"{self.repetition_penalty!r}; both must be above 0")
        if not 0 < self.top_p <= 1 or self.top_k < 1:
            raise OptionError(f"top_p is {self.top_p!r} and top_k {self.top_k!r}; expected above 0 up to 1, and 1 or "
                              "more")

    @classmethod
    def of(cls, config: TalkerConfig) -> TalkerSampling:
        """What the checkpoint's config says."""
        return cls(config.temperature, config.top_p, config.top_k, config.repetition_penalty)


def code_probabilities(logits: np.ndarray, history: Sequence[int], sampling: TalkerSampling, *, first: bool,
                       filters: bool = True, forbid_end: bool = False) -> np.ndarray:
    """logits (V,) of the last position to the probabilities (V,) that are drawn from.

    history: speech tokens before, of which the last few make themselves less likely. first: no penalty, no filters.
    Raises CheckpointError when nothing can be drawn: the weights or the graph are damaged.
    """
    scores = np.asarray(logits, np.float32) / np.float32(sampling.temperature)
    if not first:
        scores = penalise(scores, history[-REPETITION_WINDOW:], sampling.repetition_penalty)
        if filters:
            scores = keep_top_k(keep_nucleus(scores, sampling.top_p, KEPT_AT_LEAST), sampling.top_k, KEPT_AT_LEAST)
    if forbid_end:
        scores = scores.copy()
        scores[-1] = -np.inf
    if not np.isfinite(scores.max()):
        raise CheckpointError("the talker returned logits without a finite maximum; its weights are damaged, load or "
                              "export the model again")
    return softmax(scores)


def conditions(network: TalkerNetwork, ids: Sequence[int] | np.ndarray, hidden: np.ndarray, *,
               text_finished: bool) -> np.ndarray:
    """What the talker reads before it speaks: words (N,) and the language model's hidden states (N, L) to (N + 1, D),
    or (N + 2, D) with the end of the text.

    A hidden state is that of the position where its word was read, after the final norm. The text's end follows if it
    is finished, and always the start of speech. Raises OptionError when ids and hidden states do not fit together.
    """
    config = network.config
    words = np.asarray(ids, np.int64).reshape(-1)
    hidden = np.asarray(hidden, np.float32)
    if hidden.shape != (len(words), config.llm_width):
        raise OptionError(f"hidden states have shape {hidden.shape}; {len(words)} words need "
                          f"({len(words)}, {config.llm_width})")
    _check_range("words", words, config.num_text_tokens)
    marks = [config.text_eos] * text_finished + [config.audio_bos]
    embeds = network.embed_text(np.concatenate([words, np.array(marks, np.int64)]))
    if not len(words):
        return embeds
    return np.concatenate([embeds[: len(words)] + _thoughts(network, hidden), embeds[len(words) :]])


def _thoughts(network: TalkerNetwork, hidden: np.ndarray) -> np.ndarray:
    projected = network.project(hidden)
    if not network.config.normalize_hidden:
        return projected
    lengths = np.linalg.norm(projected, axis=-1, keepdims=True)
    result: np.ndarray = projected / np.maximum(lengths, np.float32(1e-12))
    return result


def embed_codes(network: TalkerNetwork, codes: Sequence[int] | np.ndarray) -> np.ndarray:
    """(N,) speech tokens to (N, D). Raises OptionError for none and for one out of range."""
    ids = np.asarray(codes, np.int64).reshape(-1)
    if not ids.size:
        raise OptionError("there are no speech tokens to read; give at least one")
    _check_range("speech tokens", ids, network.config.num_audio_tokens)
    return network.embed_codes(ids)


def _check_range(what: str, ids: np.ndarray, size: int) -> None:
    if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < size):
        raise OptionError(f"{what} must lie within 0 and {size - 1}; these span {int(ids.min())} to {int(ids.max())}")


@dataclass(frozen=True)
class Spoken:
    """Speech tokens of one call."""

    codes: tuple[int, ...]
    finished: bool
    """The talker said that it is done; otherwise it was cut short."""


def _sample(network: TalkerNetwork, embeds: np.ndarray, cache: Any, draw: Draw, *,
            probabilities: Callable[[np.ndarray, list[int]], np.ndarray], limit: int) -> Iterator[int]:
    """Read the conditions and then, one by one, what was drawn; yields every draw up to and with the end.

    The last of `limit` draws is not read.
    """
    drawn: list[int] = []
    while len(drawn) < limit:
        logits = network.run(embeds, cache)
        drawn.append(int(draw(probabilities(logits, drawn))))
        yield drawn[-1]
        if drawn[-1] == network.config.audio_eos:
            return
        if len(drawn) < limit:
            embeds = embed_codes(network, drawn[-1:])


def generate(network: TalkerNetwork, embeds: np.ndarray, draw: Draw, *, sampling: TalkerSampling | None = None,
             min_codes: int = 50, max_codes: int = 2048) -> Spoken:
    """A whole reply: conditions (T, D) of a finished text to its speech tokens, of which the end is none.

    min_codes: so many come before the end may. When max_codes are drawn without an end, the last is dropped (as the
    reference does, which looks one further back than it drew).
    """
    chosen = sampling or TalkerSampling.of(network.config)

    def probabilities(logits: np.ndarray, drawn: list[int]) -> np.ndarray:
        return code_probabilities(logits, drawn, chosen, first=not drawn, forbid_end=len(drawn) < min_codes)

    drawn = list(_sample(network, embeds, network.new_cache(), draw, probabilities=probabilities,
                         limit=_positive(max_codes)))
    return Spoken(tuple(drawn[:-1]), drawn[-1] == network.config.audio_eos)


@dataclass(frozen=True)
class UnitState:
    """A duplex talker between two units of a turn; None in its place begins a turn."""

    cache: Any

    def copy(self) -> UnitState:
        """A snapshot: speaking on from one does not touch the other."""
        return UnitState(self.cache.copy())


def speak_unit(network: TalkerNetwork, embeds: np.ndarray, state: UnitState | None, draw: Draw, *,
               sampling: TalkerSampling | None = None, end_of_turn: bool = False) -> tuple[Spoken, UnitState]:
    """One second of a duplex reply: the unit's conditions (T, D) to at most 25 speech tokens.

    The first and the last unit of a turn may end early; the others are a whole second. No filters are applied, and the
    penalty looks at this unit alone, as in the reference. The state passed in is not
    to be used again; copy it to come back to it.
    """
    chosen = sampling or TalkerSampling.of(network.config)
    first_unit = state is None
    cache = _with_room(network, network.new_cache() if state is None else state.cache, len(embeds) + UNIT_SAMPLES)
    at_least = 0 if first_unit or end_of_turn else UNIT_SAMPLES

    def probabilities(logits: np.ndarray, drawn: list[int]) -> np.ndarray:
        return code_probabilities(logits, drawn, chosen, first=not drawn, filters=False,
                                  forbid_end=len(drawn) < at_least)

    drawn = list(_sample(network, embeds, cache, draw, probabilities=probabilities, limit=UNIT_SAMPLES))
    return Spoken(tuple(drawn[:-1]), drawn[-1] == network.config.audio_eos), UnitState(cache)


def _with_room(network: TalkerNetwork, cache: Any, positions: int) -> Any:
    """The cache, or an empty one when it has no room for so many more positions: after some two and a half minutes the
    talker goes on without what it said, rather than not at all."""
    return cache if cache.length + positions <= network.config.max_positions else network.new_cache()


def _positive(limit: int) -> int:
    if limit < 1:
        raise OptionError(f"at most {limit} speech tokens are asked for; it must be 1 or more")
    return limit


@dataclass(frozen=True)
class CodeChunk:
    """A piece of a stream."""

    codes: tuple[int, ...]
    """`chunk_codes` of them; fewer, or none, in the last piece."""
    last: bool


class TalkerStream:
    """A reply whose text comes in pieces. Each piece is read behind what was said so far, in one growing cache.

    An end that the talker draws within the reply only means that it waits for more text.
    """

    def __init__(self, network: TalkerNetwork, draw: Draw, *, sampling: TalkerSampling | None = None,
                 chunk_codes: int = CHUNK_CODES) -> None:
        self.network = network
        self.draw = draw
        self.sampling = sampling or TalkerSampling.of(network.config)
        self.chunk_codes = _positive(chunk_codes)
        self.cache = network.new_cache()
        self.codes: list[int] = []
        """All speech tokens of the reply so far; the penalty looks at the last of them."""
        self._waiting: list[int] = []

    def read(self, ids: Sequence[int] | np.ndarray, hidden: np.ndarray, *, text_finished: bool,
             max_codes: int = STREAM_MAX_CODES) -> Iterator[CodeChunk]:
        """Words (N,) with hidden states (N, L), about ten at a time, to pieces of speech as they are ready.

        What does not fill a piece waits for the next text; after the last, it comes as the last piece. Read all that
        comes before the next call.
        """
        embeds = conditions(self.network, ids, hidden, text_finished=text_finished)
        self.cache = _with_room(self.network, self.cache, len(embeds) + _positive(max_codes))
        for code in _sample(self.network, embeds, self.cache, self.draw, probabilities=self._probabilities,
                            limit=max_codes):
            if code != self.network.config.audio_eos:
                self.codes.append(code)
                self._waiting.append(code)
            if len(self._waiting) >= self.chunk_codes:
                yield CodeChunk(self._taken(self.chunk_codes), False)
        if text_finished:
            yield CodeChunk(self._taken(len(self._waiting)), True)

    def copy(self) -> TalkerStream:
        """A snapshot: reading on in one does not touch the other (but both draw from the same source)."""
        twin = TalkerStream(self.network, self.draw, sampling=self.sampling, chunk_codes=self.chunk_codes)
        twin.cache, twin.codes, twin._waiting = self.cache.copy(), self.codes.copy(), self._waiting.copy()
        return twin

    def _probabilities(self, logits: np.ndarray, drawn: list[int]) -> np.ndarray:
        """Only the very first speech token of a reply is drawn freely."""
        return code_probabilities(logits, self.codes, self.sampling, first=not self.codes)

    def _taken(self, count: int) -> tuple[int, ...]:
        taken, self._waiting = tuple(self._waiting[:count]), self._waiting[count:]
        return taken


@dataclass(frozen=True)
class TalkerTables:
    """What the talker needs besides its graph."""

    text: Embeddings
    codes: Embeddings
    projector: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    """Weight (D, L) and bias of the first layer, weight (D, D) and bias of the second."""

    @classmethod
    def from_file(cls, path: Path) -> TalkerTables:
        """Read talker_embeddings.safetensors. Raises CheckpointError when it is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(path)
            tables = [Embeddings(tensors[f"{name}.table"], tensors[f"{name}.scales"])
                      for name in ("emb_text", "emb_code")]
            layers = [np.asarray(tensors[f"projector_semantic.{name}"], np.float32)
                      for name in ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias")]
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); export the model again") from error
        return cls(tables[0], tables[1], (layers[0], layers[1], layers[2], layers[3]))


class TalkerSession:
    """The talker's graph and tables behind `TalkerNetwork`."""

    def __init__(self, session: InferenceSession, config: TalkerConfig, tables: TalkerTables) -> None:
        self.config = config
        self.tables = tables
        self.engine = Engine(session, config.as_language(), tables.codes)

    @classmethod
    def from_folder(cls, folder: Path, config: TalkerConfig, plan: DevicePlan) -> TalkerSession:
        """Load talker.onnx and its tables. Raises CheckpointError when they are missing or damaged."""
        tables = TalkerTables.from_file(folder / "talker_embeddings.safetensors")
        return cls(make_session(folder / "talker.onnx", plan, kind="speech"), config, tables)

    def new_cache(self) -> KVCache:
        return self.engine.new_cache()

    def embed_text(self, ids: np.ndarray) -> np.ndarray:
        return self.tables.text.rows(ids)

    def embed_codes(self, codes: np.ndarray) -> np.ndarray:
        return self.engine.embed(codes)

    def project(self, hidden: np.ndarray) -> np.ndarray:
        weight1, bias1, weight2, bias2 = self.tables.projector
        inner = np.maximum(hidden @ weight1.T + bias1, 0)
        result: np.ndarray = inner @ weight2.T + bias2
        return result

    def run(self, embeds: np.ndarray, cache: KVCache) -> np.ndarray:
        return self.engine.prefill(embeds, cache).logits
