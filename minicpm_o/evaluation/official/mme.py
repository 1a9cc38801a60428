"""MME: 14 subtasks of yes-no questions, two on each picture; score = accuracy + accuracy+ (both right), in per cent.

Protocol: arXiv:2306.13394. Perception (10 subtasks) is 2000 at most, Cognition (4) is 800 at most. A constant answer
scores exactly 700, a coin 1050. Official arithmetic: calculation.py of eval_tool.zip (BradyFU/Awesome-Multimodal-
Large-Language-Models, branch Evaluation, dd29509). The same answers score differently by the rules of lmms-eval
(75571cfe) and of VLMEvalKit (e8e78f05, exact matching, no judge), so every score names its parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import YesNo
from minicpm_o.evaluation.official.vqa import LONE_STOP, SHORT_ANSWER, without_marks
from minicpm_o.evaluation.rows import place_of

Parser = Literal["official", "lmms_eval", "vlmevalkit"]
Label = Literal["yes", "no", "other"]

PERCEPTION = tuple("existence count position color posters celebrity scene landmark artwork OCR".split())
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = PERCEPTION + COGNITION

REQUEST = " Please answer yes or no."

WHERE = (
    "MME is given out on request by its authors (github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, branch "
    "Evaluation). Expected is the folder MME_Benchmark_release_version with a folder for each of the 14 subtasks: "
    "NAME.jpg or .png beside NAME.txt, or images/ beside questions_answers_YN/; or the eval_tool's Your_Results with "
    "SUBTASK.txt, and the folder of pictures beside it"
)


@dataclass(frozen=True)
class MMEQuestion:
    """One of the two questions on a picture."""

    id: str
    subtask: str
    image: Path
    question: str
    answer: YesNo


@dataclass(frozen=True)
class ResultLine:
    """One line of a result file: picture, question, right answer, what the model said."""

    image: str
    question: str
    answer: YesNo
    said: str


@dataclass(frozen=True)
class SubtaskScore:
    """Per cent of right questions and of pictures with both questions right."""

    accuracy: float
    accuracy_plus: float
    questions: int
    unparsed: int
    """Answers that are neither yes nor no by the parser's rule; they are wrong."""

    @property
    def score(self) -> float:
        """At most 200."""
        return self.accuracy + self.accuracy_plus


@dataclass(frozen=True)
class MMEScores:
    """Scores of the 14 subtasks by one parser."""

    parser: Parser
    subtasks: Mapping[str, SubtaskScore]

    @property
    def perception(self) -> float:
        """Sum of ten subtasks, at most 2000."""
        return sum(self.subtasks[name].score for name in PERCEPTION)

    @property
    def cognition(self) -> float:
        """Sum of four subtasks, at most 800; VLMEvalKit calls it reasoning."""
        return sum(self.subtasks[name].score for name in COGNITION)

    @property
    def total(self) -> float:
        """At most 2800."""
        return self.perception + self.cognition


# --- what an answer means -----------------------------------------------------------------------------------------


def label(answer: str, parser: Parser = "official") -> Label:
    """What a tool takes from an answer; "other" counts as wrong."""
    return _LABELS[parser](answer)


def vlmevalkit_yes_no(answer: str) -> Label:
    """VLMEvalKit's rule: exactly one of the words yes and no in the whole answer."""
    words = without_marks(answer.lower(), LONE_STOP).split()
    if ("yes" in words) == ("no" in words):
        return "other"
    return "yes" if "yes" in words else "no"


def _official(answer: str) -> Label:
    beginning = answer.lower()[:4]  # not stripped: two blanks before "yes" hide it
    if "yes" in beginning:
        return "yes"
    return "no" if "no" in beginning else "other"


def _lmms_eval(answer: str) -> Label:
    plain = answer.lower().strip().replace(".", "")
    return _official({"y": "yes", "n": "no"}.get(plain, plain))


_LABELS: Mapping[Parser, Callable[[str], Label]] = {
    "official": _official,
    "lmms_eval": _lmms_eval,
    "vlmevalkit": vlmevalkit_yes_no,
}


# --- scores -------------------------------------------------------------------------------------------------------


def score_folder(folder: Path, parser: Parser = "official") -> MMEScores:
    """Scores of a folder with a SUBTASK.txt for each subtask. Raises InputError at the first file that is wrong."""
    return MMEScores(parser, {name: score_file(folder / f"{name}.txt", parser) for name in SUBTASKS})


def score_file(path: Path, parser: Parser = "official") -> SubtaskScore:
    """Score of one subtask's result file. Raises InputError where the official script stops."""
    return score_lines(read_results(path), parser, place_of(path))


def score_lines(lines: Sequence[ResultLine], parser: Parser = "official", name: str = "the answers") -> SubtaskScore:
    """Score of one subtask's answers, at least two; `name` begins what is said of errors."""
    labels = [label(line.said, parser) for line in lines]
    unparsed = labels.count("other")
    if parser == "official" and unparsed == len(labels):
        raise InputError(
            f"{name}: none of the {len(labels)} answers has yes or no in its first four characters, the first "
            f"is {lines[0].said[:40]!r}; the official script (with scikit-learn 1.9) gives no score then. Ask the "
            "model to begin with yes or no, or score with the parser 'lmms_eval' or 'vlmevalkit'"
        )
    hits = [said == line.answer for said, line in zip(labels, lines, strict=True)]
    pairs = _pair(name, lines, hits, parser)
    accuracy = 100 * sum(hits) / len(hits)
    accuracy_plus = 100 * sum(pair[0] and pair[1] for pair in pairs) / len(pairs)
    return SubtaskScore(accuracy, accuracy_plus, len(hits), unparsed)


