"""MMBench: multiple choice, asked once for every rotation of the options; right only if all of these passes are.

Protocol: arXiv:2307.06281 (CircularEval: the row INDEX and its rotations INDEX + k * 1000000). Arithmetic and rule for
the letter: VLMEvalKit (e8e78f05) with exact matching: a question with an answer from which no letter can be taken is
wrong, where the published numbers ask a GPT judge. The parser "lmms_eval" (75571cfe) is that tool's first rule alone;
what it leaves open counts as wrong here too. Always "A" scores about 0, as every option stands at A once. The answers
of the test splits are not public.
"""

from __future__ import annotations

import base64
import binascii
import csv
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.files import long_cells
from minicpm_o.evaluation.rows import place_of

Parser = Literal["vlmevalkit", "lmms_eval"]

ROTATION = 1_000_000
"""Distance between the indices of a question and of its next rotation."""

SHORT_NAMES = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}

LETTER_REQUESTS = {
    "en": "Answer with the option's letter from the given choices directly.",
    "cn": "请直接回答选项字母。",
}

WHERE = (
    "MMBench_DEV_EN.tsv (or _CN, _V11) is at opencompass.openxlab.space/utils/benchmarks/MMBench/, its first version "
    "mmbench_dev_20230712.tsv at download.openmmlab.com/mmclassification/datasets/mmbench/. Expected is one file with "
    "tabs and the columns index, question, hint, A, B, C, D, answer, category, l2-category, split, image (base64)"
)

# Texts that pandas, by which both tools read the file, takes for an empty field.
_EMPTY = frozenset(
    "|#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|")
)
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_FAILED_CALL = "Failed to obtain answer via API"
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
# What stands before and after a letter, in the order in which lmms-eval tries them.
_AFFIXES = (("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."), (":", ""), (":", ","),
            (":", "."), (":", ")"), (":", ")."))
_SHORTEST_IMAGE = 65
"""A shorter text in the column image is the index of the row that holds the picture."""


@dataclass(frozen=True)
class MMBenchQuestion:
    """One pass: a row of the file."""

    index: int
    question: str
    hint: str
    options: Mapping[str, str]
    """Letter -> text; letters without a text are left out."""
    answer: str
    """The right letter; empty in the test splits."""
    category: str = ""
    l2_category: str = ""
    split: str = ""
    image: bytes | None = None

    @property
    def main_index(self) -> int:
        """Index of the pass whose rotation this one is."""
        return self.index % ROTATION


@dataclass(frozen=True)
class MMBenchScores:
    """Hit of each question by its index, and rates by split: overall, by l2-category (short name) and category."""

    parser: Parser
    circular: bool
    """False: the first pass alone counts, which the tools call vanilla."""
    hits: Mapping[int, bool]
    rates: Mapping[str, Mapping[str, float]]
    unresolved: int
    """Answers without a letter, which a judge would decide."""


# --- what an answer means -----------------------------------------------------------------------------------------


def choose(answer: str, options: Mapping[str, str], parser: Parser = "vlmevalkit") -> str | None:
    """The letter that a tool takes from an answer: a letter on its own, else the only option whose text is in the
    answer. VLMEvalKit gives Z for a refusal; None where the rule does not decide."""
    if parser == "lmms_eval":
        known = {letter: options[letter] for letter in "ABCD" if letter in options}
        return lmms_eval_letter(answer) or _only_text(answer, known)
    too_long = len(answer.lower()) > 2 * sum(map(len, options.values()))
    return vlmevalkit_letter(answer, options) or (None if too_long else _only_text(answer, options))


def vlmevalkit_letter(answer: str, letters: Iterable[str]) -> str | None:
    """VLMEvalKit's first step: the one letter that stands alone among the last words, or after "answer is"."""
    if _FAILED_CALL in answer:
        return None
    if any(refusal in answer for refusal in _REFUSALS):
        return "Z"
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", answer).split()
    found = [letter for letter in letters if letter in words]
    if len(found) == 1 and words.index(found[0]) > len(words) - 5:  # an early A is rather an article
        return found[0]
    if not found and "Z" in words:
        return "Z"
    match = _ANSWER_IS.search(answer)
    return match.group(1).upper() if match and match.group(1).upper() in letters else None


