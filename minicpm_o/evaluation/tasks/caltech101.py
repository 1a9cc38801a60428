"""`caltech101/labels.jsonl`: {"image", "label"} -> "What is in this picture?", right if the answer holds a name of it.

A second rate, `accuracy_broad`, also takes names of a wider kind ("dog" for a dalmatian).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import contains_answer
from minicpm_o.evaluation.rows import Row
from minicpm_o.evaluation.scoring import Question, RateScorer
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, load_file
from minicpm_o.evaluation.tasks.caltech101_names import BROADER, names_of
from minicpm_o.inputs.prompts import NAMING

RULE = "the label or a listed synonym stands in the answer (word boundaries)"


def load(data_dir: Path) -> TaskSet:
    """Task caltech101/naming."""
    return load_file(data_dir / "caltech101" / "labels.jsonl", _parse, _build)


def _parse(row: Row) -> Iterable[Item]:
    label = row.text("label")
    if label.upper().startswith("BACKGROUND"):
        raise InputError(f"label {label} names no thing; leave the background class out")
    image = row.media("image")
    yield Item(image.name, (image,), NAMING, names_of(label), tag=label)


def _build(items: list[Item]) -> Iterable[Task]:
    num_labels = len({item.tag for item in items})
    scorer = RateScorer(_hit, RULE, extra={"accuracy_broad": _hit_broad}, guess=partial(_guess, num_labels=num_labels))
    yield Task("caltech101/naming", tuple(items), scorer, max_tokens=32)


def _hit(item: Question, answer: str) -> bool:
    return any(contains_answer(answer, name) for name in item.expected)


def _hit_broad(item: Question, answer: str) -> bool:
    return _hit(item, answer) or any(contains_answer(answer, name) for name in BROADER.get(item.tag, ()))


def _guess(items: Sequence[Question], num_labels: int) -> float:
    return 1 / max(1, num_labels)
