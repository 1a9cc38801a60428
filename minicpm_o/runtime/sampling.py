"""Logits to one token id. Pure numpy: knows nothing of models, caches or text.

Order of the filters: repetition penalty, then (temperature 0) the most likely token, or temperature, top-k, top-p
(nucleus, arXiv:1904.09751), min-p (arXiv:2407.01082) and a draw. Letter: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import CheckpointError, OptionError


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is chosen; the defaults are greedy."""

    temperature: float = 0.0
    """0 takes the most likely token; 1 draws as the model believes; above 1 flattens."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probabilities sum to at least this."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Above 1, tokens already said become less likely (arXiv:1909.05858); 1 is off."""
    seed: int | None = None
    """The same seed gives the same draws; None draws anew each time."""

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0.0 <= self.temperature <= 100.0, "between 0 and 100")
        _check("top_k", self.top_k, isinstance(self.top_k, int) and self.top_k >= 0, "a whole number, 0 (off) or more")
        _check("top_p", self.top_p, 0.0 < self.top_p <= 1.0, "above 0 and at most 1 (off)")
        _check("min_p", self.min_p, 0.0 <= self.min_p <= 1.0, "between 0 (off) and 1")
        _check("repetition_penalty", self.repetition_penalty, 0.0 < self.repetition_penalty < math.inf,
               "above 0; 1 is off")
        _check("seed", self.seed, self.seed is None or (isinstance(self.seed, int) and self.seed >= 0),
               "None or a whole number, 0 or more")

    def rng(self) -> np.random.Generator:
        """A fresh source of draws: one per generation."""
        return np.random.default_rng(self.seed)


def _check(name: str, value: object, holds: bool, range_text: str) -> None:
    if not holds:
        raise OptionError(f"{name} is {value!r}; it must be {range_text}")


def sample(logits: np.ndarray, history_ids: Iterable[int], config: SamplingConfig, rng: np.random.Generator) -> int:
    """Choose the next token.

    logits (V,) float, left as they are; history_ids: the tokens that the repetition penalty counts.
    Raises CheckpointError when the logits hold NaN or nothing possible: the weights or the graph are damaged.
    """
    scores = penalised(np.asarray(logits, dtype=np.float32), history_ids, config.repetition_penalty)
    top = float(scores.max())
    if not math.isfinite(top):
        raise CheckpointError("the language model returned logits without a finite maximum; its weights are damaged, "
                              "assemble the model again")
    if config.temperature == 0.0:
        return int(scores.argmax())
    ids, probabilities = _support((scores - top) / config.temperature, config)
    return int(ids[_draw(probabilities, rng)])


def penalised(scores: np.ndarray, history_ids: Iterable[int], penalty: float) -> np.ndarray:
    """Divide positive and multiply negative scores (V,) of the tokens already said; a copy where there are any."""
    said = np.unique(np.fromiter(history_ids, dtype=np.int64)) if penalty != 1.0 else np.empty(0, np.int64)
    if said.size:
        scores = scores.copy()
        scores[said] = np.where(scores[said] > 0, scores[said] / penalty, scores[said] * penalty)
    return scores


def without(logits: np.ndarray, banned: np.ndarray) -> np.ndarray:
    """logits (V,) with the banned ids made impossible; a copy where there are any."""
    if banned.size:
        logits = logits.copy()
        logits[banned] = -np.inf
    return logits


def _support(scores: np.ndarray, config: SamplingConfig) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that may be drawn, most likely first, and their probabilities (sum 1). scores: highest is 0."""
    kept = min(config.top_k or scores.size, scores.size)
    ids = np.argpartition(-scores, kept - 1)[:kept]
    ids = ids[np.argsort(-scores[ids], kind="stable")]
    probabilities = np.exp(scores[ids].astype(np.float64))
    probabilities /= probabilities.sum()
    count = 1 + int(np.searchsorted(np.cumsum(probabilities)[:-1], config.top_p, side="left"))
    if config.min_p:
        count = min(count, int((probabilities >= config.min_p * probabilities[0]).sum()))
    return ids[:count], probabilities[:count] / probabilities[:count].sum()


def _draw(probabilities: np.ndarray, rng: np.random.Generator) -> int:
    """Index by inversion of the cumulative sum: one draw of the generator per token."""
    index = int(np.searchsorted(np.cumsum(probabilities), rng.random(), side="right"))
    return min(index, probabilities.size - 1)