def lmms_eval_letter(answer: str) -> str | None:
    """lmms-eval's first step: the one letter from A to E that stands alone, or with certain marks around it."""
    if _FAILED_CALL in answer:
        return None
    words = answer.split()
    for before, after in (("", ""), *_AFFIXES):
        found = [letter for letter in "ABCDE" if f"{before}{letter}{after}" in words]
        is_article = (before, after) == ("", "") and "A" in words and len(words) > 3
        if len(found) == 1 and not is_article:
            return found[0]
    return None


def _only_text(answer: str, options: Mapping[str, str]) -> str | None:
    named = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return named[0] if len(named) == 1 else None


# --- scores -------------------------------------------------------------------------------------------------------


def score_file(path: Path, parser: Parser = "vlmevalkit", circular: bool = True) -> MMBenchScores:
    """Scores of a TSV with the columns of the set and `prediction`. Raises InputError."""
    return score(load(path), read_predictions(path), parser, circular)


def score(questions: Sequence[MMBenchQuestion], predictions: Mapping[int, str], parser: Parser = "vlmevalkit",
          circular: bool = True) -> MMBenchScores:
    """Scores of answers by index. Rotations whose first pass is not among the questions do not count."""
    mains = [question for question in questions if question.index == question.main_index]
    passes = questions if circular else mains
    missing = [question.index for question in passes if question.index not in predictions]
    if missing or not mains or not any(question.answer for question in passes):
        raise InputError(
            f"{len(passes)} rows, {len(mains)} of them first passes, {len(missing)} without a prediction (such as "
            f"index {missing[:1]}), {sum(not question.answer for question in passes)} without a right answer; expected "
            "first passes and a prediction for every row, of a dev split: the answers of test are not public"
        )
    chosen = {question.index: choose(predictions[question.index], question.options, parser) for question in passes}
    wrong = {question.main_index for question in passes if chosen[question.index] != question.answer}
    hits = {question.index: question.index not in wrong for question in mains}
    unresolved = sum(letter is None for letter in chosen.values())
    return MMBenchScores(parser, circular, hits, _rates(mains, hits), unresolved)


def _rates(mains: Sequence[MMBenchQuestion], hits: Mapping[int, bool]) -> dict[str, dict[str, float]]:
    rates = {}
    for split in sorted({question.split for question in mains}):
        groups: dict[str, list[bool]] = {}
        for question in (question for question in mains if question.split == split):
            for name in dict.fromkeys(("Overall", question.l2_category, question.category)):
                if name:
                    groups.setdefault(SHORT_NAMES.get(name, name), []).append(hits[question.index])
        rates[split or "none"] = {name: sum(group) / len(group) for name, group in groups.items()}
    return rates


# --- asking -------------------------------------------------------------------------------------------------------


def prompt(question: MMBenchQuestion, tool: Literal["vlmevalkit", "llava", "lmms_eval"] = "vlmevalkit",
           language: Literal["en", "cn"] = "en") -> str:
    """The words that a tool asks; the language is that of the request for the letter (not in VLMEvalKit)."""
    options = "\n".join(f"{letter}. {text}" for letter, text in question.options.items())
    if tool == "vlmevalkit":
        hint = f"Hint: {question.hint}\n" if question.hint else ""
        request = "Please select the correct answer from the options above. \n"  # with the blank before the line end
        return f"{hint}Question: {question.question}\n" + (f"Options:\n{options}\n{request}" if options else "")
    request = LETTER_REQUESTS[language]
    if tool == "llava":
        return "\n".join(filter(None, (question.hint, question.question, options, request)))
    asked = " ".join(filter(None, (question.hint, question.question)))
    return f"{asked} There are several options:\n{options}\n\n{request}"


