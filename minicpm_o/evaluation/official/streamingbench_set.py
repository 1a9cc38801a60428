"""StreamingBench as it is given out: the question files of its repository or of its data set, and the videos to them.

Two forms. The repository has `questions_real.json` and so on, whose videos are named as its preprocessing renames them
(sample_3_real.mp4); the Hugging Face data set has tables (`Real_Time_Visual_Understanding.csv`) whose question_id is
"CATEGORY_sample_3_1" and zips with a folder sample_3 for each video. Videos are found under either name, wherever below
the folder they lie. Source: src/data/move_video.py and modify_video_path.py at 8929923.
"""

from __future__ import annotations

import ast
import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.files import long_cells
from minicpm_o.evaluation.official.streamingbench import FileQuestion, TaskName, questions

LETTERS = "ABCD"
TABLES: Mapping[TaskName, tuple[str, ...]] = {
    "real": ("Real_Time_Visual_Understanding.csv",),
    "omni": ("Omni_Source_Understanding.csv", "Contextual_Understanding.csv"),
    "sqa": ("Sequential_Question_Answering.csv",),
    "proactive": ("Proactive_Output.csv",),
}
RENAMED = {"Misleading_Context_Recognition": "Misleading_Context_Understanding", "Active_Output": "Proactive_Output"}
"""Categories of the tables -> those of the zips."""
CATEGORIES: Mapping[str, TaskName] = {"Real-Time_Visual_Understanding": "real", "Proactive_Output": "proactive",
                                      "Sequential_Question_Answering": "sqa"}
"""Categories whose videos the repository keeps in a folder of the task's name."""
WHERE = ("Expected is a folder StreamingBench/ with questions_real.json, questions_omni.json, questions_sqa.json and "
         "questions_proactive.json (src/data of github.com/THUNLP-MT/StreamingBench) or the tables of the Hugging Face "
         "data set mjuicem/StreamingBench, and with the videos of that data set: its zips unpacked, each into a folder "
         "of the zip's name or, of real, sqa and proactive, of the task's, or renamed as the repository's "
         "preprocess.sh does (sample_3_real.mp4)")

_QUESTION_ID = re.compile(r"(?P<category>.+)_sample_(?P<sample>\d+)_\d+")
_RANGE = re.compile(r"_\d+-\d+$")
"""Of a zip's name: which of its samples it holds."""

CHOOSE = ("Here is a video up to the present moment, and a question about it. Respond with only the letter (A, B, C or "
          "D) of the one option that is right.\n\n{earlier}Question: {question}\n\nOptions:\n{options}\n\n"
          "The best option is:")
EARLIER = ("Questions that were asked earlier in the video, with their right answers, which the question may refer "
           "to:\n{told}\n\n")
TOLD = "At {time}: {question} Options: {options} Answer: {answer}"


@dataclass(frozen=True)
class Choice:
    """A question with four options."""

    id: str
    task_type: str
    video: Path
    video_name: str
    """As the question calls it; the same on every machine."""
    asked_s: int
    request: str
    """Everything that the model is told: question, options, and in sqa the questions before it."""
    options: Mapping[str, str]
    answer: str


@dataclass(frozen=True)
class Request:
    """Something to be said when its time has come."""

    id: str
    task_type: str
    video: Path
    video_name: str
    asked_s: int
    due_s: int
    question: str
    output: str


@dataclass(frozen=True)
class Found:
    """The questions of a task whose videos are there, and the videos that are not."""

    file: Path
    choices: tuple[Choice, ...] = ()
    requests: tuple[Request, ...] = ()
    missing: tuple[str, ...] = ()
    left_out: int = 0
    """Questions about missing videos."""


@dataclass(frozen=True)
class Videos:
    """The files below a folder, by the names that questions call them."""

    paths: Mapping[str, Path]

    @classmethod
    def below(cls, folder: Path) -> Videos:
        """All mp4 files; what macOS puts into zips is none."""
        paths: dict[str, Path] = {}
        for path in sorted(folder.rglob("*.mp4")):
            if "__MACOSX" not in path.parts and not path.name.startswith("._"):
                for name in _names(path):
                    paths.setdefault(name, path)
        return cls(paths)


def find_files(folder: Path, task: TaskName) -> tuple[Path, ...]:
    """The question file of a task, as JSON or else its tables, anywhere below the folder; none where it has none."""
    if found := sorted(folder.rglob(f"questions_{task}.json")):
        return (found[0],)
    tables = (sorted(folder.rglob(name))[:1] for name in TABLES[task])
    return tuple(path for found in tables for path in found)


def read(path: Path, task: TaskName, videos: Videos) -> Found:
    """The questions of one file. Raises InputError at the first that is wrong."""
    asked = list(questions(path, task) if path.suffix == ".json" else _table(path, task))
    there = {question.video: videos.paths.get(_name(question)) for question in asked}
    missing = tuple(name for name, video in there.items() if video is None)  # as the file writes them
    left_out = sum(question.video in missing for question in asked)
    if task == "proactive":
        requests = (_request(question, there[question.video]) for question in asked)
        return Found(path, requests=tuple(one for one in requests if one), missing=missing, left_out=left_out)
    return Found(path, tuple(_choices(asked, there, in_sequence=task == "sqa")), missing=missing, left_out=left_out)


