"""Two reports of the same questions: what differs, and whether that may be chance.

Items are paired by their names, so what makes a question hard falls out. Sources: the paired bootstrap (Efron, 1979)
for the interval of the difference; McNemar's exact test (1947) where answers are right or wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm_o.errors import InputError
from minicpm_o.evaluation.answers import Answer, answers_beside
from minicpm_o.evaluation.intervals import Interval, bootstrap_difference
from minicpm_o.evaluation.report import LOWER_IS_BETTER, markdown_table, rich_table, shown

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("task", "n", "metric", "A", "B", "B - A", "95 % interval", "p", "")


@dataclass(frozen=True)
class Difference:
    """One task of both reports."""

    task: str
    metric: str
    n: int
    """Items that both answered."""
    a: float
    b: float
    interval: Interval | None
    """Of b - a; None for a single item."""
    p: float | None
    """Chance of so uneven a split among the items that only one of them got right; None where items have no right or
    wrong."""

    @property
    def verdict(self) -> str:
        """Which is better, where the interval leaves no doubt."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "no difference shown"
        b_is_more = self.interval[0] > 0
        return "B is better" if b_is_more != (self.metric in LOWER_IS_BETTER) else "A is better"


@dataclass(frozen=True)
class Comparison:
    """All tasks that two reports share."""

    names: tuple[str, str]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        rows = [{"task": d.task, "metric": d.metric, "n": d.n, "a": d.a, "b": d.b, "difference": d.b - d.a,
                 "interval": d.interval, "p": d.p, "verdict": d.verdict} for d in self.differences]
        return {"a": self.names[0], "b": self.names[1], "tasks": rows, "notes": list(self.notes)}

    def to_markdown(self) -> str:
        """As a table in Markdown, notes under it."""
        head = f"A is {self.names[0]}, B is {self.names[1]}."
        table = markdown_table(COLUMNS, [_cells(difference) for difference in self.differences])
        return "\n".join([head, "", table, "", *(f"- {note}" for note in self.notes)]).rstrip() + "\n"


    def to_table(self) -> Table:
        """A rich table for the terminal."""
        return rich_table(COLUMNS, [_cells(difference) for difference in self.differences],
                          title=f"A {self.names[0]}, B {self.names[1]}")


def compare(first: Path, second: Path) -> Comparison:
    """Pair the answers of two reports (`eval ... --json A.json`), which lie beside them.

    Raises InputError where a report or its answers are missing, where they share no task, or where a name stands for
    another question in the other report."""
    reports, answers = [_report(path) for path in (first, second)], [_answers(path) for path in (first, second)]
    metrics = [{line["name"]: next(iter(line["metrics"].items())) for line in report["tasks"]} for report in reports]
    shared = [name for name in metrics[0] if name in metrics[1]]
    if not shared:
        raise InputError(f"{first.name} and {second.name} share no task: the first has {_listed(metrics[0])}, the "
                         f"second {_listed(metrics[1])}; give reports of the same data")
    notes = [f"{name} is only in {label}" for label, mine, other in (("A", *metrics), ("B", *metrics[::-1]))
             for name in mine if name not in other]
    notes += _warnings(reports)
    differences = []
    for name in shared:
        pairs, left_out = _pairs(name, *answers)
        notes += [f"{name}: {left_out} items were answered in one report alone and are left out"] if left_out else []
        if pairs:
            differences.append(_difference(name, metrics[0][name], pairs))
    return Comparison((reports[0]["model"], reports[1]["model"]), tuple(differences), tuple(notes))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p of so uneven a split, were both equally good."""
    count, least = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(count, k) for k in range(least + 1)) / 2**count)


def _difference(task: str, headline: tuple[str, float], pairs: Sequence[tuple[Answer, Answer]]) -> Difference:
    counts = [(_count(a), _count(b)) for a, b in pairs]
    above = [(a[0], b[0]) for a, b in counts]
    below = [a[1] for a, _ in counts]
    share_a, share_b = (sum(side) / max(1e-12, sum(below)) for side in zip(*above, strict=True))
    is_right_or_wrong = "correct" in pairs[0][0].judged
    p = mcnemar(sum(a > b for a, b in above), sum(b > a for a, b in above)) if is_right_or_wrong else None
    interval = bootstrap_difference([a for a, _ in above], [b for _, b in above], below)
    metric = _metric(pairs[0][0].judged, headline, share_a)
    return Difference(task, metric, len(pairs), share_a, share_b, interval, p)


def _count(answer: Answer) -> tuple[float, float]:
    """What an item adds to its task's score: above and below the line."""
    judged = answer.judged
    if "errors" in judged:
        return float(judged["errors"]), float(judged["reference_length"])
    return float(judged["correct"] if "correct" in judged else judged["rouge_l"]), 1.0


def _metric(judged: Mapping[str, Any], headline: tuple[str, float], share: float) -> str:
    """The report's first metric where it is the mean of the items; else what an item has by itself."""
    if "rouge_l" in judged:
        return "rouge_l"
    return headline[0] if abs(headline[1] - share) < 1e-3 else "share_right"


def _pairs(task: str, first: Mapping[str, Answer], second: Mapping[str, Answer]
           ) -> tuple[list[tuple[Answer, Answer]], int]:
    """Answers of a task that both have, and the number that only one has."""
    mine, other = ({answer.id: answer for answer in side.values() if answer.task == task} for side in (first, second))
    both = [(mine[name], other[name]) for name in mine if name in other]
    for a, b in both:
        if (a.question, a.expected) != (b.question, b.expected):
            raise InputError(f"{task}: item {a.id!r} asks {a.question!r} for {list(a.expected)} in A, and "
                             f"{b.question!r} for {list(b.expected)} in B; these are results of different questions "
                             f"and cannot be compared")
    return both, len(mine) + len(other) - 2 * len(both)


def _report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        report["tasks"][0]["metrics"], report["model"], report["settings"]
    except FileNotFoundError as error:
        raise InputError(f"there is no report {path}; write one with `minicpm-o eval local --json {path}`") from error
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path} is not a report of `minicpm-o eval` ({error!r}); give the file that --json wrote"
                         ) from error
    found: dict[str, Any] = report
    return found


def _answers(report: Path) -> dict[str, Answer]:
    return {f"{answer.task} {answer.id}": answer for answer in answers_beside(report)}


def _warnings(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that differ and may explain a difference better than the model."""
    told = ("prompts", "scorers_version", "decoding", "files_sha256", "limit")
    return [f"{name} differs between the reports" for name in told
            if reports[0]["settings"].get(name) != reports[1]["settings"].get(name)]


def _cells(difference: Difference) -> list[str]:
    interval = "–" if difference.interval is None else " … ".join(map(shown, difference.interval))
    p = "–" if difference.p is None else f"{difference.p:.3f}"
    return [difference.task, str(difference.n), difference.metric, shown(difference.a), shown(difference.b),
            f"{difference.b - difference.a:+.3f}", interval, p, difference.verdict]


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
