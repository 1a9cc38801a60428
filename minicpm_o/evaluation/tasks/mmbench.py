"""MMBench: `MMBench*.tsv` of a dev split -> CircularEval: right where all rotations of a question's options are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from minicpm_o.evaluation.official import mmbench
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.scoring import Question
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet
from minicpm_o.evaluation.tasks.published import PublishedScorer, published_set


def load(path: Path) -> TaskSet:
    """The task mmbench/NAME of one file."""
    return published_set(path, lambda: [task(mmbench.load(path), f"mmbench/{path.stem}")])


def task(questions: Sequence[mmbench.MMBenchQuestion], name: str) -> Task:
    """All rotations of all questions, asked as VLMEvalKit asks."""
    mains = [question for question in questions if question.index == question.main_index and question.answer]
    items = tuple(_item(turned) for question in mains for turned in mmbench.rotations(question))
    rule = "VLMEvalKit without a judge: a letter that stands alone, else the one option named; all rotations right"
    chance = PublishedScorer(rule, _hit, totals, constants="ABCD", guess=_guess(mains))
    return Task(name, items, chance, max_tokens=16)


def totals(items: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Circular and vanilla accuracy by each parser."""
    found: dict[str, float] = {}
    for parser in get_args(mmbench.Parser):
        questions: dict[str, list[bool]] = {}
        for place, (item, answer) in enumerate(zip(items, answers, strict=True)):
            right = mmbench.choose(answer, item.choices, parser) == item.expected[0]
            questions.setdefault(item.group or str(place), []).append(right)
        found[f"circular_{parser}"] = sum(all(hits) for hits in questions.values()) / len(questions)
        found[f"vanilla_{parser}"] = sum(hits[0] for hits in questions.values()) / len(questions)
    return found


def _item(question: mmbench.MMBenchQuestion) -> Item:
    picture = (Media("image", question.image, f"{question.main_index}"),) if question.image else ()
    return Item(str(question.index), picture, mmbench.prompt(question), (question.answer,),
                group=str(question.main_index), choices=question.options)


def _guess(questions: Sequence[mmbench.MMBenchQuestion]) -> float:
    """All rotations right by guessing, on average."""
    chances = [(1 / len(question.options)) ** len(question.options) for question in questions if question.options]
    return sum(chances) / max(1, len(chances))


def _hit(item: Question, answer: str) -> float:
    return float(mmbench.choose(answer, item.choices) == item.expected[0])