# --- videos -----------------------------------------------------------------------------------------------------


def _names(path: Path) -> Iterator[str]:
    """What a file is called by: its own name, and those that the repository's preprocessing makes of its folders."""
    yield path.name
    if path.parent.name.startswith("sample_"):
        for folder in (path.parent.parent, path.parent.parent.parent):
            yield f"{path.parent.name}_{_kind(_RANGE.sub('', folder.name))}.mp4"


def _kind(category: str) -> str:
    """What ends the names of a category's videos."""
    words = category.replace(" ", "_")
    settled = RENAMED.get(words, words)
    return CATEGORIES.get(settled, settled)


def _name(question: FileQuestion) -> str:
    """The name of a question's video, without the folders in which its file has it."""
    return question.video.replace("\\", "/").rpartition("/")[2]


# --- tables -----------------------------------------------------------------------------------------------------


def _table(path: Path, task: TaskName) -> Iterator[FileQuestion]:
    """The rows of a table as questions of a JSON file are; of one video in the order of their times."""
    try:
        with long_cells(), path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path.name} cannot be read as a table ({error}). {WHERE}") from error
    found = [_row(f"{path.name} row {number}", row, task) for number, row in enumerate(rows, start=1)]
    places = {video: place for place, video in enumerate(dict.fromkeys(question.video for question in found))}
    if task == "sqa":  # questions build upon those before them
        found.sort(key=lambda question: (places[question.video], question.time("time_stamp")))
    yield from (FileQuestion(question.place, question.fields, question.video, places[question.video])
                for question in found)


def _row(place: str, row: Mapping[str, Any], task: TaskName) -> FileQuestion:
    fields = {name: value for name, value in row.items() if isinstance(name, str) and value is not None}
    question = FileQuestion(place, fields)
    match = _QUESTION_ID.fullmatch(question.text("question_id").strip())
    if match is None:
        raise question.wrong(f"question_id {fields['question_id']!r}", "CATEGORY_sample_NUMBER_NUMBER",
                             "download the table again")
    if task != "proactive":
        fields["options"] = _options(question)
    return FileQuestion(place, fields, f"sample_{match['sample']}_{_kind(match['category'])}.mp4")


def _options(question: FileQuestion) -> list[str]:
    """A cell with a list of texts as Python writes it."""
    cell = question.text("options")
    try:
        options = ast.literal_eval(cell)
    except (ValueError, SyntaxError) as error:
        raise question.wrong(f"options {cell!r}", "a list of texts, ['A. ...', ...]", "mend the row") from error
    return list(options) if isinstance(options, list | tuple) else [cell]


# --- questions --------------------------------------------------------------------------------------------------


def _choices(asked: Sequence[FileQuestion], there: Mapping[str, Path | None], *, in_sequence: bool
             ) -> Iterator[Choice]:
    """Questions whose video is there; in a sequence each is told what was asked before it, and the right answer."""
    before: defaultdict[int, list[str]] = defaultdict(list)
    for question in asked:
        video, options = there[question.video], _lettered(question)
        told = before[question.entry] if in_sequence else []
        shown = "\n".join(options.values())
        if video is not None:
            earlier = EARLIER.format(told="\n".join(told)) if told else ""
            words = CHOOSE.format(earlier=earlier, question=question.text("question"), options=shown)
            yield Choice(_id(question), question.text("task_type"), video, _name(question),
                         question.time("time_stamp"), words, options, _letter(question))
        told.append(TOLD.format(time=question.text("time_stamp"), question=question.text("question"),
                                options=", ".join(options.values()), answer=_letter(question)))


def _lettered(question: FileQuestion) -> dict[str, str]:
    """The first four options, each with its letter, as the official run shows them."""
    options = question.fields.get("options")
    if not isinstance(options, list) or len(options) < len(LETTERS) or not all(isinstance(x, str) for x in options):
        raise question.wrong(f"options {options!r}", "four texts", "mend the file")
    if not options[0].startswith("A."):
        options = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
    return dict(zip(LETTERS, options, strict=False))


def _letter(question: FileQuestion) -> str:
    letter = question.text("answer").strip()
    if letter not in tuple(LETTERS):
        raise question.wrong(f"the answer is {letter!r}", "A, B, C or D", "mend the file")
    return letter


def _request(question: FileQuestion, video: Path | None) -> Request | None:
    if video is None:
        return None
    return Request(_id(question), question.text("task_type"), video, _name(question), question.time("time_stamp"),
                   question.time("ground_truth_time_stamp"), question.text("question"),
                   question.text("ground_truth_output"))


def _id(question: FileQuestion) -> str:
    return f"{Path(_name(question)).stem} {question.text('time_stamp')}"
