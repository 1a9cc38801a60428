"""POPE: `pope/coco_pope_*.json` with COCO's `val2014/` beside `pope/` or in it -> a task for each split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import YesNo
from minicpm_o.evaluation.official import pope
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.scoring import Question
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet
from minicpm_o.evaluation.tasks.published import PublishedScorer, named, published_set


def load(data_dir: Path) -> TaskSet:
    """Tasks pope/random, pope/popular and pope/adversarial; nothing where the folder is not there."""
    folder = data_dir / "pope"
    if not folder.is_dir():
        return TaskSet()
    pictures = next((place for place in (folder / "val2014", data_dir / "val2014") if place.is_dir()), folder)
    return published_set(folder, lambda: tasks(pope.load(folder, pictures), named(data_dir, "pope")))


def tasks(questions: Iterable[pope.PopeQuestion], name: str = "pope") -> list[Task]:
    """A task for each split."""
    splits: dict[str, list[Item]] = {}
    for question in questions:
        picture = Media("image", question.image, question.image.name)
        splits.setdefault(question.split, []).append(
            Item(str(question.id), (picture,), question.question, (question.answer,), group=picture.name))
    rule = "POPE: No, no or not before the first full stop means no, everything else yes"
    scorer = PublishedScorer(rule, _hit, totals, constants=("Yes", "No"), guess=0.5)
    return [Task(f"{name}/{split}", tuple(items), scorer, max_tokens=16) for split, items in splits.items()]


def totals(items: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """F1 first, then the other numbers, by each parser; where the official script divides by zero, F1 is 0."""
    labels: list[YesNo] = ["yes" if item.expected[0] == "yes" else "no" for item in items]
    found: dict[str, float] = {}
    for parser in get_args(pope.Parser):
        try:
            scores = pope.score(answers, labels, parser)
        except InputError:
            right = sum(_hit(item, answer) for item, answer in zip(items, answers, strict=True)) / len(items)
            found |= {f"f1_{parser}": 0.0, f"accuracy_{parser}": right}
            continue
        found |= {f"f1_{parser}": scores.f1, f"accuracy_{parser}": scores.accuracy}
        if parser == "official":
            found |= {f"precision_{parser}": scores.precision, f"recall_{parser}": scores.recall,
                      f"yes_ratio_{parser}": scores.yes_ratio}
    return found


def _hit(item: Question, answer: str) -> float:
    return float(pope.label(answer) == item.expected[0])
