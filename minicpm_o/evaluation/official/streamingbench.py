"""StreamingBench: 900 videos, 4,500 questions asked while the video runs; the statistics of its answer files.

Protocol: `real`, `omni` and `sqa` are questions with four options, and the FIRST CHARACTER of the answer must be the
letter: "The answer is B" counts as T, "(C)" as "(", "b" is wrong. `proactive` asks once a second whether it is time to
speak; the last reply must come within 2 s of the true time (time_correct) and then hold the expected words
(answer_correct).
Source: StreamingBench (arXiv:2411.03628), src/data/count.py at 8929923.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from minicpm_o.errors import InputError, OptionError

TaskName: TypeAlias = Literal["real", "omni", "sqa", "proactive"]
Counts: TypeAlias = dict[str, dict[str, float]]
"""Task type -> how many, how many right, and their ratio."""

TASKS: tuple[TaskName, ...] = ("real", "omni", "sqa", "proactive")
TOLERANCE_SECONDS = 2
LAST_POLL_AFTER_SECONDS = 4
"""So long after the true time the model is still asked."""
CHOICE_RATIOS = {"correct": "accuracy"}
PROACTIVE_RATIOS = {"time_correct": "time_accuracy", "answer_correct": "answer_accuracy"}
CHOICE_COLUMNS = ("task_type", "total", "correct", "accuracy")
PROACTIVE_COLUMNS = ("task_type", "total", "time_correct", "time_accuracy", "answer_correct", "answer_accuracy")


@dataclass(frozen=True)
class Statistics:
    """What count.py prints and writes."""

    task: TaskName
    stats: Counts
    counted: int
    notes: tuple[str, ...] = ()

    @property
    def stdout(self) -> str:
        """The line that the official script prints (its spelling)."""
        return f"{self.counted} items have been statisticed\n"

    @property
    def csv(self) -> str:
        """The table that the official script writes."""
        columns = PROACTIVE_COLUMNS if self.task == "proactive" else CHOICE_COLUMNS
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([name, *(row[column] for column in columns[1:])] for name, row in self.stats.items())
        return text.getvalue()


def poll_times(asked: str, truth: str) -> range:
    """Seconds of the video at which a proactive model is asked whether to speak now, until it says yes."""
    return range(seconds(asked), seconds(truth) + LAST_POLL_AFTER_SECONDS + 1)


def seconds(time_stamp: str) -> int:
    """00:01:07 -> 67. Raises InputError for another form."""
    parts = time_stamp.split(":")
    if not parts[-1] or not all(part.strip().isdecimal() for part in parts):
        raise InputError(f"time stamp {time_stamp!r}; expected HH:MM:SS; mend it")
    return sum(int(part) * 60**power for power, part in enumerate(reversed(parts)))


def statistics(path: Path, task: TaskName, model: str) -> Statistics:
    """Statistics of an answer file for the answers under the model's name; questions without one are left out.

    Raises InputError where the official script would crash."""
    if task not in TASKS:
        raise OptionError(f"unknown StreamingBench task {task!r}; expected one of {', '.join(TASKS)}")
    questions = list(_questions(path, task))
    answered = [question for question in questions if question.is_answered(model, skip_empty=task == "sqa")]
    count, ratios = (_count_proactive, PROACTIVE_RATIOS) if task == "proactive" else (_count_choice, CHOICE_RATIOS)
    stats: Counts = {}
    for question in answered:
        groups = [question.text("task_type"), *(["total"] if task in ("real", "omni") else [])]
        count(question, model, [_group(stats, name, ratios) for name in groups])
    for row in stats.values():
        row.update({ratio: row[right] / row["total"] for right, ratio in ratios.items()})
    return Statistics(task, stats, len(answered), tuple(_notes(model, len(questions), len(answered))))


def _group(stats: Counts, name: str, ratios: Mapping[str, str]) -> dict[str, float]:
    return stats.setdefault(name, {"total": 0, **dict.fromkeys(ratios, 0), **dict.fromkeys(ratios.values(), 0.0)})


def _notes(model: str, num_questions: int, num_answered: int) -> Iterator[str]:
    if not num_answered:
        yield f"no question has an answer under the name {model!r}: there is no score"
    elif num_answered < num_questions:
        yield f"{num_questions - num_answered} of {num_questions} questions have no answer and are not in the totals"


# --- one question -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Question:
    """A question of the answer file, and where it stands there."""

    place: str
    fields: Mapping[str, Any]

    def is_answered(self, model: str, skip_empty: bool) -> bool:
        """Whether it counts: the official script leaves empty answers out of sqa alone."""
        return model in self.fields and not (skip_empty and not self.fields[model])

    def text(self, name: str) -> str:
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise self.wrong(f"{name!r} is {value!r}", "a text", "mend the file")
        return value

    def time(self, name: str) -> int:
        try:
            return seconds(self.text(name))
        except InputError as error:
            raise InputError(f"{self.place}: {name!r}: {error}") from error

    def wrong(self, came: str, expected: str, advice: str) -> InputError:
        return InputError(f"{self.place}: {came[:200]}; expected {expected}; {advice}")


def _count_choice(question: _Question, model: str, rows: list[dict[str, float]]) -> None:
    answer = question.text(model)
    if not answer:
        raise question.wrong("the answer is empty", "a letter (the script looks at the first character)",
                             f"ask the model again, or take the key {model!r} away to leave the question out")
    for row in rows:
        row["total"] += 1
        row["correct"] += answer[0] == question.text("answer")


def _count_proactive(question: _Question, model: str, rows: list[dict[str, float]]) -> None:
    time, content = _last_reply(question, model)
    in_time = abs(time - question.time("ground_truth_time_stamp")) <= TOLERANCE_SECONDS
    right = in_time and question.text("ground_truth_output") in content
    for row in rows:
        row["total"] += 1
        row["time_correct"] += in_time
        row["answer_correct"] += right


def _last_reply(question: _Question, model: str) -> tuple[float, str]:
    answer = question.fields[model]
    history = answer.get("dialog_history") if isinstance(answer, dict) else None
    last = history[-1] if isinstance(history, list) and history else None
    time, content = (last.get("time"), last.get("content")) if isinstance(last, dict) else (None, None)
    if not isinstance(time, int | float) or not isinstance(content, str):
        raise question.wrong(f"the last entry of {model!r}'s dialog_history is {last!r}",
                             'an object with "content" (a text) and "time" (seconds)',
                             "run the model on this question again")
    return time, content


# --- the answer file --------------------------------------------------------------------------------------------


def _questions(path: Path, task: TaskName) -> Iterator[_Question]:
    """All questions of a file in order; `sqa` has lists of videos where the others have videos."""
    for number, entry in enumerate(_as_list(_load(path), path.name, "videos"), start=1):
        place = f"{path.name} entry {number}"
        for video in _as_list(entry, place, "videos") if task == "sqa" else [entry]:
            yield from _questions_of(video, place)


def _questions_of(video: Any, place: str) -> Iterator[_Question]:
    if not isinstance(video, dict) or "questions" not in video:
        raise InputError(f"{place}: {_kind(video)}; expected a video with \"questions\"; check that the file is of "
                         f"this task: sqa files hold lists of videos, the others videos")
    for number, fields in enumerate(_as_list(video["questions"], place, "questions"), start=1):
        where = f"{place} ({video.get('video_path', 'no video_path')}) question {number}"
        if not isinstance(fields, dict):
            raise InputError(f"{where}: {_kind(fields)}; expected a question as an object; mend the file")
        yield _Question(where, fields)


def _as_list(value: Any, place: str, of: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{place}: {_kind(value)}; expected a list of {of}; check that the file is of this task")
    return value


def _kind(value: Any) -> str:
    return f"an object with {', '.join(map(str, value)) or 'nothing'}" if isinstance(value, dict) else \
        f"a JSON {type(value).__name__}"


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; give the path of an answer file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not JSON: {error}; expected an answer file of StreamingBench; "
                         f"write it again") from error
