"""`daquar/qa.jsonl`: {"image", "qa": [[question, answer], ...]} -> open questions about rooms.

An answer that lists things ("fax machine, printer") asks for all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.rows import Row
from minicpm_o.evaluation.scoring import contains_all_scorer
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, load_file


def load(data_dir: Path) -> TaskSet:
    """Task daquar/qa."""
    return load_file(data_dir / "daquar" / "qa.jsonl", _parse, _build)


def _parse(row: Row) -> Iterable[Item]:
    image = row.media("image")
    pairs = row.fields.get("qa", [[row.fields.get("question"), row.fields.get("answer")]])
    if not isinstance(pairs, list) or not all(_is_pair(pair) for pair in pairs):
        raise InputError("expected 'qa': a list of [question, answer], or the fields 'question' and 'answer'")
    for number, (question, answer) in enumerate(pairs):
        expected = tuple(part.strip() for part in answer.split(",") if part.strip())
        if not expected:
            raise InputError(f"the answer to question {number} is empty")
        yield Item(f"{image.name} {number}", (image,), question, expected, group=image.name)


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) and text.strip() for text in pair)


def _build(items: list[Item]) -> Iterable[Task]:
    yield Task("daquar/qa", tuple(items), contains_all_scorer(), max_tokens=32)
