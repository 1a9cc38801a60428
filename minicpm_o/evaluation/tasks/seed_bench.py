"""SEED-Bench: `SEED-Bench.json` with `SEED-Bench-image/` (and the videos under their names) -> two tasks.

`seed_bench/rank` takes the choice whose text the model finds likeliest, as the official script does; it needs a model
that can tell. `seed_bench/generate` asks for the letter, as LLaVA and lmms-eval do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from minicpm_o.evaluation.official import seed_bench
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.scoring import Question
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet
from minicpm_o.evaluation.tasks.published import PublishedScorer, Totals, named, published_set

FILE = "SEED-Bench.json"
FOLDERS = ("SEED-Bench-image", "SEED-Bench-video")
VIDEO_DIMENSION = 10
"""Dimensions from here on are of videos."""
GENERATED: tuple[Literal["llava", "lmms_eval"], ...] = ("lmms_eval", "llava")


def load(data_dir: Path) -> TaskSet:
    """Both tasks; nothing where the file is not there. A kind whose media are not there is left out, with a note."""
    path = data_dir / FILE
    if not path.is_file():
        return TaskSet()
    kinds = {"image": data_dir / FOLDERS[0], "video": data_dir / FOLDERS[1]}
    found = published_set(path, lambda: tasks(
        (question for kind, folder in kinds.items() if folder.is_dir()
         for question in seed_bench.load(path, kind, folder)), named(data_dir, "seed_bench")))
    notes = tuple(f"{FILE}: no folder {folder.name}, questions about {kind}s are left out. {seed_bench.WHERE}"
                  for kind, folder in kinds.items() if not folder.is_dir())
    return TaskSet(found.tasks, found.bad_rows, found.files, notes)


def tasks(questions: Iterable[seed_bench.SeedQuestion], name: str = "seed_bench") -> list[Task]:
    """Ranking and generation of the same questions."""
    listed = list(questions)
    if not listed:
        return []
    rank = PublishedScorer("the choice whose text has the smallest loss", _ranked, _totals(("official",)),
                           constants="ABCD", guess=0.25)
    generate = PublishedScorer("the first character of the answer (lmms-eval), the whole answer (LLaVA) is the letter",
                               _generated, _totals(GENERATED), constants="ABCD", guess=0.25)
    ranked = tuple(_item(question, seed_bench.ranking_prompt(question)) for question in listed)
    generated = tuple(_item(question, seed_bench.generation_prompt(question)) for question in listed)
    return [Task(f"{name}/rank", ranked, rank, verb="rank"),
            Task(f"{name}/generate", generated, generate, max_tokens=16)]


def _item(question: seed_bench.SeedQuestion, words: str) -> Item:
    assert question.media is not None  # `load` was given the folder
    choices = dict(zip(seed_bench.LETTERS, question.choices, strict=True))
    medium = Media(question.kind, question.media, question.data_id, question.window_s)
    return Item(str(question.id), (medium,), words, (question.answer,), group=question.data_id,
                tag=str(question.dimension), choices=choices)


def _totals(parsers: Sequence[seed_bench.Parser]) -> Totals:
    def totals(items: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for parser in parsers:
            scores = seed_bench.score(
                [_question(place, item) for place, item in enumerate(items)],
                {str(place): answer for place, answer in enumerate(answers)}, parser, strict=False)
            found[f"total_{parser}"] = scores.total.accuracy
            kinds = {"image": scores.image, "video": scores.video}
            found |= {f"{kind}_{parser}": tally.accuracy for kind, tally in kinds.items() if tally is not None}
            found |= {f"dimension_{number}_{parser}": tally.accuracy for number, tally in scores.dimensions.items()}
        return found

    return totals


def _question(place: int, item: Question) -> seed_bench.SeedQuestion:
    number = int(item.tag)
    kind: Literal["image", "video"] = "video" if number >= VIDEO_DIMENSION else "image"
    return seed_bench.SeedQuestion(str(place), number, kind, "", tuple(item.choices.values()), item.expected[0], "")


def _ranked(item: Question, answer: str) -> float:
    return float(answer == item.expected[0])


def _generated(item: Question, answer: str) -> float:
    return float(answer.strip()[:1].upper() == item.expected[0])
