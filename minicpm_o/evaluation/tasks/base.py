"""What a task is: questions with expected answers, how to ask them and how to score them. Loads and asks nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from minicpm_o.evaluation.moments import Moment
from minicpm_o.evaluation.rows import BadRow, Media, Row, read_rows
from minicpm_o.evaluation.scoring import Scorer

Verb = Literal["chat", "transcribe", "rank", "match", "speak", "poll", "live"]
"""Answer in words, write down speech, say which of the choices is the likeliest answer, say how likely each of them is,
read the question aloud (what the recogniser hears of it is the answer), be asked every second whether it is time to
answer, or watch a live stream and speak up unasked."""


@dataclass(frozen=True)
class Item:
    """One question."""

    id: str
    """Unique within its task; the same in every run over the same data."""
    media: tuple[Media, ...]
    question: str
    """Words that stand beside the media, and alone in the blind run; empty for `transcribe` and where the medium says
    it all."""
    expected: tuple[str, ...]
    """Accepted answers, reference captions or the transcript."""
    group: str | None = None
    """Questions about one picture share it: they are sampled together and are not independent."""
    tag: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    row: Row | None = None
    """Of a published set whose evaluator reads whole rows."""
    moment: Moment | None = None
    """When the answer is due, where that is what is asked."""


@dataclass(frozen=True)
class Task:
    """One line of the report."""

    name: str
    items: tuple[Item, ...]
    scorer: Scorer
    max_tokens: int = 32
    verb: Verb = "chat"
    transcript: bool = True
    """False: the recogniser's text is kept from the model, which then hears with its own ears."""
    num_beams: int = 1
    """Answers that the model tries side by side; descriptions are asked for as `describe` does."""
    has_blind: bool = True
    notes: tuple[str, ...] = ()

    def blind_question(self, item: Item) -> str:
        """What is asked without the medium: items that share it get one answer. When something is said depends on the
        item's times too."""
        return item.question if item.moment is None else f"{item.id}: {item.question}"


@dataclass(frozen=True)
class TaskSet:
    """What one file of a data folder holds."""

    tasks: tuple[Task, ...] = ()
    bad_rows: tuple[BadRow, ...] = ()
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def merged(sets: Iterable[TaskSet]) -> TaskSet:
    """Several sets as one."""
    found = list(sets)
    return TaskSet(tuple(task for one in found for task in one.tasks),
                   tuple(bad for one in found for bad in one.bad_rows),
                   tuple(file for one in found for file in one.files),
                   tuple(note for one in found for note in one.notes))


Loader = Callable[[Path], TaskSet]
"""Data folder -> its tasks; an empty set where the folder has no such file."""


def load_file(
    path: Path, parse: Callable[[Row], Iterable[Item]], build: Callable[[list[Item]], Iterable[Task]]
) -> TaskSet:
    """Read one jsonl into items and those into tasks; an empty set where the file is not there."""
    if not path.is_file():
        return TaskSet()
    items, bad = read_rows(path, parse)
    return task_set(path, build(items), bad)


def task_set(path: Path, tasks: Iterable[Task], bad: Iterable[BadRow], notes: Iterable[str] = ()) -> TaskSet:
    """The tasks of one file that have items, each item with an id of its own."""
    kept = tuple(replace(task, items=with_unique_ids(task.items)) for task in tasks if task.items)
    return TaskSet(kept, tuple(bad), (path,), tuple(notes))


def with_unique_ids(items: Iterable[Item]) -> tuple[Item, ...]:
    """The second item of an id gets #2, the third #3."""
    seen: Counter[str] = Counter()
    unique = []
    for item in items:
        seen[item.id] += 1
        unique.append(item if seen[item.id] == 1 else replace(item, id=f"{item.id}#{seen[item.id]}"))
    return tuple(unique)
