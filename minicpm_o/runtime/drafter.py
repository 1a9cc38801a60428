"""A small network that guesses how nano's answers go on: a decoder layer over nano's own hidden states.

Like EAGLE (arXiv:2401.15077) it reads pairs, a hidden state of the model and the token behind it, and gives the next
state, whose likeliest word is the guess; it goes on from its own guess for further words. What it read before lies in a
cache of its own. It knows the few thousand words that nano says most. Its training: `training.drafter`.
Letters: T pairs of a run, n states, D language width, N words known.
"""

from __future__ import annotations

import importlib.resources
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoints.graphs.builder import FLOAT, GraphBuilder
from ..checkpoints.graphs.language import answer, declare_lengths, decoder_layer, first_norm
from ..errors import CheckpointError
from ..model.config import LanguageConfig
from .bound_run import BoundRun
from .cache import KVCache
from .device import DevicePlan, make_session
from .speculate import Guess

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

LEAST_REACHED = 0.25
"""Nothing is guessed behind what is less likely to be reached."""
MOST_SURE = 0.98
PRIOR = 8.0
"""Guesses that stand for the training when an answer begins, against those of the answer itself."""
MOST_READ = 128
"""Pairs that are read when an answer begins, or when the cache was full; those before them are not looked at."""
CONTEXT_PAIRS = 2048
BLOCK_SIZES = (64, 32, 16)
Tensors = Mapping[str, np.ndarray]


def packaged_path() -> Path:
    """The trained network that comes with this package."""
    return Path(str(importlib.resources.files("minicpm_o") / "assets" / "nano" / "drafter.safetensors"))


def read_drafter(path: Path) -> dict[str, np.ndarray]:
    """Tensors as float32, `word_ids` (N,) and `heads` (2,) int32. Raises CheckpointError when the file is missing or
    damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        stored = load_file(path)
        scales = {name.removesuffix(".scales"): stored.pop(name) for name in list(stored) if name.endswith(".scales")}
        tensors = {name: stored[name].astype(np.float32) * scale.astype(np.float32) for name, scale in scales.items()}
        network_config(stored | tensors)
        return stored | tensors
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"the drafter {path} is missing or damaged ({error}); install minicpm-o again") from error


def network_config(tensors: Tensors) -> LanguageConfig:
    """The decoder layer, as a language model of one layer that knows N words."""
    words, width = tensors["lm_head.weight"].shape
    heads, kv_heads = (int(count) for count in tensors["heads"])
    return LanguageConfig(vocab_size=words, width=width, layers=1, heads=heads, kv_heads=kv_heads,
                          head_width=width // heads, ffn=len(tensors["model.layers.0.mlp.gate_proj.weight"]),
                          context_tokens=CONTEXT_PAIRS, tied_head=False)


def build_drafter(tensors: Tensors, path: Path, bits: int | None = 4) -> None:
    """Write a run as a graph: as `checkpoints.graphs.language` has it, but with `states` and `said` (1, T, D), both
    scaled, instead of embeddings."""
    graph, config = GraphBuilder("drafter"), network_config(tensors)
    block_size = next(size for size in BLOCK_SIZES if config.width % size == 0)
    states, said = (graph.input(name, FLOAT, [1, "tokens", config.width]) for name in ("states", "said"))
    both = graph.node("Concat", [states, said], "both", axis=-1)
    entered = graph.linear(both, tensors["enter.weight"], tensors["enter.bias"], "enter", bits=bits,
                           block_size=block_size)
    half = graph.node("Mul", [states, graph.scalar("half", 0.5)], "kept")
    graph.node("Add", [half, entered], "entered", out="inputs_embeds")
    declare_lengths(graph, config)
    normed, residual = first_norm(graph, tensors, config)
    decoder_layer(graph, tensors, config, 0, normed, residual, bits=bits, block_size=block_size)
    answer(graph, tensors, config, bits=bits, block_size=block_size)
    graph.save(path)


@dataclass(frozen=True)
class DraftNetwork:
    """The network, opened once for all answers."""

    session: InferenceSession
    config: LanguageConfig
    word_ids: np.ndarray
    """(N,) int: tokens by place in the logits."""
    state_scale: float
    said_scale: float
    embed: Callable[[Sequence[int]], np.ndarray]
    """As `Engine.embed`."""

    @classmethod
    def open(cls, tensors: Tensors, embed: Callable[[Sequence[int]], np.ndarray], plan: DevicePlan) -> DraftNetwork:
        """embed: of the model whose answers are to be guessed."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "drafter.onnx"
            build_drafter(tensors, path)
            session = make_session(path, replace(plan, threads=1), kind="language")  # waking others takes longer
        state_scale, said_scale = (float(scale) for scale in tensors["scales"])
        return cls(session, network_config(tensors), tensors["word_ids"].astype(np.int64), state_scale, said_scale,
                   embed)

    def __call__(self, states: np.ndarray, ids: Sequence[int], cache: KVCache) -> tuple[np.ndarray, int, float]:
        """Scaled states (T, D) and the tokens behind them, read into the cache, to the state (1, D) behind the last,
        the word guessed and its probability."""
        cache.make_room(len(ids))
        run: _Run | None = cache.bindings.get(len(ids))
        if run is None:
            run = _Run(self.session, self.config, len(ids), cache)
            if len(ids) == 1:  # nearly all are
                cache.bindings[len(ids)] = run
        state, logits = run(states, self.embed(ids) * np.float32(self.said_scale), cache.length)
        cache.length += len(ids)
        best = int(logits.argmax())
        return state, int(self.word_ids[best]), float(1.0 / np.exp(logits - logits[best]).sum())


