"""OCRBench: `OCRBench.tsv` -> hits of 1000, and those of text recognition and the four other kinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minicpm_o.evaluation.official import ocrbench
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.scoring import Question
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet
from minicpm_o.evaluation.tasks.published import PublishedScorer, published_set

MAX_TOKENS = 32
"""A right text anywhere in the answer is a hit, so long answers would be paid for."""


def load(path: Path) -> TaskSet:
    """The task `ocrbench` of one file."""
    return published_set(path, lambda: [task(ocrbench.load_ocrbench(path))])


def task(questions: Sequence[ocrbench.OcrItem], name: str = "ocrbench") -> Task:
    """The questions in their own words."""
    items = tuple(Item(question.id, (Media("image", question.image, question.id),), question.question,
                       question.accepted, tag=question.category) for question in questions)
    rule = "one of the accepted texts stands in the answer, in small letters"
    return Task(name, items, PublishedScorer(rule, _hit, totals), max_tokens=MAX_TOKENS)


def totals(items: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Share of hits first (of the questions that were asked), then hits by kind."""
    said = [_said(item, answer) for item, answer in zip(items, answers, strict=True)]
    found: dict[str, float] = {}
    for parser in ocrbench.PARSERS:
        scores = ocrbench.ocrbench_scores(said, parser)
        found[f"share_{parser}"] = scores.final / len(items)
        found |= {f"{name} ({parser})": value for name, value in scores.reported.items()}
    return found


def _hit(item: Question, answer: str) -> float:
    return float(ocrbench.vlmevalkit_hit(_said(item, answer)))


def _said(item: Question, answer: str) -> ocrbench.OcrAnswer:
    return ocrbench.OcrAnswer(item.tag, "", item.expected, answer)
