"""nano's own answers with its hidden states, which `drafter` learns from: to made-up prompts and to some of its own.

A file holds some answers, one after the other: `ids` of prompts and answers, `states` (D wide) behind every token but
an answer's last, `lengths` in tokens and how many of them were `asked`.
Letters: T tokens, D language width.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from ..checkpoints.bundle import Bundle
from ..checkpoints.hub import resolve
from ..inputs.messages import Message, TextPart
from ..runtime.cache import KVCache
from ..runtime.device import plan_device
from ..runtime.parts import Parts
from ..runtime.sampling import SamplingConfig, sample, without
from .drafter_prompts import common_nouns, draw_prompts
from .prepare.texts import WORDNET

MOST_TOKENS = 160
"""Longest answer."""
FILE_TOKENS = 4000
"""Tokens of answers in a file."""
OWN_SHARE = 0.5
"""Of the prompts, those that nano thinks of."""
MOST_ASKED = 80
"""Tokens of a prompt that nano thinks of."""


@dataclass(frozen=True)
class Answer:
    """A prompt and what nano said."""

    states: torch.Tensor
    """(T - 1, D) float16: behind every token but the last."""
    ids: torch.Tensor
    """(T,) int64; the last is what ended it."""
    asked: int
    """Tokens of the prompt."""


def read_answers(files: Iterable[Path]) -> list[Answer]:
    """The files that `give_answers` wrote."""
    answers = []
    for path in files:
        with np.load(path) as part:
            states, ids = torch.from_numpy(part["states"]), torch.from_numpy(part["ids"]).long()
            lengths, asked = part["lengths"].tolist(), part["asked"].tolist()
        apart = zip(states.split([length - 1 for length in lengths]), ids.split(lengths), asked, strict=True)
        answers += [Answer(*one) for one in apart]
    return answers


def give_answers(folder: Path, seconds: float, seed: int, own_share: float = OWN_SHARE, slots: int = 16,
                 banned: frozenset[str] = frozenset()) -> int:
    """Answer prompts for so long, `slots` at a time; returns the tokens written. own_share: of prompts that nano thinks
    of. banned: prompts that are measured."""
    parts = Parts(Bundle.open(Path(resolve("nano"))), plan_device(threads=1))
    parts.share(slots)
    made, own = draw_prompts(common_nouns(WORDNET), seed, banned), own_prompts(parts, seed, slots, banned)
    draws, ends = Random(seed), time.monotonic() + seconds
    prompts = (next(own if draws.random() < own_share else made) for _ in count())
    folder.mkdir(parents=True, exist_ok=True)
    done: list[_Open] = []
    total = files = 0
    for answer in _answered(parts, prompts, slots):
        done.append(answer)
        is_over = time.monotonic() > ends
        said = sum(one.num_said for one in done)
        if is_over or said > FILE_TOKENS:
            _write(folder / f"{seed}_{files}.npz", done)
            total, files, done = total + said, files + 1, []
        if is_over:
            break
    return total


def own_prompts(parts: Parts, seed: int, slots: int, banned: frozenset[str] = frozenset()) -> Iterator[str]:
    """What nano says where a user would speak, drawn (arXiv:2406.08464): the kinds of requests that it was taught on.
    None twice, none of the banned ones."""
    engine: Any = parts.engine
    one, other = (parts.prepare([Message("user", (TextPart(letter),))], transcripts=[]).ids for letter in "AB")
    opening = engine.embed(list(one[: next(place for place in count() if one[place] != other[place])]))
    drawn, seen = SamplingConfig(temperature=1.0, top_k=64, seed=seed), set(banned)
    rng = drawn.rng()

    def next_word(logits: np.ndarray) -> int:
        return sample(_allowed(logits, parts), (), drawn, rng)

    def begin() -> tuple[KVCache, list[int]]:
        cache = engine.new_cache(128)
        return cache, [next_word(engine.prefill(opening, cache).logits)]

    running = [begin() for _ in range(slots)]
    while True:
        steps = engine.decode_many([said[-1] for _, said in running], [cache for cache, _ in running])
        for slot, ((_, said), step) in enumerate(zip(running, steps, strict=True)):
            said.append(next_word(step.logits))
            if said[-1] in parts.eos_ids or len(said) > MOST_ASKED:
                prompt = parts.tokenizer.decode(said[:-1]).strip()
                if said[-1] in parts.eos_ids and prompt and prompt not in seen:  # else it goes on and on
                    seen.add(prompt)
                    yield prompt
                running[slot] = begin()


@dataclass
class _Open:
    """An answer that is being given."""

    cache: KVCache
    asked: int
    """Tokens of the prompt."""
    ids: list[int]
    """Prompt and answer; the last is not read yet."""
    states: list[np.ndarray]
    """(n, D) of one or more tokens each, of all that were read."""

    @property
    def num_said(self) -> int:
        return len(self.ids) - self.asked


def _answered(parts: Parts, prompts: Iterator[str], slots: int) -> Iterator[_Open]:
    """Answers as they end; another prompt takes the place of each."""
    engine: Any = parts.engine
    running = [_begin(parts, next(prompts)) for _ in range(slots)]
    while True:
        steps = engine.decode_many([one.ids[-1] for one in running], [one.cache for one in running])
        for slot, (one, step) in enumerate(zip(running, steps, strict=True)):
            one.states.append(step.hidden.astype(np.float16))
            one.ids.append(_likeliest(step.logits, parts))
            if one.ids[-1] in parts.eos_ids or one.num_said > MOST_TOKENS:
                yield one
                running[slot] = _begin(parts, next(prompts))


def _begin(parts: Parts, prompt: str) -> _Open:
    inputs = parts.prepare([Message("user", (TextPart(prompt),))], transcripts=[])
    cache = parts.engine.new_cache(256)
    step = parts.engine.prefill(parts.engine.embed(inputs.ids), cache)
    ids = [int(token_id) for token_id in inputs.ids]
    return _Open(cache, len(ids), [*ids, _likeliest(step.logits, parts)], [step.hidden.astype(np.float16)])


def _likeliest(logits: np.ndarray, parts: Parts) -> int:
    return int(_allowed(logits, parts).argmax())


def _allowed(logits: np.ndarray, parts: Parts) -> np.ndarray:
    return without(logits, np.array(parts.banned_ids, np.int64))


def _write(path: Path, answers: Sequence[_Open]) -> None:
    np.savez(path, states=np.concatenate([state for one in answers for state in one.states]),
             ids=np.concatenate([one.ids for one in answers]).astype(np.int32),
             lengths=np.array([len(one.ids) for one in answers]), asked=np.array([one.asked for one in answers]))
