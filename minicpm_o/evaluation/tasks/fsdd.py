"""`fsdd/labels.jsonl`: {"audio", "text": "seven"} (or "label": "7") -> which digit is spoken.

Two lines: as a user gets it (the recogniser's text stands beside the sound), and with the model's own ears alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import digits_named
from minicpm_o.evaluation.rows import Row
from minicpm_o.evaluation.scoring import digit_scorer
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, load_file
from minicpm_o.inputs.prompts import DIGIT


def load(data_dir: Path) -> TaskSet:
    """Tasks fsdd/digit and fsdd/digit_ears."""
    return load_file(data_dir / "fsdd" / "labels.jsonl", parse_digit, lambda items: digit_tasks("fsdd", items))


def parse_digit(row: Row) -> Iterable[Item]:
    """One question of a row whose `label` or `text` (or `transcript`) names one digit."""
    audio = row.media("audio")
    spoken = row.text("label", "text", "transcript")
    if len(digits_named(spoken)) != 1:
        raise InputError(f"{spoken!r} does not name one digit")
    yield Item(audio.name, (audio,), DIGIT, (spoken,))


def digit_tasks(prefix: str, items: list[Item]) -> Iterable[Task]:
    """The two lines of digit questions."""
    yield Task(f"{prefix}/digit", tuple(items), digit_scorer(), max_tokens=12)
    yield Task(f"{prefix}/digit_ears", tuple(items), digit_scorer(), max_tokens=12, transcript=False)
