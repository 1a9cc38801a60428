"""What answers without looking or listening score: one answer to everything, a guess, the answer right most often.

A score means what it rises above them. All are computed from the questions in use, none is looked up.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_CONSTANT_ANSWERS = 50
"""So many of the most frequent expected answers are tried as the one answer that a deaf and blind model might give."""
ROUNDS = 10
"""Of random answers; their mean counts."""


class HasExpected(Protocol):
    """What a baseline reads of an item."""

    @property
    def expected(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Baseline:
    """A score, and what was answered for it."""

    value: float
    rule: str


@dataclass(frozen=True)
class Chance:
    """The baselines of a task; None where one makes no sense there."""

    constant: Baseline | None = None
    """The best of all constant answers that were tried: chosen with the expected answers at hand."""
    random: Baseline | None = None
    majority: Baseline | None = None
    """The answer that is expected most often."""
    missing: str = "not known"
    """What stands in a report that has none of them."""
    lower_is_better: bool = False

    @property
    def best(self) -> Baseline | None:
        """The one to beat; of equal ones the guess."""
        known = [baseline for baseline in (self.random, self.constant, self.majority) if baseline is not None]
        choose = min if self.lower_is_better else max
        return choose(known, key=lambda baseline: baseline.value) if known else None

    @property
    def value(self) -> float | None:
        return None if self.best is None else self.best.value

    @property
    def rule(self) -> str:
        return self.missing if self.best is None else self.best.rule

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Name -> value and rule of those that there are."""
        named = {"constant": self.constant, "random": self.random, "majority": self.majority}
        return {name: {"value": round(found.value, 4), "rule": found.rule}
                for name, found in named.items() if found is not None}


Score = Callable[[Sequence[str]], float]
"""An answer for each item -> the headline."""


def chance_of(items: Sequence[HasExpected], score: Score, *, constants: Sequence[str] | None = None,
              guess: Baseline | None = None) -> Chance:
    """All baselines of some items.

    constants: what is tried as the one answer, by default the most frequent expected answers. guess: the random
    baseline, where it is known; else everybody gets the expected answer of some other item."""
    frequency = Counter(answer for item in items for answer in item.expected)
    tried = constants or [answer for answer, _ in frequency.most_common(MAX_CONSTANT_ANSWERS)]
    scores = {answer: score([answer] * len(items)) for answer in tried}
    constant = max(scores, key=scores.__getitem__, default=None)
    return Chance(
        None if constant is None else Baseline(scores[constant], f"best constant answer ({constant!r})"),
        guess or others_answers(items, score), majority_answer(items, score, scores))


def majority_answer(items: Sequence[HasExpected], score: Score, known: Mapping[str, float] | None = None
                    ) -> Baseline | None:
    """Nothing where no answer is expected twice. known: scores of constant answers that need not be computed again."""
    most = Counter(answer for item in items for answer in item.expected).most_common(1)
    if not most or most[0][1] < 2:
        return None
    answer = most[0][0]
    value = known[answer] if known and answer in known else score([answer] * len(items))
    return Baseline(value, f"majority answer ({answer!r})")


def others_answers(items: Sequence[HasExpected], score: Score) -> Baseline | None:
    """The expected answer of another item, drawn anew in each round."""
    if len(items) < 2 or not all(item.expected for item in items):
        return None
    draw, values = random.Random(0), []
    for _ in range(ROUNDS):
        order = draw.sample(range(len(items)), len(items))
        other = dict(zip(order, order[1:] + order[:1], strict=True))
        values.append(score([items[other[place]].expected[0] for place in range(len(items))]))
    return Baseline(sum(values) / len(values), "the expected answer of another item")
