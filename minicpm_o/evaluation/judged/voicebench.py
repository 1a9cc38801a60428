"""VoiceBench's table of a report: the columns that a judge gives and those that need none, and their mean.

Protocol: the judge is asked three times about each answer, at temperature 0.5 and top_p 0.95, and its replies are read
as the official evaluators read them. The judge's words are `prompts`, not the official ones, and its model is free, so
every score that rests on them says so in its name.
Beside the report: COLUMN.replies.jsonl as they come, COLUMN.jsonl in the shape of the official answer files,
scores.json.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minicpm_o.errors import EndpointError, InputError
from minicpm_o.evaluation.answers import answers_beside, append_line, write_atomically
from minicpm_o.evaluation.judged.prompts import OWN, Prompt, Prompts, origin_of
from minicpm_o.evaluation.official.judge import Judge
from minicpm_o.evaluation.official.voicebench import COLUMNS, JUDGED, EvaluatorName, evaluate_rows, mark_of, overall
from minicpm_o.evaluation.official.voicebench_set import FOLDER, SpokenQuestion, answered, load, sources
from minicpm_o.evaluation.rows import Row
from minicpm_o.evaluation.tasks.voicebench import task_name

SAMPLES = 3
TEMPERATURE = 0.5
TOP_P = 0.95
MAX_TOKENS = 1024


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    headline: float
    """1 to 5 for open questions, per cent for the others."""
    scores: Mapping[str, float]
    answers: int
    questions: int
    """That the set holds: where fewer were answered the column is of a part, and not in the overall score."""
    asked: int = 0
    resumed: int = 0
    notes: tuple[str, ...] = ()


class _NoColumn(Exception):
    """Why a column cannot be given."""


def grade(report: Path, data: Path, judge: Judge, prompts: Prompts = OWN) -> dict[str, Any]:
    """The table of a report. data: the folder that holds `voicebench/`.

    A column that cannot be given is named in `missing`. Raises EndpointError where the judge fails: run it again then.
    """
    folder = report.with_name(f"{report.stem}.voicebench")
    said: dict[str, dict[str, str]] = {}
    for answer in answers_beside(report):
        said.setdefault(answer.task, {})[answer.id] = answer.answer
    columns, missing = dict[str, Column](), dict[str, str]()
    for name in COLUMNS:
        try:
            grader = _Grader(name, folder, judge, prompts)
            columns[name] = grader.column(data, said.get(task_name(data, name), {}))
        except _NoColumn as why:
            missing[name] = str(why)
    found = _table(columns, missing, judge, prompts)
    write_atomically(folder / "scores.json", json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    return found


def _table(columns: Mapping[str, Column], missing: Mapping[str, str], judge: Judge, prompts: Prompts
           ) -> dict[str, Any]:
    """All columns; their mean where none is missing and none is of a part."""
    parts = {name: f"{column.answers} of {column.questions} questions are answered: a part of the set"
             for name, column in columns.items() if column.answers < column.questions}
    told = {name: asdict(column) for name, column in columns.items()}
    found: dict[str, Any] = {"judge": judge.model, "columns": told}
    if missing or parts:
        return {**found, "missing_for_overall": {**missing, **parts}}
    headlines = {name: column.headline for name, column in columns.items()}
    return {**found, f"overall_{origin_of(prompts)}": overall(headlines)}


# --- one column -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grader:
    """What one column is made with."""

    name: str
    folder: Path
    judge: Judge
    prompts: Prompts

    @property
    def evaluator(self) -> EvaluatorName:
        return COLUMNS[self.name]

    def column(self, data: Path, said: Mapping[str, str]) -> Column:
        """Raises _NoColumn where answers, the set or marks are missing."""
        questions = self._questions(data)
        chosen = [(question.id, answered(question.row, said[question.id])) for question in questions
                  if question.id in said]
        if not chosen:
            raise _NoColumn("no answers in the report")
        if self.evaluator not in JUDGED:
            return self._scored([row for _, row in chosen], len(questions))
        replies = _Replies(self.folder / f"{self.name}.replies.jsonl", self.judge, self.prompts[self.evaluator])
        votes, asked = self._votes(chosen, replies)
        rows = [Row(row.path, row.line, {**row.fields, "score": list(votes[key])}) for key, row in chosen]
        return self._scored(rows, len(questions), asked=asked, resumed=len(chosen) - asked)

    def _questions(self, data: Path) -> tuple[SpokenQuestion, ...]:
        source = sources(data / FOLDER).get(self.name)
        if source is None:
            raise _NoColumn(f"the set is not in {data / FOLDER}")
        try:
            return load(self.name, source).questions
        except InputError as error:
            raise _NoColumn(str(error)) from error

    def _votes(self, chosen: Sequence[tuple[str, Row]], replies: _Replies) -> tuple[dict[str, tuple[str, ...]], int]:
        """The judge's replies to every answer, and how many answers it was asked about now.

        Raises _NoColumn where some cannot be read; those are not kept, so that the next run asks again."""
        votes: dict[str, tuple[str, ...]] = {}
        garbage: dict[str, str] = {}
        asked = 0
        for number, (key, row) in enumerate(chosen, start=1):
            known = replies.known(row)
            if known is None:
                asked += 1
                known = self._ask(replies, key, row, f"{number} of {len(chosen)}")
            votes[key] = known
            if (odd := self._unread(known)) is not None:
                garbage[key] = odd
        if garbage:
            first, vote = next(iter(garbage.items()))
            raise _NoColumn(f"the judge's replies to {len(garbage)} of {len(chosen)} answers hold no mark, such as "
                                f"{vote[:80]!r} to {first}; expected a number; run it again, or with another judge")
        return votes, asked

    def _unread(self, votes: Sequence[str]) -> str | None:
        """The first reply that the official evaluator would stop at."""
        return next((vote for vote in votes if mark_of(vote) is None), None) if self.evaluator == "open" else None

    def _ask(self, replies: _Replies, key: str, row: Row, place: str) -> tuple[str, ...]:
        try:
            found = replies.ask(row)
        except EndpointError as error:
            raise EndpointError(f"{FOLDER}/{self.name}: the answer to {key} ({place}) has no marks: {error}; those of "
                                f"before are kept in {replies.path}, start again to go on") from error
        if self._unread(found) is None:
            replies.keep(key, row, found)
        return found

    def _scored(self, rows: Sequence[Row], questions: int, *, asked: int = 0, resumed: int = 0) -> Column:
        lines = [json.dumps(dict(row.fields), ensure_ascii=False, default=str) for row in rows]
        write_atomically(self.folder / f"{self.name}.jsonl", "".join(line + "\n" for line in lines))
        result = evaluate_rows(rows, self.evaluator)
        is_judged = self.evaluator in JUDGED
        suffix = f"_{self.prompts[self.evaluator].origin}" if is_judged else ""
        return Column(result.headline, {f"{name}{suffix}": value for name, value in result.scores.items()}, len(rows),
                      questions, asked, resumed, (*result.notes, *_odd_votes(rows, self.evaluator)))


def _odd_votes(rows: Sequence[Row], evaluator: EvaluatorName) -> Iterator[str]:
    votes = [vote for row in rows for vote in row.fields.get("score", ())] if evaluator == "qa" else []
    if odd := [vote for vote in votes if vote.lower() not in ("yes", "no")]:
        yield (f"{len(odd)} of {len(votes)} replies are neither yes nor no, such as {odd[0][:80]!r}; none of them "
               f"counts as yes, as in the official evaluator")


# --- what the judge said ----------------------------------------------------------------------------------------


class _Replies:
    """The judge's replies by what it was asked, in a file that survives an interruption."""

    def __init__(self, path: Path, judge: Judge, prompt: Prompt) -> None:
        self.path, self._judge, self._prompt = path, judge, prompt
        self._known = dict(_kept(path))

    def known(self, row: Row) -> tuple[str, ...] | None:
        """The replies to the same answer, asked by the same words of the same judge."""
        return self._known.get(self._key(row))

    def ask(self, row: Row) -> tuple[str, ...]:
        """The judge's replies now."""
        messages = [{"role": "user", "content": self._prompt.filled(row)}]
        return tuple(self._judge(messages, temperature=TEMPERATURE, max_tokens=MAX_TOKENS, top_p=TOP_P).strip()
                     for _ in range(SAMPLES))

    def keep(self, key: str, row: Row, replies: Sequence[str]) -> None:
        """Write replies down, at once."""
        record = {"id": key, "asked": self._key(row), "judge": self._judge.model, "replies": list(replies)}
        append_line(self.path, json.dumps(record, ensure_ascii=False))
        self._known[self._key(row)] = tuple(replies)

    def _key(self, row: Row) -> str:
        return hashlib.sha256(f"{self._judge.model}\n{self._prompt.filled(row)}".encode()).hexdigest()


def _kept(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Replies of earlier runs; a line cut short is asked for again."""
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            yield str(record["asked"]), tuple(map(str, record["replies"]))
        except (ValueError, KeyError, TypeError):
            continue