def _pair(name: str, lines: Sequence[ResultLine], hits: Sequence[bool], parser: Parser) -> list[list[bool]]:
    """Hits of each picture: two lines that follow one another officially, the lines of one name in the others
    (VLMEvalKit takes more than two, and the first two for accuracy+)."""
    if parser == "official":
        return [list(hits[start : start + 2]) for start in range(0, len(hits), 2)]
    pairs: dict[str, list[bool]] = {}
    for line, hit in zip(lines, hits, strict=True):
        pairs.setdefault(line.image, []).append(hit)
    for image, pair in pairs.items():
        if len(pair) < 2 or (len(pair) > 2 and parser == "lmms_eval"):
            raise InputError(f"{name}: lines that name the picture {image}: {len(pair)}; {parser} pairs lines "
                             "by their picture and expects two, so give both questions of a picture the same name")
    return list(pairs.values())


# --- files --------------------------------------------------------------------------------------------------------


def read_results(path: Path) -> list[ResultLine]:
    """Lines of a result file: picture, question, yes or no, answer, with tabs between them. Raises InputError."""
    lines = [_result_line(path, number, line) for number, line in _lines(path)]
    if not lines or len(lines) % 2:
        raise InputError(f"{place_of(path)}: {len(lines)} lines; expected two lines for every picture, one after the "
                         "other. Add the missing lines, or write the file anew")
    return lines


def result_line(question: MMEQuestion, said: str) -> str:
    """A line of the result file, without its line end; tabs and line ends within the answer become blanks."""
    answer = re.sub(r"[\t\r\n]+", " ", said)
    return f"{question.image.name}\t{question.question}\t{question.answer.capitalize()}\t{answer}"


def _result_line(path: Path, number: int, line: str) -> ResultLine:
    fields = line.split("\t")
    if len(fields) != 4:
        raise InputError(f"{place_of(path)} line {number}: {_fields(line)}; expected picture, question, yes or no, and "
                         "an answer on the same line, with tabs between them: no blank lines, and no tabs or line "
                         "ends inside an answer (result_line writes such lines)")
    return ResultLine(fields[0], fields[1], _yes_or_no(path, number, fields[2]), fields[3])


def _yes_or_no(path: Path, number: int, text: str) -> YesNo:
    answer = text.lower()
    if answer not in ("yes", "no"):
        raise InputError(f"{place_of(path)} line {number}: the right answer is {text!r}; expected Yes or No. Correct "
                         "the line, or take the file from the official set again")
    return "yes" if answer == "yes" else "no"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, split as Python splits a text file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{place_of(path)}: not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{place_of(path)} cannot be read ({error.strerror}); expected a file SUBTASK.txt for each of "
                         f"{', '.join(SUBTASKS)}") from error
    return enumerate(text.removesuffix("\n").split("\n") if text else [], start=1)


def _fields(line: str) -> str:
    count = line.count("\t") + 1
    return f"{count} field{'' if count == 1 else 's'} ({line[:60]!r})" if line.strip() else "a blank line"


# --- the set ------------------------------------------------------------------------------------------------------


def prompt(question: str, parser: Parser = "official") -> str:
    """The words that a tool asks: its own as they stand, or lmms-eval's (and LLaVA's) short-answer request."""
    if parser != "lmms_eval":
        return question
    return question.strip().replace(REQUEST, "") + SHORT_ANSWER


def load(folder: Path, images: Path | None = None, subtasks: Sequence[str] = SUBTASKS) -> tuple[MMEQuestion, ...]:
    """All questions of MME_Benchmark_release_version, or of Your_Results with `images` as the folder of the pictures;
    the two questions on a picture follow one another. Raises InputError that says where to get the set."""
    if (folder / f"{subtasks[0]}.txt").is_file():
        return tuple(question for name in subtasks for question in _load_list(name, folder, images or folder))
    return tuple(question for name in subtasks for question in _load_subtask(folder / name))


def _load_subtask(folder: Path) -> Iterator[MMEQuestion]:
    """A folder of the release: for each picture a text with two lines."""
    texts = folder / "questions_answers_YN"
    found = sorted((texts if texts.is_dir() else folder).glob("*.txt"))
    if not found:
        raise InputError(f"no questions in {place_of(folder)}. {WHERE}")
    for path in found:
        image = _picture(folder, path.stem)
        for number, line in _lines(path):
            yield _question(folder.name, path, number, line.strip().split("\t"), image)


def _load_list(subtask: str, folder: Path, images: Path) -> Iterator[MMEQuestion]:
    """A file of Your_Results: a line for each question, with the picture's name first."""
    path = folder / f"{subtask}.txt"
    for number, line in _lines(path):
        name, *fields = line.split("\t")[:3]  # a fourth field would be an answer
        yield _question(subtask, path, number, fields, _picture(images / subtask, name))


def _question(subtask: str, path: Path, number: int, fields: list[str], image: Path) -> MMEQuestion:
    if len(fields) != 2:
        raise InputError(f"{place_of(path)} line {number}: {len(fields)} fields; expected a question and its Yes or No "
                         f"with a tab between them. {WHERE}")
    identity = f"{subtask}/{image.name}/{(number - 1) % 2 + 1}"
    return MMEQuestion(identity, subtask, image, fields[0], _yes_or_no(path, number, fields[1].strip()))


def _picture(folder: Path, name: str) -> Path:
    """The picture of this name, with or without its ending, in the folder or in its images/."""
    for place in (folder, folder / "images"):
        for ending in ("", ".jpg", ".png", ".jpeg"):
            if (path := place / f"{name}{ending}").is_file():
                return path
    raise InputError(f"no picture {name} in {place_of(folder)}. {WHERE}")
