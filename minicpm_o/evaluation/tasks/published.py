"""What the tasks of published benchmarks share: a scorer that leaves the arithmetic to `official`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from minicpm_o.errors import InputError
from minicpm_o.evaluation.baselines import Baseline, Chance, chance_of
from minicpm_o.evaluation.intervals import Interval
from minicpm_o.evaluation.rows import BadRow
from minicpm_o.evaluation.scoring import Question, Scores
from minicpm_o.evaluation.tasks.base import Task, TaskSet

ROUNDS = 200
"""Of the bootstrap: the whole score is computed anew in each."""

Totals = Callable[[Sequence[Question], Sequence[str]], dict[str, float]]
"""Questions and answers to scores, the headline first, each with its parser in its name."""


@dataclass(frozen=True)
class PublishedScorer:
    """Scores that only all answers together have; each answer is right or wrong (or somewhere between) by `hit`."""

    rule: str
    hit: Callable[[Question, str], float]
    totals: Totals
    headline: Callable[[Sequence[Question], Sequence[str]], float] | None = None
    """The first of the totals alone, where all of them take long."""
    constants: Sequence[str] = ()
    """Answers that are tried as the one answer to everything."""
    guess: float | None = None
    """The headline that a random guess gives on average."""
    guess_rule: str = "random guess"
    details: Mapping[str, object] = field(default_factory=dict)

    def judge(self, item: Question, answer: str) -> dict[str, object]:
        """Whether one answer is right."""
        return {"correct": self.hit(item, answer)}

    def score(self, items: Sequence[Question], answers: Sequence[str]) -> Scores:
        """All scores, and the headline's interval by resampling pictures kind by kind."""
        return Scores(self.totals(items, answers), self._interval(items, answers), dict(self.details))

    def chance(self, items: Sequence[Question]) -> Chance:
        """Constant answers, the guess, and the answer that is right most often."""
        guess = None if self.guess is None else Baseline(self.guess, self.guess_rule)
        return chance_of(items, lambda answers: self._headline(items, answers), constants=self.constants, guess=guess)

    def _headline(self, items: Sequence[Question], answers: Sequence[str]) -> float:
        if self.headline is not None:
            return self.headline(items, answers)
        return next(iter(self.totals(items, answers).values()))

    def _interval(self, items: Sequence[Question], answers: Sequence[str]) -> Interval | None:
        return resampled_interval(items, lambda picked: self._headline(
            [items[place] for place in picked], [answers[place] for place in picked]))


def resampled_interval(items: Sequence[Question], headline: Callable[[Sequence[int]], float]) -> Interval | None:
    """95 % interval of a score by resampling pictures kind by kind; `headline` computes it over picked items."""
    kinds: dict[str, dict[str, list[int]]] = {}
    for place, item in enumerate(items):
        kinds.setdefault(item.tag, {}).setdefault(item.group or str(place), []).append(place)
    if sum(map(len, kinds.values())) < 2:
        return None
    rng = np.random.default_rng(0)
    draws = [headline([place for pictures in kinds.values() for place in _resampled(list(pictures.values()), rng)])
             for _ in range(ROUNDS)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _resampled(pictures: Sequence[Sequence[int]], rng: np.random.Generator) -> list[int]:
    """As many pictures of one kind, drawn with repetition; their questions."""
    return [place for one in rng.integers(0, len(pictures), len(pictures)) for place in pictures[one]]


STAND_IN = "STAND_IN"
"""A file of this name in a data folder says in a line what its sets of a published shape really hold."""


def stand_in(data_dir: Path) -> str | None:
    """What stands in for the published pictures in this folder; None where they are what they seem."""
    path = data_dir / STAND_IN
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def named(data_dir: Path, benchmark: str) -> str:
    """A benchmark's name; with other pictures only its format is the benchmark's."""
    return benchmark if stand_in(data_dir) is None else f"{benchmark}_format"


def published_set(path: Path, build: Callable[[], Sequence[Task]]) -> TaskSet:
    """The tasks of a published set that was found; a broken one becomes a bad row and does not stop the rest."""
    try:
        return TaskSet(tuple(build()), files=(path,))
    except InputError as error:
        return TaskSet(bad_rows=(BadRow(path.name, None, str(error)),), files=(path,))
