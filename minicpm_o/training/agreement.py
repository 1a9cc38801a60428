"""Which of the captions that people gave a picture says what the others say too.

A caption about what only one of five people saw teaches a small model to guess. So captions are drawn the more often,
the higher the others' CIDEr of them is; reward-weighted likelihood, as in Peters and Schaal 2007 (ICML).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..evaluation.metrics import CiderCorpus
from ..evaluation.official.caption import ptb_tokens

LEAST = 0.05
"""Weight of a caption that shares nothing with the others, so that it is still drawn now and then."""


def agreement(pictures: Sequence[Sequence[str]]) -> list[list[float]]:
    """CIDEr of every caption against the other ones of its picture, squared; a picture's only caption has LEAST.

    Squared, because a choice in proportion to CIDEr itself hardly differs from an even one.
    """
    tokens = [[ptb_tokens(text) for text in texts] for texts in pictures]
    corpus = CiderCorpus(tokens)
    return [[_weight(corpus, captions, number) for number in range(len(captions))] for captions in tokens]


def _weight(corpus: CiderCorpus, captions: Sequence[Sequence[str]], number: int) -> float:
    others = [*captions[:number], *captions[number + 1 :]]
    return LEAST + (corpus.score(captions[number], others) ** 2 if others else 0.0)


def draw_weighted(rng: random.Random, texts: Sequence[str], weights: Sequence[float], count: int) -> list[str]:
    """So many different ones, fewer where there are fewer (Efraimidis and Spirakis 2006)."""
    keys = {number: rng.random() ** (1.0 / weight) for number, weight in enumerate(weights)}
    return [texts[number] for number in sorted(keys, key=keys.__getitem__, reverse=True)[:count]]
