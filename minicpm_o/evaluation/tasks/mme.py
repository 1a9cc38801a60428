"""MME as its authors give it out: `MME_Benchmark_release_version/` -> one task; perception, cognition and total."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from minicpm_o.evaluation.official import mme
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.scoring import Question
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet
from minicpm_o.evaluation.tasks.published import PublishedScorer, named, published_set, stand_in

FOLDER = "MME_Benchmark_release_version"
COIN = 75.0
"""What a coin gets of a subtask's 200 on average: half of the questions, a quarter of the pictures."""


def load(data_dir: Path) -> TaskSet:
    """The task `mme`; nothing where the folder is not there."""
    folder, is_mme = data_dir / FOLDER, stand_in(data_dir) is None
    if not folder.is_dir():
        return TaskSet()
    subtasks = [name for name in mme.SUBTASKS if is_mme or (folder / name).is_dir()]
    return published_set(folder, lambda: [task(mme.load(folder, subtasks=subtasks), named(data_dir, "mme"))])


def task(questions: Iterable[mme.MMEQuestion], name: str = "mme") -> Task:
    """Questions in MME's form, two on each picture, asked in their own words."""
    items = tuple(Item(question.id, (Media("image", question.image, question.image.name),), question.question,
                       (question.answer,), group=f"{question.subtask}/{question.image.name}", tag=question.subtask)
                  for question in questions)
    rule = "MME: yes or no in the first four characters; accuracy + accuracy with both questions on a picture right"
    coin = COIN * len({item.tag for item in items})
    scorer = PublishedScorer(rule, _hit, totals, total, constants=("Yes", "No"), guess=coin)
    return Task(name, items, scorer, max_tokens=8)


def total(items: Sequence[Question], answers: Sequence[str]) -> float:
    """The official total alone."""
    return sum(_subtask(name, items, answers, "official").score for name in dict.fromkeys(item.tag for item in items))


def totals(items: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Total, perception and cognition by each parser; a subtask that is not there counts nothing."""
    found: dict[str, float] = {}
    for parser in get_args(mme.Parser):
        scores = {name: _subtask(name, items, answers, parser).score for name in dict.fromkeys(x.tag for x in items)}
        perception = sum(score for name, score in scores.items() if name in mme.PERCEPTION)
        found |= {f"total_{parser}": sum(scores.values()), f"perception_{parser}": perception,
                  f"cognition_{parser}": sum(scores.values()) - perception}
        if parser == "official":
            found |= {f"{name}_{parser}": score for name, score in scores.items()}
    return found


def _subtask(name: str, items: Sequence[Question], answers: Sequence[str], parser: mme.Parser) -> mme.SubtaskScore:
    """Score of one subtask; where no answer says yes or no, which stops the official script, it is 0."""
    lines = [mme.ResultLine(f"{place}", "", "yes" if item.expected[0] == "yes" else "no", " ".join(answer.split()))
             for place, (item, answer) in enumerate(_in_pairs(name, items, answers))]
    lines = [replace(line, image=str(place // 2)) for place, line in enumerate(lines)]
    if all(mme.label(line.said, parser) == "other" for line in lines):
        return mme.SubtaskScore(0.0, 0.0, len(lines), len(lines))
    return mme.score_lines(lines, parser, name)


def _in_pairs(name: str, items: Sequence[Question], answers: Sequence[str]) -> list[tuple[Question, str]]:
    """The questions of a subtask, those on one picture one after the other; one that lost its twin is left out."""
    pictures: dict[str, list[tuple[Question, str]]] = {}
    for item, answer in zip(items, answers, strict=True):
        if item.tag == name:
            pictures.setdefault(item.group or "", []).append((item, answer))
    return [pair for pairs in pictures.values() for pair in pairs[: len(pairs) // 2 * 2]]


def _hit(item: Question, answer: str) -> float:
    return float(mme.label(answer) == item.expected[0])
