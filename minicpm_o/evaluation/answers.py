"""The raw answers of a run: one jsonl line each, written as it comes, read again when the run is started anew.

A line belongs to a run (model, data and wording of the questions); lines of another run are moved aside, never mixed in
and never lost. Knows no scores.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from minicpm_o.errors import DiskFullError, InputError

Key = tuple[str, str, bool]
"""Task, item, whether it was the blind run."""


@dataclass(frozen=True)
class Answer:
    """What the model said to one item, and how long it took."""

    task: str
    id: str
    blind: bool
    answer: str
    seconds: float
    media: tuple[str, ...] = ()
    question: str = ""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    """How the answer was to be found: most tokens, beams, temperature."""
    expected: tuple[str, ...] = ()
    error: str | None = None
    """Why the medium could not be read; the item is then left out of the scores."""
    judged: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, float] = field(default_factory=dict)
    """What was measured while it came: seconds to the first word, words a second; of speech its quality."""

    @property
    def key(self) -> Key:
        return self.task, self.id, self.blind


class AnswerStore:
    """Answers of one run, in memory and (where a path is given) in a file that survives an interruption."""

    def __init__(self, path: Path | None, run: str) -> None:
        self.path = path
        self.run = run
        self.moved_to: Path | None = None
        self.num_resumed = 0
        self._answers: dict[Key, Answer] = {}
        self._file: TextIO | None = None
        if path is not None:
            self._resume(path)

    def get(self, key: Key) -> Answer | None:
        """The answer given before, if there is one."""
        return self._answers.get(key)

    def add(self, answer: Answer) -> None:
        """Keep an answer, on disk at once. Raises DiskFullError."""
        self._answers[answer.key] = answer
        if self._file is not None:
            try:
                self._file.write(json.dumps({"run": self.run, **asdict(answer)}, ensure_ascii=False) + "\n")
                self._file.flush()
            except OSError as error:
                raise disk_error(error, self.path) from error

    def close(self) -> None:
        """Close the file; the answers stay readable."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _resume(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._take_over(path)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise disk_error(error, path) from error

    def _take_over(self, path: Path) -> None:
        """Read this run's answers back; a last line cut short is dropped, another run's file is moved aside."""
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end was cut short
        records = [record for record in map(_record, lines) if record]
        mine = [record for record in records if record.get("run") == self.run]
        if len(mine) < len(records):
            self.moved_to = _free_name(path)
            path.replace(self.moved_to)
        self._answers = {answer.key: answer for answer in map(answer_from, mine)}
        self.num_resumed = len(self._answers)
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in mine)
        write_atomically(path, text)


def answers_path(report_path: Path) -> Path:
    """Where the raw answers of a report lie: report.json -> report.answers.jsonl."""
    return report_path.with_name(f"{report_path.stem}.answers.jsonl")


def read_answers(path: Path) -> list[Answer]:
    """All whole lines of an answer file."""
    records = map(_record, path.read_bytes().split(b"\n")[:-1])
    return [answer_from(record) for record in records if record]


def answers_beside(report: Path) -> list[Answer]:
    """What was answered with the media at hand, in the file beside a report. Raises InputError where it is missing."""
    path = answers_path(report)
    if not path.is_file():
        raise InputError(f"{path} is missing; the answers lie beside the report, keep both together")
    return [answer for answer in read_answers(path) if not answer.blind and answer.error is None]


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all. Raises DiskFullError where the disk is full."""
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        half.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Write a line under those of a text file, on disk at once; one that was cut short is ended first. Raises
    DiskFullError where the disk is full."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                file.write(b"" if file.read() in (b"\n", b"\r") else b"\n")
            file.write(line.encode("utf-8") + b"\n")
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path | None) -> Exception:
    """The package's error for a file that cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(f"no room to write {path}; free some space and start again, answers so far are kept")
    return InputError(f"cannot write {path}: {error.strerror or error}; choose another report path")


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def answer_from(record: Mapping[str, Any]) -> Answer:
    """An answer of the fields that it was written as."""
    fields = {name: value for name, value in record.items() if name != "run"}
    return Answer(**{**fields, "media": tuple(fields["media"]), "expected": tuple(fields["expected"])})


def _free_name(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.old{number}")).exists():
        number += 1
    return aside
