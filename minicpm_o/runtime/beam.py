"""Several answers tried side by side, the best kept: beam search over the engine (scores after arXiv:1609.08144).

For short answers whose whole matters more than how soon their first word comes, a picture's description above all:
greedy decoding commits itself to the first word that is likely. With a temperature the continuations are drawn instead
(beam-sample, the official checkpoints' default), from the scores of all beams together. The text comes at once at the
end; until then every step yields an empty delta. Knows nothing of media or templates. Letters: V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import OptionError
from .cache import KVCache
from .engine import Step
from .events import Event, FinishReason, GenerationEnd, TextDelta
from .filters import keep_nucleus, keep_top_k, log_softmax
from .generate import Decoder, StopFilter, checked_stop
from .generate import Generator as LanguageModel
from .sampling import SamplingConfig, penalised, without

MAX_BEAMS = 16


@dataclass(frozen=True)
class BeamConfig:
    """How wide to search, and how much long answers are favoured."""

    num_beams: int = 3
    length_penalty: float = 0.6
    """Scores are log-probabilities over length to this power: 0 favours short answers, 1 compares means."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Greedy: the likeliest continuations. With a temperature, continuations are drawn after its filters."""

    def __post_init__(self) -> None:
        if not (isinstance(self.num_beams, int) and 1 <= self.num_beams <= MAX_BEAMS):
            raise OptionError(f"num_beams is {self.num_beams!r}; it must be a whole number between 1 and {MAX_BEAMS}")
        if not 0.0 <= self.length_penalty <= 4.0:
            raise OptionError(f"length_penalty is {self.length_penalty!r}; it must be between 0 and 4")

    def score(self, log_probability: float, num_tokens: int) -> float:
        """What finished answers of unlike lengths are compared by."""
        return float(log_probability / max(1, num_tokens) ** self.length_penalty)


@dataclass(frozen=True)
class _Beam:
    """An unfinished answer: its tokens, how likely they are, and what the model thinks after them."""

    ids: tuple[int, ...]
    log_probability: float
    cache: KVCache
    logits: np.ndarray


@dataclass(frozen=True)
class _Child:
    """A beam with one more token, not read by the model yet."""

    parent: _Beam
    token_id: int
    log_probability: float


@dataclass(frozen=True)
class _Found:
    """The best answer: its tokens without their end, and why it ended."""

    ids: tuple[int, ...]
    reason: FinishReason


def search(
    engine: LanguageModel,
    cache: KVCache,
    first: Step,
    tokenizer: Decoder,
    config: BeamConfig = BeamConfig(),
    *,
    max_tokens: int = 256,
    stop: Sequence[str] = (),
    eos_ids: Collection[int] = (),
    banned_ids: Collection[int] = (),
    cancel: threading.Event | None = None,
) -> Iterator[Event]:
    """The best answer: a TextDelta without text for every step, one with all of it, then GenerationEnd.

    Arguments as of `generate`; the cache, which holds the prompt, is left as it is, the beams work on copies. The
    search ends when as many answers as there are beams have ended and the best of them beats what is unfinished, or as
    `generate` does. Raises OptionError at once for options out of range.
    """
    words = checked_stop(max_tokens, stop)
    banned = np.fromiter(banned_ids, dtype=np.int64)
    return _search(engine, cache, first, tokenizer, config, max_tokens, words, frozenset(eos_ids), banned,
                   cancel or threading.Event())


def _search(engine: LanguageModel, cache: KVCache, first: Step, tokenizer: Decoder, config: BeamConfig, max_tokens: int,
            words: tuple[str, ...], ends: frozenset[int], banned: np.ndarray,
            cancel: threading.Event) -> Iterator[Event]:
    found = yield from _steps(engine, cache, first, config, max_tokens, ends, banned, cancel)
    stops = StopFilter(words)
    text, is_stopped = stops.push(tokenizer.decode(list(found.ids)))
    text += stops.flush()
    yield TextDelta(text, None)
    yield GenerationEnd("stop_string" if is_stopped else found.reason, found.ids, text)


