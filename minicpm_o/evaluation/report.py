"""Scores of a run as a report: JSON, a table for the terminal, a table for a page. Computes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minicpm_o.evaluation.answers import write_atomically
from minicpm_o.evaluation.intervals import Interval
from minicpm_o.evaluation.rows import BadRow

if TYPE_CHECKING:
    from rich.table import Table

LOWER_IS_BETTER = frozenset({"wer", "cer"})
CELL_COLUMNS = ("task", "n", "metric", "score", "95 % interval", "chance", "blind", "s/item")
BASELINES = ("constant", "random", "majority")
LATENCIES: Mapping[str, tuple[str, str]] = {
    "first word, median s": ("first_word_s", "median"), "first word, p95 s": ("first_word_s", "p95"),
    "answer, median s": ("seconds", "median"), "answer, p95 s": ("seconds", "p95"),
    "tokens/s, median": ("tokens_per_s", "median"),
}  # fmt: skip
"""Column -> what was measured, and which number of it."""
PlainTable = tuple[str, tuple[str, ...], list[tuple[str, ...]]]
"""Title, columns, rows."""


@dataclass(frozen=True)
class TaskLine:
    """One line of the report. The first metric is the headline: interval and chance are its own."""

    name: str
    n: int
    metrics: Mapping[str, float]
    interval: Interval | None
    """None where one item is all there is."""
    chance: float | None
    blind: Mapping[str, float]
    """The same metrics with picture or sound removed from the prompt; empty where no blind run was made."""
    seconds_per_item: float
    details: Mapping[str, Any] = field(default_factory=dict)
    """How it was scored, what chance means, further intervals; written beside the tasks, under `details`."""

    @property
    def headline(self) -> str:
        """Name of the first metric."""
        return next(iter(self.metrics))

    @property
    def score(self) -> float:
        """Value of the first metric."""
        return self.metrics[self.headline]

    def to_dict(self) -> dict[str, Any]:
        """The fields of a line of the JSON report."""
        return {
            "name": self.name,
            "n": self.n,
            "metrics": _rounded(self.metrics),
            "interval": None if self.interval is None else [round(bound, 4) for bound in self.interval],
            "chance": None if self.chance is None else round(self.chance, 4),
            "blind": _rounded(self.blind),
            "seconds_per_item": round(self.seconds_per_item, 4),
        }


@dataclass(frozen=True)
class Report:
    """All lines of a run over one data folder."""

    model: str
    settings: Mapping[str, Any]
    tasks: tuple[TaskLine, ...]
    bad_rows: tuple[BadRow, ...] = ()
    notes: tuple[str, ...] = ()

    def task(self, name: str) -> TaskLine:
        """The line of that name; KeyError names those there are."""
        for line in self.tasks:
            if line.name == name:
                return line
        raise KeyError(f"no task {name!r}; there are {', '.join(line.name for line in self.tasks)}")

    def to_dict(self) -> dict[str, Any]:
        """The JSON report: model, settings, tasks; beside them details, bad_rows and notes."""
        return {
            "model": self.model,
            "settings": dict(self.settings),
            "tasks": [line.to_dict() for line in self.tasks],
            "details": {line.name: dict(line.details) for line in self.tasks},
            "bad_rows": {
                "count": len(self.bad_rows),
                "rows": [{"file": bad.file, "line": bad.line, "reason": bad.reason} for bad in self.bad_rows],
            },
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Report:
        """The report of a JSON file."""
        lines = tuple(TaskLine(
            line["name"], line["n"], line["metrics"], None if line["interval"] is None else tuple(line["interval"]),
            line["chance"], line["blind"], line["seconds_per_item"], written["details"].get(line["name"], {}))
            for line in written["tasks"])
        bad = tuple(BadRow(row["file"], row["line"], row["reason"]) for row in written["bad_rows"]["rows"])
        return cls(written["model"], written["settings"], lines, bad, tuple(written["notes"]))

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1)

    def write(self, path: Path) -> None:
        """Write the JSON, whole or not at all."""
        write_atomically(path, self.to_json() + "\n")

    def to_table(self) -> Table:
        """A rich table for the terminal."""
        title = f"{self.model}: {self.settings.get('data', '')}"
        return rich_table(CELL_COLUMNS, [cells(line) for line in self.tasks], title=title, caption=self._caption())

    def to_markdown(self) -> str:
        """The same table in Markdown, then the further ones, bad rows and notes."""
        table = markdown_table(CELL_COLUMNS, [cells(line) for line in self.tasks])
        more = [part for title, columns, rows in self.more_tables() for part in (
            f"**{title}**", "", markdown_table(columns, rows, left=(0, 1) if len(columns) == 2 else (0,)), "")]
        bad = [f"- bad row: {bad.place}: {bad.reason}" for bad in self.bad_rows]
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([table, "", self._caption(), "", *more, *bad, *notes]).rstrip() + "\n"

    def more_tables(self) -> Iterator[PlainTable]:
        """What no looking and no listening gives, how long answers take, what else counts."""
        rows: list[tuple[str, ...]] = [
            (line.name, shown(line.score), *map(shown, baselines(line)), shown(line.blind.get(line.headline)))
            for line in self.tasks if line.details.get("baselines")]
        if rows:
            yield "What no looking and no listening gives", ("task", "score", *BASELINES, "blind"), rows
        timed: list[tuple[str, ...]] = [
            (line.name, *map(shown, latencies(line))) for line in self.tasks if line.details.get("measured")]
        if timed:
            yield "Seconds", ("task", *LATENCIES), timed
        others: list[tuple[str, ...]] = [
            (line.name, "; ".join(f"{name} {shown(value)}" for name, value in list(line.metrics.items())[1:]))
            for line in self.tasks if len(line.metrics) > 1]
        if others:
            yield "Further numbers", ("task", "numbers"), others

    def _caption(self) -> str:
        lower = "wer and cer: lower is better"
        return f"{lower}; {len(self.bad_rows)} bad rows" + ("" if self.bad_rows else ", every row was used")


def cells(line: TaskLine) -> tuple[str, ...]:
    name = f"{line.headline} ↓" if line.headline in LOWER_IS_BETTER else line.headline
    interval = "–" if line.interval is None else f"{shown(line.interval[0])} – {shown(line.interval[1])}"
    blind = shown(line.blind.get(line.headline))
    return (
        line.name,
        str(line.n),
        name,
        shown(line.score),
        interval,
        shown(line.chance),
        blind,
        f"{line.seconds_per_item:.2f}",
    )


def baselines(line: TaskLine) -> list[float | None]:
    """Constant, random and majority answers of a task; None where one makes no sense."""
    known = line.details.get("baselines", {})
    return [known[name]["value"] if name in known else None for name in BASELINES]


def latencies(line: TaskLine) -> list[float | None]:
    """What `LATENCIES` names of a task; None where it was not measured."""
    measured = line.details.get("measured", {})
    return [measured[name][kind] if name in measured else None for name, kind in LATENCIES.values()]


def rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str, caption: str | None = None,
               left: Sequence[int] = (0, 2)) -> Table:
    """A table for the terminal."""
    from rich.table import Table

    table = Table(title=title, caption=caption)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index in left else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0, 2)) -> str:
    """A table in Markdown; numbers to the right, the columns `left` to the left."""
    rules = ["---" if index in left else "---:" for index in range(len(columns))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, rules, *rows))


def shown(value: float | None) -> str:
    """A number as reports show it."""
    return "–" if value is None else f"{value:.3f}"


def _rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(value), 4) for name, value in metrics.items()}
