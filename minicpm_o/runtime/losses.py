"""How likely given texts are as the answer to a prompt that lies in a cache.

The prompt is read once; each text is read from there, a few tokens in a run where the engine can (`verify`), and the
cache is cut back. Thus a text's numbers are those that an answer in the same words would have had, whatever texts stand
beside it. Knows nothing of media or templates. Letter: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..errors import CheckpointError, ContextFullError, OptionError
from .cache import KVCache
from .engine import Step
from .filters import log_softmax
from .sampling import without


@dataclass(frozen=True)
class TextLoss:
    """How unlikely a text is as the answer; the smallest loss is the likeliest text."""

    loss: float
    """Sum over the text's tokens of -log(probability), natural logarithm; what would end the answer does not count."""
    num_tokens: int
    is_greedy: bool
    """Whether every token was the likeliest at its place."""

    @property
    def mean(self) -> float:
        """Loss a token: compares texts of unlike lengths."""
        return self.loss / self.num_tokens


@dataclass(frozen=True)
class TokenLoss:
    """One token of one text."""

    text: int
    """Which text it belongs to."""
    loss: float
    is_likeliest: bool


RUN_TOKENS = 32
"""Tokens whose logits are held at once, 200 KB each with nano; the reader may stop between runs."""


class Scorer(Protocol):
    """The half of an engine that losses need."""

    @property
    def context_tokens(self) -> int: ...

    def verify(self, ids: Sequence[int], cache: KVCache) -> list[Step]: ...


class Encoder(Protocol):
    """The half of a tokenizer that texts need."""

    def encode(self, text: str) -> list[int]: ...


def text_tokens(texts: Sequence[str], tokenizer: Encoder) -> list[list[int]]:
    """The tokens of each text. Raises OptionError for no texts, one text in place of a list, or an empty one."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise OptionError(f"texts is {texts!r}; it must be a list of texts, each a string")
    if not texts:
        raise OptionError("texts is an empty list; give at least one text whose loss is wanted")
    found = [tokenizer.encode(text) for text in texts]
    if empty := [place for place, ids in enumerate(found) if not ids]:
        raise OptionError(f"text {empty[0]} of {len(texts)} is {texts[empty[0]]!r}, which has no tokens; a loss needs "
                          "at least one, so leave it out or write something")
    return found


def token_losses(engine: Scorer, cache: KVCache, first: Step, texts: Sequence[Sequence[int]],
                 banned_ids: Collection[int] = ()) -> Iterator[TokenLoss]:
    """The losses of all tokens of all texts (token ids, none empty), in order.

    cache holds the prompt and `first` is the step that ended its prefill; the cache is the prompt's again at the end.
    banned_ids have no share of the probability, as no answer holds them. Raises ContextFullError before anything is
    computed when a text does not fit, CheckpointError when the logits are not numbers.
    """
    banned = np.fromiter(banned_ids, dtype=np.int64)
    num_prompt, longest = cache.length, max(map(len, texts))
    if num_prompt + longest - 1 > engine.context_tokens:  # the last token is never read
        raise ContextFullError(f"a text of {longest} tokens does not fit beside the prompt's {num_prompt}: the context "
                               f"window has {engine.context_tokens}; shorten the text or the prompt")
    for place, ids in enumerate(texts):
        for index, step in enumerate(_steps(engine, cache, first, ids)):
            yield _token_loss(place, ids[index], without(step.logits, banned))
        cache.truncate(num_prompt)


def _steps(engine: Scorer, cache: KVCache, first: Step, ids: Sequence[int]) -> Iterator[Step]:
    """What the model thinks before each of the tokens. The last token that fits the window is read alone, as an answer
    reads it."""
    yield first
    start, stop = 0, len(ids) - 1
    while start < stop:
        room = engine.context_tokens - 1 - cache.length
        steps = engine.verify(ids[start : min(stop, start + max(1, min(RUN_TOKENS, room)))], cache)
        start += len(steps)
        yield from steps


def _token_loss(place: int, token_id: int, logits: np.ndarray) -> TokenLoss:
    """logits (V,) before the token."""
    top = int(logits.argmax())  # of equal ones the first, as `sample` takes it; NaN is the top one where there is any
    if not math.isfinite(float(logits[top])):
        raise CheckpointError("the language model returned logits without a finite maximum; its weights are damaged, "
                              "assemble the model again")
    loss = -float(log_softmax(logits.astype(np.float64))[token_id])
    return TokenLoss(place, loss, token_id == top)


def sum_up(tokens: Iterable[TokenLoss]) -> list[TextLoss]:
    """Losses of tokens to losses of their texts, which lie one after the other."""
    sums: list[TextLoss] = []
    for token in tokens:
        before = sums.pop() if token.text < len(sums) else TextLoss(0.0, 0, True)
        sums.append(TextLoss(before.loss + token.loss, before.num_tokens + 1, before.is_greedy and token.is_likeliest))
    return sums
