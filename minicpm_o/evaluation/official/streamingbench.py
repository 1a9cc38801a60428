"""StreamingBench: 900 videos, 4,500 questions asked while the video runs; its arithmetic and that of its answer files.

Protocol: `real`, `omni` and `sqa` are questions with four options about the video up to the moment of the question, in
the main table its last minute, and the FIRST CHARACTER of the answer must be the letter: "The answer is B" counts as T,
"(C)" as "(", "b" is wrong. `proactive` asks once a second, from a second after the request on, whether it is time to
speak; a reply with "yes" in it ends the asking, and what is then said must come within 2 s of the true time
(time_correct) and hold the expected words (answer_correct).
Source: StreamingBench (arXiv:2411.03628), src/data/count.py and src/benchmark at 8929923. The requests are worded anew.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from minicpm_o.errors import InputError, OptionError

TaskName: TypeAlias = Literal["real", "omni", "sqa", "proactive"]
Counts: TypeAlias = dict[str, dict[str, float]]
"""Task type -> how many, how many right, and their ratio."""

TASKS: tuple[TaskName, ...] = ("real", "omni", "sqa", "proactive")
TOLERANCE_SECONDS = 2
WINDOW_SECONDS = 60
"""So much before a question with options is shown in the main table."""
LAST_POLL_AFTER_SECONDS = 4
"""So long after the true time the model is still asked."""
POLL = '{request}\nIs it the right time to output "{output}" now? Answer only yes or no.'
SAY = "{request}\nIt is time now. Write only what is to be output."
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


def poll_times(asked_s: int, due_s: int) -> range:
    """Seconds of the video at which a proactive model is asked whether to speak now, until it says yes."""
    return range(asked_s + 1, due_s + LAST_POLL_AFTER_SECONDS + 1)


def is_yes(reply: str) -> bool:
    """Whether a reply to the question if it is time to speak ends the asking."""
    return "yes" in reply.lower()


def is_letter(answer: str, letter: str) -> bool:
    """Whether an answer to a question with options is right; one without a character is wrong (the script stops)."""
    return answer[:1] == letter


def is_in_time(time_s: float, due_s: float) -> bool:
    """Whether something was said when it was due."""
    return abs(time_s - due_s) <= TOLERANCE_SECONDS


def tally(judged: Iterable[tuple[str, Mapping[str, bool]]], ratios: Mapping[str, str], *, with_total: bool) -> Counts:
    """Task type and judgements of each answer to counts and their ratios, over the types and all together."""
    stats: Counts = {}
    for task_type, rights in judged:
        for name in (task_type, "total") if with_total else (task_type,):
            nothing: dict[str, float] = {"total": 0, **dict.fromkeys(ratios, 0), **dict.fromkeys(ratios.values(), 0.0)}
            row = stats.setdefault(name, nothing)
            row["total"] += 1
            for right in ratios:
                row[right] += rights[right]
    for row in stats.values():
        row.update({ratio: row[right] / row["total"] for right, ratio in ratios.items()})
    return stats


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
    asked = list(questions(path, task))
    answered = [question for question in asked if question.is_answered(model, skip_empty=task == "sqa")]
    judge, ratios = (_judge_proactive, PROACTIVE_RATIOS) if task == "proactive" else (_judge_choice, CHOICE_RATIOS)
    judged = ((question.text("task_type"), judge(question, model)) for question in answered)
    stats = tally(judged, ratios, with_total=task in ("real", "omni"))
    return Statistics(task, stats, len(answered), tuple(_notes(model, len(asked), len(answered))))


def _notes(model: str, num_questions: int, num_answered: int) -> Iterator[str]:
    if not num_answered:
        yield f"no question has an answer under the name {model!r}: there is no score"
    elif num_answered < num_questions:
        yield f"{num_questions - num_answered} of {num_questions} questions have no answer and are not in the totals"


# --- one question -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileQuestion:
    """A question of a question or answer file, and where it stands there."""

    place: str
    fields: Mapping[str, Any]
    video: str = ""
    """As the file writes it, ./videos/sample_1_real.mp4."""
    entry: int = 0
    """The list item that it belongs to; of sqa, questions that build upon one another share it."""

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


def _judge_choice(question: FileQuestion, model: str) -> dict[str, bool]:
    answer = question.text(model)
    if not answer:
        raise question.wrong("the answer is empty", "a letter (the script looks at the first character)",
                             f"ask the model again, or take the key {model!r} away to leave the question out")
    return {"correct": is_letter(answer, question.text("answer"))}


def _judge_proactive(question: FileQuestion, model: str) -> dict[str, bool]:
    time_s, content = _last_reply(question, model)
    in_time = is_in_time(time_s, question.time("ground_truth_time_stamp"))
    return {"time_correct": in_time, "answer_correct": in_time and question.text("ground_truth_output") in content}


def _last_reply(question: FileQuestion, model: str) -> tuple[float, str]:
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


def questions(path: Path, task: TaskName) -> Iterator[FileQuestion]:
    """All questions of a file in order; `sqa` has lists of videos where the others have videos. Raises InputError."""
    for number, entry in enumerate(_as_list(_load(path), path.name, "videos"), start=1):
        place = f"{path.name} entry {number}"
        for video in _as_list(entry, place, "videos") if task == "sqa" else [entry]:
            yield from _questions_of(video, place, number)


def _questions_of(video: Any, place: str, entry: int) -> Iterator[FileQuestion]:
    if not isinstance(video, dict) or "questions" not in video:
        raise InputError(f"{place}: {_kind(video)}; expected a video with \"questions\"; check that the file is of "
                         f"this task: sqa files hold lists of videos, the others videos")
    name = video.get("video_path", "no video_path")
    for number, fields in enumerate(_as_list(video["questions"], place, "questions"), start=1):
        where = f"{place} ({name}) question {number}"
        if not isinstance(fields, dict):
            raise InputError(f"{where}: {_kind(fields)}; expected a question as an object; mend the file")
        yield FileQuestion(where, fields, str(name), entry)


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
        raise InputError(f"cannot read {path}: {error.strerror or error}; give the path of a question or answer "
                         f"file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not JSON: {error}; expected a question or answer file of StreamingBench; "
                         f"write it again") from error
