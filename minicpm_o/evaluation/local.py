"""Local data folder + model -> report.

The same question gets the same answer (likeliest words, or draws from one seed), so a blind question is put once
however many items share it.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from minicpm_o.errors import InputError, OptionError
from minicpm_o.evaluation.answers import Answer, AnswerStore, Key, answers_path
from minicpm_o.evaluation.asking import Asker, Decoding, unable
from minicpm_o.evaluation.protocol import EvaluatedModel, HasFingerprint, HasName
from minicpm_o.evaluation.report import Report, TaskLine
from minicpm_o.evaluation.rows import BadRow
from minicpm_o.evaluation.scoring import Scores
from minicpm_o.evaluation.tasks import PUBLISHED, Item, Task, TaskSet, load_tasks
from minicpm_o.inputs.prompts import CAPTION_BEAMS, all_prompts

Progress = Callable[[str, int, int], None]
"""Called with (task name, answers so far, answers in all); the name ends in " (blind)" in the blind run."""

Spread = Callable[[Asker, Sequence[Key]], Iterator[Answer]]
"""Answers questions in any order: here several at a time, or somewhere else with the asker's decoding."""

SCORERS_VERSION = 3
"""Goes up when a scorer or the choice of items changes, so that reports of both are not compared."""


def run_local(
    model: EvaluatedModel,
    data_dir: str | Path,
    *,
    blind: bool = False,
    limit: int | None = None,
    report_path: str | Path | None = None,
    progress: Progress | bool | None = None,
    tasks: Sequence[str] | None = None,
    spread: Spread | None = None,
    decoding: Decoding | None = None,
) -> Report:
    """Ask a model all questions of a data folder and score the answers.

    blind: also run with picture or sound removed. limit: at most so many items a task, spread over the set (whole
    pictures where questions share one). report_path: the JSON goes there and every raw answer, as it comes, to
    `<stem>.answers.jsonl` beside it; the same run started again goes on where it stopped. progress: True for a bar on
    stderr, or a function. tasks: only tasks of these names (a name ending in "/" takes the whole set). spread: gets the
    questions that are still open and answers them several at a time (`together.in_threads`) or elsewhere
    (`cluster.over_ray`; the model then only gives its name). decoding: by default the likeliest words.
    Raises InputError where the folder holds nothing known, OptionError for a bad limit or an unknown task."""
    folder = Path(data_dir)
    found = load_tasks(folder)
    able, left_out = _able(model, found.tasks)
    chosen = [_limited(task, limit) for task in _chosen(able, tasks, found.bad_rows)]
    path = None if report_path is None else Path(report_path)
    decoding = decoding or Decoding()
    settings = _settings(model, folder, found, decoding, blind=blind, limit=limit)
    asker = Asker.of(model, chosen, folder, decoding)
    store = AnswerStore(None if path is None else answers_path(path), _run_id(model, settings))
    try:
        with _progress(progress) as show:
            if spread is not None:
                _gather(spread, asker, open_questions(chosen, store, blind=blind), store, show)
            runs = [_run_task(asker, task, store, blind=blind, show=show) for task in chosen]
    finally:
        store.close()
    lines = tuple(run.line for run in runs if run.line is not None)
    bad = (*found.bad_rows, *(bad for run in runs for bad in run.bad))
    notes = (*found.notes, *left_out, *(note for task in chosen for note in _task_notes(task)), *_store_notes(store))
    report = Report(model_name(model), settings, lines, _distinct(bad), notes)
    if path is not None:
        report.write(path)
    return report


def model_name(model: EvaluatedModel) -> str:
    """The model's own name, or that of its class."""
    return model.name if isinstance(model, HasName) else type(model).__name__


# --- which questions --------------------------------------------------------------------------------------------


def _able(model: EvaluatedModel, tasks: Sequence[Task]) -> tuple[list[Task], list[str]]:
    """The tasks that a model can do, and a note for each of the others."""
    able, notes = list[Task](), list[str]()
    for task in tasks:
        if (why := unable(model, task, model_name(model))) is not None:
            notes.append(f"{task.name}: left out, {why}")
        else:
            able.append(task)
    return able, notes


