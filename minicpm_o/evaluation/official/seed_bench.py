"""SEED-Bench v1: questions with four choices, nine kinds on pictures (1-9) and three on videos (10-12); accuracy.

Protocol: arXiv:2307.16125. Official is the ranking of answers: the choice whose text has the smallest loss, given the
picture and the question (eval.py of AILab-CVC/SEED-Bench, 991e849; it writes results.json and then always stops with
KeyError 'gt'; the accuracies here are those it would print if its records had the two missing keys). By generation:
LLaVA (c121f04) compares the whole answer with the letter, lmms-eval (75571cfe) the first character. Accuracy over all
and over pictures alone are two published numbers: say which. Chance is 25 %.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.files import needed, needed_id, needed_text, read_records, wrong
from minicpm_o.evaluation.rows import Row, place_of

Parser = Literal["official", "llava", "lmms_eval"]
Kind = Literal["image", "video"]
Identity = int | str

LETTERS = "ABCD"
LETTER_REQUEST = "Answer with the option's letter from the given choices directly."

WHERE = (
    "SEED-Bench.json and the pictures (SEED-Bench-image.zip) are in the Hugging Face data set AILab-CVC/SEED-Bench; "
    "the videos come from Something-Something v2, EPIC-KITCHENS-100 and Breakfast. Expected are the JSON file and one "
    "folder in which every data_id is a file"
)


FRAMES_DIMENSION, FRAMES_HZ = 12, 15.0
"""Videos of Breakfast, whose parts are told in frames."""


@dataclass(frozen=True)
class SeedQuestion:
    """One question; its choices are A, B, C and D in this order."""

    id: Identity
    dimension: int
    kind: Kind
    question: str
    choices: tuple[str, ...]
    answer: str
    data_id: str
    media: Path | None = None
    """The picture or video, where `load` was told the folder."""
    segment: tuple[float, float] | None = None
    """Part of the video: seconds in dimension 11, frames at 15 a second in 12."""

    @property
    def window_s(self) -> tuple[float, float] | None:
        """Part of the video in seconds; None: all of it."""
        if self.segment is None:
            return None
        rate_hz = FRAMES_HZ if self.dimension == FRAMES_DIMENSION else 1.0
        return self.segment[0] / rate_hz, self.segment[1] / rate_hz


@dataclass(frozen=True)
class Tally:
    """Right answers among all."""

    right: int
    count: int

    @property
    def accuracy(self) -> float:
        """A fraction."""
        return self.right / self.count


@dataclass(frozen=True)
class SeedScores:
    """Accuracy of each dimension (in the order of the questions), of pictures, of videos and of all questions."""

    parser: Parser
    dimensions: Mapping[int, Tally]
    image: Tally | None
    video: Tally | None
    total: Tally


# --- asking -------------------------------------------------------------------------------------------------------


def generation_prompt(question: SeedQuestion) -> str:
    """The words that LLaVA and lmms-eval ask: question, choices by letter, request for the letter."""
    choices = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True)]
    return "\n".join([question.question, *choices, LETTER_REQUEST])


def ranking_prompt(question: SeedQuestion, parser: Parser = "official") -> str:
    """The words before the choice whose loss is taken: of the official InstructBLIP run, or of lmms-eval."""
    if parser == "lmms_eval":
        return f"{question.question} Answer :"
    return f"Question: {question.question}\nAnswer:"


# --- scores -------------------------------------------------------------------------------------------------------


def rank(losses: Sequence[float]) -> str:
    """Letter of the smallest loss in single precision; the first of equal ones, NaN last."""
    return LETTERS[int(np.argsort(np.asarray(losses, dtype=np.float32), kind="stable")[0])]


def score_losses(questions: Sequence[SeedQuestion], path: Path, strict: bool = True) -> SeedScores:
    """Scores of JSON lines {"question_id", "losses": [four numbers]}."""
    predictions = {identity: rank(losses) for identity, losses in read_losses(path).items()}
    return score(questions, predictions, "official", strict, place_of(path))


def score_file(
    questions: Sequence[SeedQuestion], path: Path, parser: Parser = "official", strict: bool = True
) -> SeedScores:
    """Scores of JSON lines: {"question_id", "prediction"} as official results.json, {"question_id", "text"} else."""
    answers = read_answers(path, "prediction" if parser == "official" else "text")
    return score(questions, answers, parser, strict, place_of(path))


def score(
    questions: Sequence[SeedQuestion], answers: Mapping[Identity, str], parser: Parser = "official",
    strict: bool = True, name: str = "the answers",
) -> SeedScores:
    """Scores of answers by question id. A question without an answer is wrong in LLaVA, not counted in lmms-eval, and
    an InputError officially. With `strict`, so is a dimension without a hit, where the scripts stop; else it is 0."""
    said = {question.id: _find(answers, question.id) for question in questions}
    asked = [question for question in questions if said[question.id] is not None or parser == "llava"]
    if not asked or (parser == "official" and len(asked) < len(questions)):
        missing = next((identity for identity, answer in said.items() if answer is None), None)
        raise InputError(f"{name}: nothing for question {missing!r}; expected one line for each of {len(questions)} "
                         "questions. Finish the run, or select the dimensions that were asked (task)")
    hits = [(question, _is_right(said[question.id], question.answer, parser)) for question in asked]
    if strict and parser != "lmms_eval":
        _check_dimensions(hits, {identity for identity, answer in said.items() if answer is None}, name)
    dimensions = {question.dimension: hits for question in asked}
    return SeedScores(
        parser,
        {number: _tally(hit for question, hit in hits if question.dimension == number) for number in dimensions},
        _tally_kind(hits, "image"),
        _tally_kind(hits, "video"),
        _tally(hit for _, hit in hits),
    )


def _check_dimensions(hits: Sequence[tuple[SeedQuestion, bool]], missing: set[Identity], name: str) -> None:
    """InputError for a dimension that has neither a hit nor (in LLaVA) a question without an answer."""
    fine = {question.dimension for question, hit in hits if hit or question.id in missing}
    for question, _ in hits:
        if question.dimension not in fine:
            raise InputError(f"{name}: no answer of dimension {question.dimension} is right, and the official script "
                             "stops there with a KeyError. Look at these answers, or give strict=False to count it "
                             "as 0 %")


def _find(answers: Mapping[Identity, str], identity: Identity) -> str | None:
    """The answer to a question; files of answers name by number what SEED-Bench.json names by its digits."""
    for key in (identity, int(identity) if str(identity).isdecimal() else identity, str(identity)):
        if key in answers:
            return answers[key]
    return None


def _is_right(said: str | None, answer: str, parser: Parser) -> bool:
    if parser == "lmms_eval":
        return (said or "").strip()[:1].lower() == answer.strip().lower()
    return said == answer


def _tally(hits: Iterable[bool]) -> Tally:
    listed = list(hits)
    return Tally(sum(listed), len(listed))


def _tally_kind(hits: Sequence[tuple[SeedQuestion, bool]], kind: Kind) -> Tally | None:
    tally = _tally(hit for question, hit in hits if question.kind == kind)
    return tally if tally.count else None


# --- files --------------------------------------------------------------------------------------------------------


def read_answers(path: Path, field: Literal["text", "prediction"] = "text") -> dict[Identity, str]:
    """Answers by question id; the last line of an id counts. Raises InputError."""
    return {needed_id(row, "question_id"): needed_text(row, field) for row in read_records(path)}


def read_losses(path: Path) -> dict[Identity, tuple[float, ...]]:
    """Four losses a question id. Raises InputError."""
    return {needed_id(row, "question_id"): _losses(row) for row in read_records(path)}


def result_lines(questions: Iterable[SeedQuestion], answers: Mapping[Identity, str]) -> list[str]:
    """Lines of results.json, which is also what the leaderboard takes. Raises InputError where an answer is missing."""
    lines = []
    for question in questions:
        prediction = _find(answers, question.id)
        if prediction is None:
            raise InputError(f"no answer to question {question.id!r}; the leaderboard takes complete files only, so "
                             "finish the run first")
        lines.append(json.dumps({"question_id": question.id, "prediction": prediction}))
    return lines


def _losses(row: Row) -> tuple[float, ...]:
    values = needed(row, "losses")
    try:
        losses = tuple(float(value) for value in values or ())
    except (TypeError, ValueError):
        losses = ()
    if len(losses) != len(LETTERS):
        raise wrong(row, f"'losses' is {values!r}", "four numbers, one for each of the choices A to D", "mend it")
    return losses


# --- the set ------------------------------------------------------------------------------------------------------


def load(path: Path, task: str = "all", media: Path | None = None) -> tuple[SeedQuestion, ...]:
    """The questions of SEED-Bench.json; `task` is all, image, video or the number of a dimension; with `media` each
    has its file. Raises InputError that says where to get the set."""
    dimensions = _dimensions(task)
    records = enumerate(_records(path), start=1)
    questions = [_question(record, f"{place_of(path)} question {number}", media) for number, record in records]
    chosen = tuple(question for question in questions if dimensions is None or question.dimension in dimensions)
    for question in chosen:
        if question.media is not None and not question.media.is_file():
            raise InputError(f"no {question.kind} {question.data_id} in {media}. {WHERE}")
    return chosen


def _dimensions(task: str) -> range | None:
    """Dimensions of a task; None for all."""
    named = {"all": None, "image": range(1, 10), "video": range(10, 13)}
    if task not in named and not task.isdecimal():
        raise InputError(f"task is {task!r}; expected all, image, video or the number of a dimension")
    return named[task] if task in named else range(int(task), int(task) + 1)


def _records(path: Path) -> list[Any]:
    if not path.is_file():
        raise InputError(f"no file {place_of(path)}. {WHERE}")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{place_of(path)} is not JSON ({error}). {WHERE}") from error
    records = content.get("questions") if isinstance(content, dict) else content
    if not isinstance(records, list):
        raise InputError(f"{place_of(path)} holds no list 'questions'. {WHERE}")
    return records


def _question(record: Any, place: str, media: Path | None) -> SeedQuestion:
    names = ("question_id", "question_type_id", "data_type", "question", "answer", "data_id",
             *(f"choice_{letter.lower()}" for letter in LETTERS))
    missing = [name for name in names if not isinstance(record, dict) or name not in record]
    if missing:
        raise InputError(f"{place} has no {', '.join(missing)}. {WHERE}")
    identity, dimension, kind, question, answer, data_id, *choices = (record[name] for name in names)
    if kind not in ("image", "video") or not isinstance(dimension, int) or answer not in tuple(LETTERS):
        raise InputError(f"{place}: data_type {kind!r}, question_type_id {dimension!r}, answer {answer!r}; expected "
                         "image or video, a number, and a letter from A to D")
    segment = tuple(record["segment"]) if record.get("segment") else None
    file = media / str(data_id) if media is not None else None
    return SeedQuestion(identity, dimension, kind, question, tuple(map(str, choices)), answer, str(data_id), file,
                        segment)
