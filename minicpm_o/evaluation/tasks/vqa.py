"""TextVQA, VQA v2, DocVQA and ChartQA as users download them: `textvqa/`, `vqa_v2/`, `docvqa/`, `chartqa/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from minicpm_o.evaluation.official import vqa
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.scoring import Question
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, merged
from minicpm_o.evaluation.tasks.published import PublishedScorer, published_set

LOADERS: Mapping[str, tuple[Callable[[Path], tuple[vqa.VqaItem, ...]], str]] = {
    "textvqa": (vqa.load_textvqa, "accuracy"),
    "vqa_v2": (vqa.load_vqa_v2, "accuracy"),
    "docvqa": (vqa.load_docvqa, "anls"),
    "chartqa": (vqa.load_chartqa, "relaxed"),
}
"""Folder -> how it is read and by which rule it is scored."""


def load(data_dir: Path) -> TaskSet:
    """A task for each of the four folders that is there."""
    return merged(published_set(data_dir / name, partial(_tasks, data_dir, name))
                  for name in LOADERS if (data_dir / name).is_dir())


def _tasks(data_dir: Path, name: str) -> list[Task]:
    reader, rule = LOADERS[name]
    return [task(name, reader(data_dir / name), rule)]


def task(name: str, questions: Sequence[vqa.VqaItem], rule: str) -> Task:
    """Questions with a request for a short answer."""
    items = tuple(Item(question.id, (Media("image", question.image, question.image.name),), question.prompt,
                       question.answers, group=question.image.name, tag=question.group) for question in questions)
    told = {"accuracy": "VQA accuracy: min(1, matches / 3), mean over leaving each human answer out",
            "anls": "ANLS: 1 - normalised edit distance where that is at least a half, else 0",
            "relaxed": "relaxed accuracy: numbers within 5 per cent, else the same text"}[rule]
    scores = SCORES[rule]

    def totals(items: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
        return {score.name: score.value for score in scores(answers, [item.expected for item in items])}

    def hit(item: Question, answer: str) -> float:
        return scores([answer], [item.expected])[0].items[0]

    return Task(name, items, PublishedScorer(told, hit, totals, constants=("yes", "no", "2")), max_tokens=16)


Answers = Sequence[str]
References = Sequence[Sequence[str]]

SCORES: Mapping[str, Callable[[Answers, References], list[vqa.ItemScores]]] = {
    "accuracy": lambda answers, references: [vqa.vqa_accuracy(parser, answers, references) for parser in vqa.PARSERS],
    "anls": lambda answers, references: [vqa.anls_scores(parser, answers, references)
                                         for parser in ("vlmevalkit", "paper")],
    "relaxed": lambda answers, references: [vqa.relaxed_scores(parser, answers, references)
                                            for parser in ("vlmevalkit", "lmms_eval")],
}