def _steps(engine: LanguageModel, cache: KVCache, first: Step, config: BeamConfig, max_tokens: int,
           ends: frozenset[int], banned: np.ndarray, cancel: threading.Event) -> Generator[Event, None, _Found]:
    """Yields an empty delta a step; returns what was found."""
    num_prompt, rng = cache.length, config.sampling.rng()
    spare = [cache.copy() for _ in range(config.num_beams)]
    beams = [_Beam((), 0.0, spare.pop(), first.logits)]
    finished: list[tuple[float, tuple[int, ...]]] = []
    reason: FinishReason = "length"
    for length in range(1, min(max_tokens, engine.context_tokens - num_prompt) + 1):
        if cancel.is_set():
            reason = "cancelled"
            break
        children = _children(beams, banned, 2 * config.num_beams, config.sampling, rng, len(ends) + 1)
        finished += [(config.score(child.log_probability, length), child.parent.ids)
                     for child in children if child.token_id in ends]
        chosen = [child for child in children if child.token_id not in ends][: config.num_beams]
        if not chosen:  # a model with several ends may have nothing else to say
            break
        if len(finished) >= config.num_beams and max(finished)[0] >= config.score(chosen[0].log_probability, length):
            break
        beams = _read(engine, beams, chosen, spare, num_prompt)
        yield TextDelta("", beams[0].ids[-1])
    if finished and reason != "cancelled":
        return _Found(max(finished)[1], "stop")
    return _Found(beams[0].ids, reason)


def _children(beams: Sequence[_Beam], banned: np.ndarray, count: int, sampling: SamplingConfig,
              rng: np.random.Generator, keep: int) -> list[_Child]:
    """Continuations of all beams by one token, the likeliest first: the best `count`, or drawn where it is sampled."""
    found: list[_Child] = []
    for beam in beams:
        scores = _scores(beam, banned, sampling, keep)
        possible = int(np.isfinite(scores).sum())
        top = np.argsort(scores)[-min(possible if sampling.temperature else count, possible) :]
        found += [_Child(beam, int(i), beam.log_probability + float(scores[i])) for i in top]
    if sampling.temperature and len(found) > count:
        found = [found[i] for i in _draw(np.array([child.log_probability for child in found]), count, rng)]
    return sorted(found, key=lambda child: -child.log_probability)[:count]


def _scores(beam: _Beam, banned: np.ndarray, sampling: SamplingConfig, keep: int) -> np.ndarray:
    """Log-probabilities (V,) float64 after the penalty and the filters, minus infinity where nothing may follow."""
    logits = without(np.asarray(beam.logits, dtype=np.float64), banned)
    scores = penalised(log_softmax(logits), beam.ids, sampling.repetition_penalty)
    if not sampling.temperature:
        return scores
    return keep_nucleus(keep_top_k(scores / sampling.temperature, sampling.top_k, keep), sampling.top_p, keep)


def _draw(scores: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Places of `count` scores (log-probabilities), drawn without putting back: the highest after Gumbel noise."""
    return np.argsort(-(scores + rng.gumbel(size=scores.shape)))[:count]


def _read(engine: LanguageModel, beams: Sequence[_Beam], chosen: Sequence[_Child], spare: list[KVCache],
          num_prompt: int) -> list[_Beam]:
    """Let the model read each child's token; a beam's first child takes its cache over, others copy what was said."""
    used = {id(child.parent) for child in chosen}
    spare += [beam.cache for beam in beams if id(beam) not in used]
    taken: set[int] = set()
    caches: list[KVCache] = []
    for child in chosen:
        is_first = id(child.parent) not in taken
        taken.add(id(child.parent))
        caches.append(child.parent.cache if is_first else spare.pop())
        if not is_first:
            caches[-1].take_tail(child.parent.cache, num_prompt)
    steps = [engine.decode(child.token_id, cache) for child, cache in zip(chosen, caches, strict=True)]
    return [_Beam((*child.parent.ids, child.token_id), child.log_probability, cache, step.logits)
            for child, cache, step in zip(chosen, caches, steps, strict=True)]
