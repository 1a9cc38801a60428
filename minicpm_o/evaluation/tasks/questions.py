"""`questions/qa.jsonl`: {"question", "answers": [...], "at_least"?, "audio"?} -> everyday questions, typed and spoken.

`typed` has no medium: what the language model can do without any. Rows whose question has been spoken too are also
asked by `spoken` (the recogniser's text stands beside the sound) and by `spoken_ears` (own ears alone), over the same
rows as `typed_spoken`, so that the three can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.rows import Row
from minicpm_o.evaluation.scoring import some_scorer
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, load_file
from minicpm_o.inputs.prompts import SPOKEN_QUESTION

MAX_TOKENS = 64


def load(data_dir: Path) -> TaskSet:
    """Tasks questions/typed and, where questions have been spoken, questions/spoken and questions/spoken_ears."""
    return load_file(data_dir / "questions" / "qa.jsonl", _parse, _build)


def _parse(row: Row) -> Iterable[Item]:
    """The typed question, with the sound where there is one; the tag says how many of the answers are wanted."""
    answers = row.texts("answers")
    wanted = row.fields.get("at_least", 1)
    if not isinstance(wanted, int) or not 1 <= wanted <= len(answers):
        raise InputError(f"'at_least' is {wanted!r} and there are {len(answers)} answers; expected 1 to that number")
    media = (row.media("audio"),) if "audio" in row.fields else ()
    question = row.text("question")
    yield Item(question, media, question, answers, tag=str(wanted))


def _build(items: list[Item]) -> Iterable[Task]:
    typed = tuple(replace(item, media=()) for item in items)
    heard = tuple(replace(item, question=SPOKEN_QUESTION) for item in items if item.media)
    yield Task("questions/typed", typed, some_scorer(), MAX_TOKENS, has_blind=False)
    if len(heard) < len(items):
        spoken = tuple(replace(item, media=()) for item in items if item.media)
        yield Task("questions/typed_spoken", spoken, some_scorer(), MAX_TOKENS, has_blind=False)
    yield Task("questions/spoken", heard, some_scorer(), MAX_TOKENS)
    yield Task("questions/spoken_ears", heard, some_scorer(), MAX_TOKENS, transcript=False)