class _Run:
    """One prepared run of the graph, bound to fixed memory, filled in place."""

    def __init__(self, session: InferenceSession, config: LanguageConfig, num_pairs: int, cache: KVCache) -> None:
        self.states, self.said, self.hidden = (np.zeros((1, num_pairs, config.width), np.float32) for _ in range(3))
        self.logits = np.zeros((1, config.vocab_size), np.float32)
        self.last, self.total = np.zeros(1, np.int32), np.zeros((), np.int32)
        self.bound = BoundRun(session)
        for name, array in (("states", self.states), ("said", self.said), ("seqlens_k", self.last),
                            ("total_sequence_length", self.total)):
            self.bound.bind(array, name)
        self.bound.bind(self.hidden, None, "hidden_states")
        self.bound.bind(self.logits, None, "logits")
        self.bound.bind_cache(cache.arrays, config.layers)

    def __call__(self, states: np.ndarray, said: np.ndarray, past_pairs: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (T, D) behind so many, to the last one's state (1, D), a copy, and logits (N,), good until the next."""
        total = past_pairs + len(states)
        self.states[0], self.said[0], self.last[0], self.total[...] = states, said, total - 1, total
        self.bound()
        return self.hidden[0, -1:].copy(), self.logits[0]


@dataclass
class LearnedDrafter:
    """A `speculate.Drafter` for one answer; learns by it how far the network is to be trusted."""

    network: DraftNetwork
    never: Collection[int] = frozenset()
    """Tokens that no answer goes on with: those that end it, and those that it may not hold."""
    _cache: KVCache = field(init=False)
    _num_read: int = 0
    """States of the answer that the cache holds, or that are too far back."""
    _right: float = PRIOR
    _expected: float = PRIOR
    """Of the guesses tried, how many were right, and how many the network thought would be."""

    def __post_init__(self) -> None:
        self._cache = KVCache.empty(self.network.config, 2 * MOST_READ)

    @property
    def _trust(self) -> float:
        return self._right / self._expected

    def draft(self, ids: Sequence[int], states: Sequence[np.ndarray], most: int) -> list[Guess]:
        """As Drafter."""
        state, token_id, sure = self._read(ids, states, most)
        guesses: list[Guess] = []
        num_true, reached = self._cache.length, 1.0
        while token_id not in self.never:
            guesses.append(Guess(token_id, min(MOST_SURE, sure * self._trust)))
            reached *= guesses[-1].probability
            if len(guesses) == most or reached < LEAST_REACHED:
                break
            state, token_id, sure = self.network(state, [token_id], self._cache)
        self._cache.truncate(num_true)
        return guesses

    def _read(self, ids: Sequence[int], states: Sequence[np.ndarray], most: int) -> tuple[np.ndarray, int, float]:
        """The first guess, behind all states."""
        if self._cache.length + len(states) - self._num_read + most > CONTEXT_PAIRS:
            self._cache.truncate(0)
            self._num_read = 0
        if not self._cache.length:
            self._num_read = max(0, len(states) - MOST_READ)
        elif self._num_read == len(states):  # asked again: the last is read once more
            self._num_read -= 1
            self._cache.truncate(self._cache.length - 1)
        new = np.stack(states[self._num_read :]) * np.float32(self.network.state_scale)
        self._num_read = len(states)
        return self.network(new, ids[-len(new) :], self._cache)

    def learn(self, guesses: Sequence[Guess], num_right: int) -> None:
        """As Drafter."""
        tried = guesses[: num_right + 1]
        self._expected += sum(guess.probability for guess in tried) / self._trust
        self._right += float(min(num_right, len(tried)))