def _chosen(tasks: Sequence[Task], names: Sequence[str] | None, broken: Sequence[BadRow]) -> list[Task]:
    if names is None:
        return list(tasks)
    known = [task.name for task in tasks]
    for name in names:
        if not any(_names(name, task) for task in known):
            benchmark = name.split("/")[0]
            if benchmark in PUBLISHED:
                told = ", ".join(dict.fromkeys(bad.file for bad in broken))
                why = f" What cannot be used: {told}; a run of other tasks says why." if told else ""
                raise InputError(f"the data folder does not hold {name}.{why} {PUBLISHED[benchmark]}")
            raise OptionError(f"no task {name!r} in this data; there are {', '.join(known)}")
    return [task for task in tasks if any(_names(name, task.name) for name in names)]


def _names(name: str, task: str) -> bool:
    return task == name or (name.endswith("/") and task.startswith(name))


def _limited(task: Task, limit: int | None) -> Task:
    """The task with at most `limit` items: whole groups in an order that a hash gives, so the choice is spread over
    the set and always the same. One group is kept even where it alone is larger."""
    if limit is None:
        return task
    if limit < 1:
        raise OptionError(f"limit is {limit}; expected at least 1 item a task")
    groups: dict[str, list[Item]] = {}
    for item in task.items:
        groups.setdefault(item.group or item.id, []).append(item)
    kept: set[str] = set()
    for group in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        items = groups[group]
        if not kept or len(kept) + len(items) <= limit:
            kept |= {item.id for item in items}
    return replace(task, items=tuple(item for item in task.items if item.id in kept))


# --- asking -----------------------------------------------------------------------------------------------------


def open_questions(tasks: Sequence[Task], store: AnswerStore, *, blind: bool) -> list[Key]:
    """What is not answered yet; of blind questions in the same words the first."""
    keys = [(task.name, item.id, False) for task in tasks for item in task.items]
    for task in tasks if blind else ():
        first = {task.blind_question(item): item.id for item in reversed(task.items)} if task.has_blind else {}
        keys += [(task.name, item_id, True) for item_id in first.values()]
    return [key for key in keys if store.get(key) is None]


def _gather(spread: Spread, asker: Asker, keys: Sequence[Key], store: AnswerStore, show: Progress) -> None:
    for done, answer in enumerate(spread(asker, keys) if keys else (), start=1):
        store.add(answer)
        show("all questions", done, len(keys))


@dataclass(frozen=True)
class _Run:
    line: TaskLine | None
    bad: tuple[BadRow, ...]


def _run_task(asker: Asker, task: Task, store: AnswerStore, *, blind: bool, show: Progress) -> _Run:
    """Ask, then ask blind, then score what could be read."""
    seeing = []
    for done, item in enumerate(task.items, start=1):
        seeing.append(_answer(asker, (task.name, item.id, False), store))
        show(task.name, done, len(task.items))
    readable = [(item, answer) for item, answer in zip(task.items, seeing, strict=True) if answer.error is None]
    bad = tuple(
        BadRow(task.name, None, f"{answer.id}: {answer.error}") for answer in seeing if answer.error is not None
    )
    if not readable:
        return _Run(None, bad)
    items = [item for item, _ in readable]
    scores = task.scorer.score(items, [answer.answer for _, answer in readable])
    unseen = _run_blind(asker, task, items, store, show) if blind and task.has_blind else None
    return _Run(_line(task, items, [answer for _, answer in readable], scores, unseen), bad)


def _answer(asker: Asker, key: Key, store: AnswerStore) -> Answer:
    known = store.get(key)
    if known is None:
        known = asker(key)
        store.add(known)
    return known


def _run_blind(asker: Asker, task: Task, items: Sequence[Item], store: AnswerStore, show: Progress) -> Scores:
    """The same items without their media; each distinct question is put once."""
    said: dict[str, Answer] = {}
    answers = []
    for done, item in enumerate(items, start=1):
        key = (task.name, item.id, True)
        question = task.blind_question(item)
        if store.get(key) is None and question in said:
            store.add(asker.same_question(key, said[question]))
        said[question] = _answer(asker, key, store)
        answers.append(said[question].answer)
        show(f"{task.name} (blind)", done, len(items))
    return task.scorer.score(items, answers)


# --- writing up -------------------------------------------------------------------------------------------------