def rotations(question: MMBenchQuestion) -> tuple[MMBenchQuestion, ...]:
    """The passes of CircularEval: the question itself, and every other rotation of its options."""
    letters, texts = tuple(question.options), tuple(question.options.values())
    place = letters.index(question.answer) if question.answer in letters else None
    return tuple(
        replace(
            question,
            index=question.index + turn * ROTATION,
            options=dict(zip(letters, texts[turn:] + texts[:turn], strict=True)),
            answer=question.answer if place is None else letters[place - turn],
        )
        for turn in range(len(letters))
    )


# --- files --------------------------------------------------------------------------------------------------------


def load(path: Path) -> tuple[MMBenchQuestion, ...]:
    """All rows of an MMBench TSV, rotations too where it has them. Raises InputError that says where to get it."""
    records = _records(path, ("index", "question", "A", "B"))
    images = {index: record.get("image", "") for index, _, record in records}
    pictures = {index: _decode(path, line, images[index]) for index, line, _ in records
                if len(images[index]) >= _SHORTEST_IMAGE}
    questions = []
    for index, line, record in records:
        holder = int(images[index]) if index not in pictures and images[index].isdecimal() else index
        if images[index] and holder not in pictures:
            raise InputError(f"{place_of(path)} line {line}: image is {images[index]!r}; expected base64, or the index "
                             f"of a row that has it. {WHERE}")
        questions.append(_question(index, record, pictures.get(holder)))
    return tuple(questions)


def read_predictions(path: Path) -> dict[int, str]:
    """Answers by index, from the column `prediction` of a TSV. Raises InputError."""
    return {index: record["prediction"] for index, _, record in _records(path, ("index", "prediction"))}


def _question(index: int, record: Mapping[str, str], image: bytes | None) -> MMBenchQuestion:
    fields = {name: "" if text in _EMPTY else text for name, text in record.items()}
    options = {letter: fields[letter] for letter in string.ascii_uppercase if fields.get(letter)}
    answer, category, l2_category, split, hint = (
        fields.get(name, "") for name in ("answer", "category", "l2-category", "split", "hint"))
    return MMBenchQuestion(index, record["question"], hint, options, answer, category, l2_category, split, image)


def _decode(path: Path, line: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InputError(f"{place_of(path)} line {line}: image is not base64 ({error}). {WHERE}") from error


def _records(path: Path, needed: Sequence[str]) -> list[tuple[int, int, dict[str, str]]]:
    """Index, line and fields of each row; names of columns in small letters, but those of the options."""
    if not path.is_file():
        raise InputError(f"no file {place_of(path)}. {WHERE}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file, long_cells():
            rows = csv.reader(file, delimiter="\t")
            names = [name if name in string.ascii_uppercase else name.lower() for name in next(rows, [])]
            if missing := [name for name in needed if name not in names]:
                raise InputError(f"{place_of(path)} has no column {', '.join(missing)}; it has "
                                 f"{', '.join(names) or 'none'}. {WHERE}")
            return [_record(path, rows.line_num, names, row) for row in rows if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{place_of(path)} is not a table in UTF-8 with tabs ({error}). {WHERE}") from error


def _record(path: Path, line: int, names: Sequence[str], row: Sequence[str]) -> tuple[int, int, dict[str, str]]:
    if len(row) > len(names):
        raise InputError(f"{place_of(path)} line {line}: {len(row)} fields under {len(names)} column names; put a text "
                         "that holds a tab or a line end between double quotes")
    fields = dict.fromkeys(names, "") | dict(zip(names, row))  # noqa: B905  # a short row ends with empty fields
    if not fields["index"].isdecimal():
        raise InputError(f"{place_of(path)} line {line}: index is {fields['index']!r}; expected a whole number")
    return int(fields["index"]), line, fields
