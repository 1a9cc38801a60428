"""A small network that guesses how nano's answers go on: hidden state and next word to the next hidden state and word.

Like EAGLE (arXiv:2401.15077) it goes on from the model's own last hidden state, and from its own guess of it for
further words; like Hydra (arXiv:2402.05109) its layers are plain ones, without attention, so that a guess costs
little. It knows the few thousand words that nano says most. Its training: `training.drafter`.
Letters: D language width, W width of its layers, N words known.
"""

from __future__ import annotations

import importlib.resources
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoints.graphs.builder import FLOAT, GraphBuilder
from ..errors import CheckpointError
from .device import DevicePlan, make_session
from .speculate import Guess

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

LEAST_REACHED = 0.25
"""Nothing is guessed behind what is less likely to be reached."""
MOST_SURE = 0.98
PRIOR = 8.0
"""Guesses that stand for the training when an answer begins, against those of the answer itself."""
MATRICES = ("enter", "middle", "leave", "words")
Tensors = Mapping[str, np.ndarray]


def packaged_path() -> Path:
    """The trained network that comes with this package."""
    return Path(str(importlib.resources.files("minicpm_o") / "assets" / "nano" / "drafter.safetensors"))


def read_drafter(path: Path) -> dict[str, np.ndarray]:
    """Tensors as float32, `word_ids` (N,) int32. Raises CheckpointError when the file is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        stored = load_file(path)
        tensors = {name: stored[name].astype(np.float32) * stored[f"{name}.scales"].astype(np.float32)
                   for name in MATRICES}
        rest = {name: stored[name] for name in ("word_ids", "enter.bias", "middle.bias", "leave.bias", "words.bias")}
        return {**tensors, **rest, "scales": stored["scales"]}
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"the drafter {path} is missing or damaged ({error}); install minicpm-o again") from error


def build_drafter(tensors: Tensors, path: Path, bits: int | None = 8) -> None:
    """Write one guess as a graph: `state` (1, D) and `embedding` (1, D) of the word said behind it, both scaled, to
    `next_state` (1, D) and `logits` (1, N)."""
    graph, width = GraphBuilder("drafter"), tensors["leave"].shape[0]
    state, said = (graph.input(name, FLOAT, [1, width]) for name in ("state", "embedding"))
    graph.output("next_state", FLOAT, [1, width])
    graph.output("logits", FLOAT, [1, len(tensors["words"])])

    def linear(x: str, name: str, out: str | None = None) -> str:
        return graph.linear(x, tensors[name], tensors[f"{name}.bias"].astype(np.float32), name, bits=bits, out=out)

    def silu(x: str, name: str) -> str:
        return graph.node("Mul", [x, graph.node("Sigmoid", [x], f"{name}.sigmoid")], f"{name}.silu")

    entered = silu(linear(graph.node("Concat", [state, said], "both", axis=-1), "enter"), "enter")
    middle = graph.node("Add", [entered, silu(linear(entered, "middle"), "middle")], "middle.sum")
    half = graph.node("Mul", [state, graph.scalar("half", 0.5)], "kept")
    graph.node("Add", [half, linear(middle, "leave")], "leave.sum", out="next_state")
    linear("next_state", "words", out="logits")
    graph.save(path)


@dataclass(frozen=True)
class DraftNetwork:
    """The network, opened once for all answers."""

    session: InferenceSession
    word_ids: np.ndarray
    """(N,) int: tokens by place in the logits."""
    state_scale: float
    embedding_scale: float
    embed: Callable[[Sequence[int]], np.ndarray]
    """As `Engine.embed`."""

    @classmethod
    def open(cls, tensors: Tensors, embed: Callable[[Sequence[int]], np.ndarray], plan: DevicePlan) -> DraftNetwork:
        """embed: of the model whose answers are to be guessed."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "drafter.onnx"
            build_drafter(tensors, path)
            session = make_session(path, replace(plan, threads=1), kind="language")  # waking others takes longer
        state_scale, embedding_scale = (float(scale) for scale in tensors["scales"])
        return cls(session, tensors["word_ids"].astype(np.int64), state_scale, embedding_scale, embed)

    def __call__(self, state: np.ndarray, token_id: int) -> tuple[np.ndarray, int, float]:
        """Scaled state (1, D) and the word behind it to the state behind that, the word guessed and its probability."""
        said = self.embed([token_id]) * self.embedding_scale
        state, logits = self.session.run(["next_state", "logits"], {"state": state, "embedding": said})
        best = int(logits[0].argmax())
        return state, int(self.word_ids[best]), float(1.0 / np.exp(logits[0] - logits[0, best]).sum())


@dataclass
class LearnedDrafter:
    """A `speculate.Drafter` for one answer; learns by it how far the network is to be trusted."""

    network: DraftNetwork
    never: Collection[int] = frozenset()
    """Tokens that no answer goes on with: those that end it, and those that it may not hold."""
    _right: float = PRIOR
    _expected: float = PRIOR
    """Of the guesses tried, how many were right, and how many the network thought would be."""

    @property
    def _trust(self) -> float:
        return self._right / self._expected

    def draft(self, ids: Sequence[int], hidden: np.ndarray, most: int) -> list[Guess]:
        """As Drafter; of ids the last alone is looked at."""
        guesses: list[Guess] = []
        state, token_id, reached = hidden[None] * self.network.state_scale, ids[-1], 1.0
        while len(guesses) < most and reached >= LEAST_REACHED:
            state, token_id, sure = self.network(state, token_id)
            if token_id in self.never:
                break
            guesses.append(Guess(token_id, min(MOST_SURE, sure * self._trust)))
            reached *= guesses[-1].probability
        return guesses

    def learn(self, guesses: Sequence[Guess], num_right: int) -> None:
        """As Drafter."""
        tried = guesses[: num_right + 1]
        self._expected += sum(guess.probability for guess in tried) / self._trust
        self._right += float(min(num_right, len(tried)))