def _line(
    task: Task, items: Sequence[Item], answers: Sequence[Answer], scores: Scores, unseen: Scores | None
) -> TaskLine:
    chance = task.scorer.chance(items)
    details: dict[str, Any] = {
        "headline": next(iter(scores.metrics)),
        "scored": task.scorer.rule,
        "chance": chance.rule,
        "baselines": chance.to_dict(),
        "max_tokens": task.max_tokens,
        "transcript": task.transcript,
        "measured": _measured(answers),
        **scores.details,
    }
    if unseen is not None:
        details["blind_interval"] = unseen.interval
    return TaskLine(
        name=task.name,
        n=len(items),
        metrics={**scores.metrics, **_voice(task, details["measured"])},
        interval=scores.interval,
        chance=chance.value,
        blind={} if unseen is None else unseen.metrics,
        seconds_per_item=sum(answer.seconds for answer in answers) / len(answers),
        details=details,
    )


def _measured(answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """Median, 95th percentile and mean of what was measured while the answers came, and of their seconds."""
    values: dict[str, list[float]] = {"seconds": [answer.seconds for answer in answers]}
    for answer in answers:
        for name, value in answer.measured.items():
            values.setdefault(name, []).append(value)
    return {name: {"median": round(statistics.median(found), 4), "p95": round(sorted(found)[int(0.95 * len(found))], 4),
                   "mean": round(statistics.fmean(found), 4), "n": len(found)} for name, found in values.items()}


def _voice(task: Task, measured: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """What is measured of a voice belongs to its scores."""
    if task.verb != "speak":
        return {}
    return {name: found["mean"] for name, found in measured.items() if name not in ("seconds", "spoken_s")}


def _settings(model: EvaluatedModel, folder: Path, found: TaskSet, decoding: Decoding, *, blind: bool,
              limit: int | None) -> dict[str, Any]:
    files = {file.relative_to(folder).as_posix(): _digest(file) for file in found.files}
    return {
        "data": str(folder),
        "blind": blind,
        "limit": limit,
        "files_sha256": files,
        "prompts": all_prompts(),
        "scorers_version": SCORERS_VERSION,
        "package_version": _package_version("minicpm-o"),
        "normaliser": f"whisper-normalizer {_package_version('whisper-normalizer')}",
        "fingerprint": model.fingerprint if isinstance(model, HasFingerprint) else None,
        "decoding": _told(decoding),
    }


def _told(decoding: Decoding) -> str:
    way = "the likeliest words" if not decoding.temperature else \
        f"words drawn at temperature {decoding.temperature} from seed {decoding.seed}"
    return f"{way}; descriptions by the best of {CAPTION_BEAMS} beams"


def _digest(path: Path) -> str:
    """Of a file its content, of a folder the names and sizes of all in it."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = (file for file in path.rglob("*") if file.is_file())
    held = sorted((file.relative_to(path).as_posix(), file.stat().st_size) for file in files)
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _run_id(model: EvaluatedModel, settings: Mapping[str, Any]) -> str:
    """Answers are taken over from an earlier start only where this is the same. Blind and limit choose among the same
    questions, so they do not enter; nor does the folder's path."""
    entering = {name: value for name, value in settings.items() if name not in ("data", "blind", "limit")}
    text = json.dumps([model_name(model), entering], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _task_notes(task: Task) -> list[str]:
    return [f"{task.name}: {note}" for note in task.notes]


def _store_notes(store: AnswerStore) -> list[str]:
    notes = []
    if store.num_resumed:
        notes.append(f"{store.num_resumed} answers were taken over from an earlier start of this run")
    if store.moved_to is not None:
        notes.append(f"answers of another run were moved to {store.moved_to.name}")
    return notes


def _distinct(bad: Sequence[BadRow]) -> tuple[BadRow, ...]:
    return tuple(dict.fromkeys(bad))


@contextmanager
def _progress(progress: Progress | bool | None) -> Iterator[Progress]:
    """The caller's function, a bar on stderr, or nothing."""
    if callable(progress):
        yield progress
    elif progress:
        with _bar() as bar:
            yield bar
    else:
        yield lambda name, done, total: None


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        shown: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in shown:
                shown[name] = bars.add_task(name, total=total)
            bars.update(shown[name], completed=done)

        yield show
