"""Embeddings to logits and hidden states, through the language graph and a cache that the caller owns.

A bundle may have a second graph that reads prompts (`checkpoints.graphs.prompts`): it reads all of a prompt but the
last token, and the language graph is then only asked for short runs, all of which it attends by rows (`rows`).

Knows nothing of text, media or sampling. Letters: T tokens of a run, D language width, V vocabulary, K head width,
C cache capacity, R tokens whose logits are wanted. The graph's GroupQueryAttention writes keys and values into the
cache's buffers in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from ..checkpoints.bundle import PROMPTS_FILE
from ..checkpoints.safetensors_file import STORED, SafetensorsFile, TensorInfo
from ..errors import CheckpointError, OptionError
from ..model.config import LanguageConfig
from .bound_run import BoundRun
from .cache import KVCache
from .device import DevicePlan, make_session
from .rows import (
    BY_ROWS,
    GIVEN,
    LOGIT_ROWS,
    PLACES,
    TAKEN,
    Rows,
    goes_by_rows,
    is_short,
    num_fitting,
    num_rows,
)
from .run_times import RunTimes

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ..checkpoints.bundle import Bundle

PREFILL_CHUNK_TOKENS = 512
"""A longer prompt is read in chunks: bounds the activations, and lets a caller stop between chunks."""


class Room(Protocol):
    """The half of a cache that an engine needs."""

    def make_room(self, num_tokens: int) -> None:
        """Raises ContextFullError when so many more do not fit."""
        ...


CacheT = TypeVar("CacheT", bound=Room)


@dataclass(frozen=True)
class Step:
    """What the model thinks after its last token."""

    logits: np.ndarray
    """(V,) float32, of the last token alone; (0,) where more of the prompt follows and they were not computed."""
    hidden: np.ndarray
    """(T, D) float32, after the final norm, of every token of the run."""


@dataclass(frozen=True)
class Embeddings:
    """Token ids to vectors, from a table of one byte per number and one scale per row."""

    table: np.ndarray
    """(V, D) int8."""
    scales: np.ndarray
    """(V, 1) float16."""

    @classmethod
    def from_file(cls, path: Path) -> Embeddings:
        """Map a safetensors file with `embed_tokens` and `scales`: only rows that are used take memory.

        Raises CheckpointError when it is damaged.
        """
        try:
            infos = SafetensorsFile(path).infos
            return cls(_mapped(path, infos["embed_tokens"]), _mapped(path, infos["scales"]))
        except (OSError, KeyError, ValueError, CheckpointError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); assemble the model again") from error

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """(T,) integer ids to (T, D) float32. Raises OptionError when an id is outside the vocabulary."""
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        if ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < len(self.table)):
            raise OptionError(f"token ids must lie within 0 and {len(self.table) - 1}; "
                              f"these span {int(ids.min())} to {int(ids.max())}")
        return self.table[ids].astype(np.float32) * self.scales[ids].astype(np.float32)


def _mapped(path: Path, info: TensorInfo) -> np.ndarray:
    return np.asarray(np.memmap(path, STORED[info.dtype], mode="r", offset=info.begin, shape=info.shape))


class BaseEngine(Generic[CacheT]):
    """Reading into a cache, whatever computes it: what runs a decoder has `config`, `embed` and `_run`."""

    config: LanguageConfig
    chunk_tokens = PREFILL_CHUNK_TOKENS
    """Tokens of a prompt that are read at once."""
    spare_places = 0
    """Places of a context window that a single step needs beside its own."""

    @property
    def context_tokens(self) -> int:
        """Most tokens that a cache can hold."""
        return self.config.context_tokens - self.spare_places

    def embed(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """(T,) token ids to (T, D) float32."""
        raise NotImplementedError

    def _run(self, embeds: np.ndarray, cache: CacheT, is_last: bool = True) -> Step:
        """One run over embeds (T, D); the cache has room for them and grows by T.

        is_last: whether the logits are wanted."""
        raise NotImplementedError

    def prefill(self, embeds: np.ndarray, cache: CacheT) -> Step:
        """Read embeds (T, D), T >= 1, into the cache; logits of the last token, hidden states of all T.

        Raises ContextFullError, with the cache as it was, when they do not fit.
        """
        steps = list(self.prefill_chunks(embeds, cache))
        return Step(steps[-1].logits, np.concatenate([step.hidden for step in steps]))

    def prefill_chunks(self, embeds: np.ndarray, cache: CacheT) -> Iterator[Step]:
        """As prefill, one Step per chunk: a caller who stops early cuts the cache back with `truncate`."""
        embeds = np.asarray(embeds, dtype=np.float32)
        if embeds.ndim != 2 or embeds.shape[1] != self.config.width or not len(embeds):
            raise OptionError(f"embeds have shape {embeds.shape}; expected (T, {self.config.width}) with T >= 1")
        cache.make_room(len(embeds) + self.spare_places)
        return (self._run(embeds[start : start + self.chunk_tokens], cache, start + self.chunk_tokens >= len(embeds))
                for start in range(0, len(embeds), self.chunk_tokens))

    def decode(self, token_id: int, cache: CacheT) -> Step:
        """Read one token. Raises ContextFullError when the context window is full."""
        cache.make_room(1 + self.spare_places)
        return self._run(self.embed([token_id]), cache)

    def verify(self, ids: Sequence[int], cache: CacheT) -> list[Step]:
        """What `decode` gives for each of the tokens, one after the other; at least for the first of them.

        The cache holds as many more as steps are returned. Raises ContextFullError when they do not fit.
        """
        return [self.decode(token_id, cache) for token_id in ids]


class Engine(BaseEngine[KVCache]):
    """The language model at run time. Holds no conversation: any number of caches may be used in turn."""

    chunk_tokens = 128
    """On a CPU 7 to 15 % quicker than 512, with the same logits: attention's share of a chunk grows with its length."""
    is_shared = False
    """Whether several threads may decode at once; see `batching`."""

    def __init__(self, session: InferenceSession, config: LanguageConfig, embeddings: Embeddings,
                 prompts: InferenceSession | None = None) -> None:
        """session: a language graph as it was built, or as `open_steady` opens it, which can verify drafts.
        prompts: the graph that reads prompts, where there is one."""
        if embeddings.table.shape[1] != config.width:
            raise CheckpointError(f"the embedding table is {embeddings.table.shape[1]} wide but the language model "
                                  f"{config.width}; they belong to different models")
        self.session, self.prompts = session, prompts
        self.config = config
        self.embeddings = embeddings
        inputs = {value.name for value in session.get_inputs()}
        self.is_steady = LOGIT_ROWS in inputs
        """Whether the graph can give the logits of several tokens of a run."""
        self.is_exact: bool | None = None if self.is_steady else False
        """Whether a run of several tokens gives the numbers of single steps, bit by bit; None until `prove` tried."""
        self.step_places = num_rows(1, config)
        """Places in a cache that a single step writes to."""
        self._always_by_rows = TAKEN in inputs and BY_ROWS not in inputs
        self.spare_places = self.step_places - 1 if self._always_by_rows else 0
        self.run_times = RunTimes()

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan) -> Engine:
        """Load the language part of an assembled model."""
        embeddings = Embeddings.from_file(bundle.path("embeddings.safetensors"))
        prompts = None
        if bundle.has(PROMPTS_FILE):
            prompts = make_session(bundle.path(PROMPTS_FILE), plan, kind="language")
        session = open_steady(bundle.path("language.onnx"), plan, by_rows_alone=prompts is not None)
        return cls(session, bundle.config.language, embeddings, prompts)

    def new_cache(self, capacity: int = 512) -> KVCache:
        """An empty cache; it grows when it must. capacity is cut to the context window."""
        return KVCache.empty(self.config, min(capacity, self.context_tokens))

    def embed(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """(T,) token ids to (T, D) float32."""
        return self.embeddings.rows(np.asarray(ids, dtype=np.int64))

    def verify(self, ids: Sequence[int], cache: KVCache) -> list[Step]:
        """As `BaseEngine.verify`, in one run; the numbers are those of single steps where `is_exact`."""
        cache.make_room(len(ids) + self.spare_places)
        if not self.is_steady or len(ids) == 1:  # not by `decode`, which a subclass may hand to other threads
            return [self._step(self.embed([token_id]), cache) for token_id in ids]
        ids = ids[: self._num_fitting(cache)]
        run = self._prepared(cache, len(ids), len(ids))
        run(self.embed(ids), cache.length)
        cache.length += len(ids)
        return run.steps()

    def _num_fitting(self, cache: KVCache) -> int:
        """How many tokens of a draft can be read at once: rows need places, and something before them."""
        if not self._always_by_rows:
            return cache.limit - cache.length
        return num_fitting(cache.limit - cache.length, self.config) if cache.length else 1

    def prove(self, ids: Sequence[int], steps: Sequence[Step], cache: KVCache) -> bool:
        """Find out whether `verify` is exact here, by tokens that were decoded last and what they gave; `is_exact`.

        Which kernels multiply depends on the processor, so it is tried and not supposed. The cache stays as it is.
        Where others decode at the same time nothing is found out, and another answer may try.
        """
        twin = cache.copy()
        twin.truncate(cache.length - len(ids))
        again = self.verify(ids, twin)
        if len(again) == len(steps):
            self.is_exact = all(np.array_equal(one.logits, other.logits) and np.array_equal(one.hidden, other.hidden)
                                for one, other in zip(steps, again, strict=True))
        return bool(self.is_exact)

    def _run(self, embeds: np.ndarray, cache: KVCache, is_last: bool = True) -> Step:
        if self.prompts is None or is_short(len(embeds), cache, least_before=1):
            return self._step(embeds, cache)
        if not is_last:
            return Step(np.zeros(0, np.float32), self._read(self.prompts, embeds, cache))
        hidden = self._read(self.prompts, embeds[:-1], cache)
        step = self._step(embeds[-1:], cache)
        return Step(step.logits, np.concatenate([hidden, step.hidden]))

    def _step(self, embeds: np.ndarray, cache: KVCache) -> Step:
        """One run of the language graph over embeds (T, D)."""
        run = self._prepared(cache, len(embeds), 1)
        run(embeds, cache.length)
        cache.length += len(embeds)
        return run.last_step()

    def _read(self, prompts: InferenceSession, embeds: np.ndarray, cache: KVCache) -> np.ndarray:
        """One run of the graph that reads prompts; hidden states (T, D)."""
        run = _Run(prompts, self.config, cache, len(embeds), 0, by_rows=False)
        run(embeds, cache.length)
        cache.length += len(embeds)
        return np.array(run.hidden[0])

    def _prepared(self, cache: KVCache, num_tokens: int, num_logits: int) -> _Run:
        """A run for so many tokens behind those of the cache; kept where more of the kind will come."""
        by_rows = self._always_by_rows or (self.is_steady and goes_by_rows(num_tokens, cache, self.config))
        if by_rows:
            cache.make_room(num_rows(num_tokens, self.config))
        key = num_tokens, num_logits, by_rows
        run: _Run | None = cache.bindings.get(key)
        if run is None:
            run = _Run(self.session, self.config, cache, num_tokens, num_logits, by_rows)
            if num_tokens == 1 or num_logits > 1:  # thousands of these; prompts are of as many lengths as there are
                cache.bindings[key] = run
        return run


def open_steady(path: Path, plan: DevicePlan, *, by_rows_alone: bool = False) -> InferenceSession:
    """The language graph at path so that it can verify drafts; as it is where it is none of this package's.

    by_rows_alone: for short runs alone, which are then quicker. Raises CheckpointError when it is missing or damaged.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from .steady import with_logit_rows, with_rows

    try:
        opened = with_logit_rows(onnx.load(str(path), load_external_data=False))
        graph = with_rows(opened, always=by_rows_alone).SerializeToString()
    except (OSError, DecodeError, ValueError):  # onnxruntime says what is wrong with it, if anything is
        graph = None
    return make_session(path, plan, kind="language", graph=graph, short_runs=by_rows_alone)


class _Run:
    """One prepared run of the graph: inputs, outputs and cache bound to fixed memory, filled in place."""

    def __init__(self, session: InferenceSession, config: LanguageConfig, cache: KVCache, num_tokens: int,
                 num_logits: int, by_rows: bool) -> None:
        """num_logits: of how many of the last tokens the logits are wanted; 0 for a graph without a head."""
        known = {value.name for value in session.get_inputs()}
        self.embeds = np.zeros((1, num_tokens, config.width), np.float32)
        self.last = np.zeros(1, np.int32)
        self.total = np.zeros((), np.int32)
        shape = (num_logits, config.vocab_size) if LOGIT_ROWS in known else (config.vocab_size,)
        self.logits = np.zeros((1, *shape), np.float32)
        self.hidden = np.zeros((1, num_tokens, config.width), np.float32)
        self.rows = Rows.of(num_tokens if by_rows else 1, config)
        self.num_rows = len(self.rows.tokens) if by_rows else num_tokens
        self.places = self.rows.tokens[None].copy()
        self.bound = BoundRun(session)
        inputs: dict[str, np.ndarray] = {
            "inputs_embeds": self.embeds, "seqlens_k": self.last, "total_sequence_length": self.total,
            TAKEN: self.rows.taken, GIVEN: self.rows.given, PLACES: self.places, BY_ROWS: np.array(by_rows),
            LOGIT_ROWS: np.arange(num_tokens - num_logits, num_tokens)}
        for name in known & inputs.keys():
            self.bound.bind(inputs[name], name)
        if num_logits:
            self.bound.bind(self.logits, None, "logits")
        self.bound.bind(self.hidden, None, "hidden_states")
        self.bound.bind_cache(cache.arrays, config.layers)

    def __call__(self, embeds: np.ndarray, past_tokens: int) -> None:
        """embeds (T, D); past_tokens: how many the cache holds before. What came out lies here until the next call."""
        total = past_tokens + self.num_rows
        self.embeds[0], self.last[0], self.total[...] = embeds, total - 1, total
        self.places[0] = past_tokens + self.rows.tokens
        self.bound()

    def last_step(self) -> Step:
        """The last token's logits, all tokens' hidden states; copies."""
        return Step(self.logits.reshape(-1, self.logits.shape[-1])[-1].copy(), self.hidden[0].copy())

    def steps(self) -> list[Step]:
        """One of each token; copies."""
        logits, hidden = self.logits[0].copy(), self.hidden[0].copy()
        return [Step(logits[place], hidden[place : place + 1]) for place in range(len(logits))]
