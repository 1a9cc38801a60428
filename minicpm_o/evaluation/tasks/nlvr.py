"""`nlvr*.jsonl`: {"image", "question", "answers": ["yes" | "no"]} -> is a sentence true of a picture (Cornell NLVR)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minicpm_o.evaluation.rows import Row
from minicpm_o.evaluation.scoring import yes_no_scorer
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, load_file
from minicpm_o.evaluation.tasks.images_qa import parse_yes_no


def load(path: Path) -> TaskSet:
    """Task STEM/yesno."""
    return load_file(path, _parse, lambda items: [Task(f"{path.stem}/yesno", tuple(items), yes_no_scorer(), 8)])


def _parse(row: Row) -> Iterable[Item]:
    image = row.media("image")
    question, expected, _ = parse_yes_no(row)
    yield Item(row.text_or("id", image.name), (image,), question, expected, group=image.name)
