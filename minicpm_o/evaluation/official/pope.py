"""POPE: is an object in the picture? Accuracy, precision, recall, F1 (yes is the positive class), share of yes.

Protocol: arXiv:2305.10355; 3000 questions for each of random, popular and adversarial, half of them yes. Official
arithmetic: evaluate.py of RUCAIBox/POPE (08d957b), the same rule in LLaVA's eval_pope.py (c121f04). lmms-eval
(75571cfe) and VLMEvalKit (e8e78f05, exact matching, no judge) read the same answers in other ways, so every score
names its parser. Always yes scores accuracy 0.5 and F1 0.667. The headline is F1 (often the mean of the splits).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import YesNo, pope_yes_no
from minicpm_o.evaluation.official.files import needed_id, needed_text, read_records, wrong
from minicpm_o.evaluation.official.mme import Label, vlmevalkit_yes_no
from minicpm_o.evaluation.official.vqa import SHORT_ANSWER
from minicpm_o.evaluation.rows import Row, place_of

T = TypeVar("T")

Parser = Literal["official", "llava", "lmms_eval", "vlmevalkit"]

WHERE = (
    "The questions are in github.com/RUCAIBox/POPE, folder output/coco: coco_pope_random.json, coco_pope_popular.json "
    "and coco_pope_adversarial.json, kept as they are in one folder; the pictures are COCO val2014 "
    "(images.cocodataset.org/zips/val2014.zip), unpacked into one folder"
)


@dataclass(frozen=True)
class PopeQuestion:
    """One question of one split."""

    id: int | str
    split: str
    image: Path
    question: str
    answer: YesNo


@dataclass(frozen=True)
class PopeScores:
    """Numbers of one split, as fractions; answers that are neither yes nor no are in none of the four counts."""

    parser: Parser
    true_yes: int
    false_yes: int
    true_no: int
    false_no: int
    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float
    """Share of yes among the answers; lmms-eval counts the right answers instead."""

    def to_dict(self) -> dict[str, float]:
        """The numbers under the names and on the scale that the tool prints."""
        f1, accuracy, precision, recall = self.f1, self.accuracy, self.precision, self.recall
        if self.parser == "lmms_eval":
            return {"pope_accuracy": accuracy, "pope_precision": precision, "pope_recall": recall,
                    "pope_f1_score": f1, "pope_yes_ratio": self.yes_ratio}
        if self.parser == "vlmevalkit":
            return {"Overall": 100 * f1, "acc": 100 * accuracy, "precision": 100 * precision, "recall": 100 * recall}
        return {"Accuracy": accuracy, "Precision": precision, "Recall": recall, "F1 score": f1,
                "Yes ratio": self.yes_ratio}


# --- what an answer means -----------------------------------------------------------------------------------------


def label(answer: str, parser: Parser = "official") -> Label:
    """What a tool takes from an answer; the official rule (and LLaVA's) knows yes and no only."""
    if parser == "lmms_eval":
        plain = answer.lower().strip()
        return "yes" if plain == "yes" else "no" if plain == "no" else "other"
    return vlmevalkit_yes_no(answer) if parser == "vlmevalkit" else pope_yes_no(answer)


def prompt(question: str, parser: Parser = "official") -> str:
    """The words that a tool asks: the question as it stands, in LLaVA and lmms-eval with a short-answer request."""
    return question.strip() + SHORT_ANSWER if parser in ("llava", "lmms_eval") else question


# --- scores -------------------------------------------------------------------------------------------------------


def score(answers: Sequence[str], labels: Sequence[YesNo], parser: Parser = "official",
          name: str = "the answers") -> PopeScores:
    """Numbers of answers and labels in the same order; where one list is longer, its rest is not scored.

    Raises InputError (which begins with `name`) where the official script divides by zero."""
    said = [label(answer, parser) for answer in answers]
    pairs = list(zip(said, labels))  # noqa: B905  # the official script stops at the end of the shorter one
    true_yes, false_yes = pairs.count(("yes", "yes")), pairs.count(("yes", "no"))
    true_no, false_no = pairs.count(("no", "no")), pairs.count(("no", "yes"))
    if parser in ("official", "llava") and not true_yes:
        raise InputError(f"{name}: no question was rightly answered with yes (TP 0, FP {false_yes}, TN {true_no}, FN "
                         f"{false_no}), so the official script divides by zero and gives no F1. Check that the "
                         "answers belong to these labels; lmms_eval and vlmevalkit give 0 here")
    missed = false_no + (pairs.count(("other", "yes")) if parser == "vlmevalkit" else 0)
    precision, recall = _ratio(true_yes, true_yes + false_yes), _ratio(true_yes, true_yes + missed)
    f1 = _ratio(2 * precision * recall, precision + recall)
    # all answers count here, those without a label too, as in the official script
    yes_ratio = _share([wanted for _, wanted in pairs] if parser == "lmms_eval" else said)
    accuracy = _ratio(true_yes + true_no, len(pairs))
    return PopeScores(parser, true_yes, false_yes, true_no, false_no, accuracy, precision, recall, f1, yes_ratio)


def score_splits(files: Mapping[str, tuple[Path, Path]], parser: Parser = "official") -> dict[str, PopeScores]:
    """Scores of split -> (answer file, label file), and of all together as "Overall", which lmms-eval and VLMEvalKit
    print and the official script does not."""
    read = {split: (read_answers(answers), read_labels(labels)) for split, (answers, labels) in files.items()}
    scores = {split: score(*lists, parser, place_of(files[split][0])) for split, lists in read.items()}
    pairs = [pair for lists in read.values() for pair in zip(*lists)]  # noqa: B905
    overall = score([answer for answer, _ in pairs], [wanted for _, wanted in pairs], parser, "all splits together")
    return scores | {"Overall": overall}


def score_files(answers: Path, labels: Path, parser: Parser = "official") -> PopeScores:
    """Scores of one split: JSON lines of answers, and coco_pope_SPLIT.json, in the same order."""
    return score(read_answers(answers), read_labels(labels), parser, place_of(answers))


def score_llava(answers: Path, questions: Path, labels: Path) -> dict[str, PopeScores]:
    """Scores of each split as LLaVA's script gives them: one file of answers, one of questions, which names the split
    as category, and the folder of coco_pope_SPLIT.json."""
    texts = read_llava_answers(answers, questions)
    return {split: score(texts.get(split, []), read_labels(path), "llava", f"{place_of(answers)}, {split}")
            for split, path in _label_files(labels).items()}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _share(labels: Sequence[Label]) -> float:
    return _ratio(labels.count("yes"), len(labels))


# --- files --------------------------------------------------------------------------------------------------------


def read_answers(path: Path) -> list[str]:
    """Answers of JSON lines {"question", "answer"}, in the order of the label file. Raises InputError."""
    return [needed_text(row, "answer") for row in read_records(path)]


def read_labels(path: Path) -> list[YesNo]:
    """Right answers of coco_pope_SPLIT.json. Raises InputError."""
    return [_label(row) for row in read_records(path)]


def read_llava_answers(answers: Path, questions: Path) -> dict[str, list[str]]:
    """Answers of LLaVA's JSON lines {"question_id", "text"} by the category that the question file gives them."""
    categories = {needed_id(row, "question_id"): needed_text(row, "category") for row in read_records(questions)}
    texts: dict[str, list[str]] = {}
    for row in read_records(answers):
        identity = needed_id(row, "question_id")
        if identity not in categories:
            raise wrong(row, f"question_id {identity!r}", f"a question of {place_of(questions)}",
                        "give the questions that these answers were made for")
        texts.setdefault(categories[identity], []).append(needed_text(row, "text"))
    return texts


def _label(row: Row) -> YesNo:
    value = needed_text(row, "label")
    return "no" if value == "no" else "yes"  # so in the official script: all that is not "no" is yes


def load(folder: Path, images: Path) -> tuple[PopeQuestion, ...]:
    """The questions of the coco_pope_SPLIT.json (or other *_pope_*.json) in a folder, with pictures from another.
    Raises InputError that says where to get the set."""
    questions = [question for split, path in _label_files(folder).items()
                 for question in (_question(row, split, images) for row in read_records(path, WHERE))]
    for question in questions:
        if not question.image.is_file():
            raise InputError(f"no picture {question.image.name} in {place_of(images)}. {WHERE}")
    return tuple(questions)


def _question(row: Row, split: str, images: Path) -> PopeQuestion:
    return PopeQuestion(needed_id(row, "question_id"), split, images / needed_text(row, "image"),
                        needed_text(row, "text"), _label(row))


def _label_files(folder: Path) -> dict[str, Path]:
    """Split -> label file."""
    files = {path.stem.partition("_pope_")[2]: path for path in sorted(folder.glob("*_pope_*.json"))}
    if not files:
        raise InputError(f"no coco_pope_*.json in {place_of(folder)}. {WHERE}")
    return files
