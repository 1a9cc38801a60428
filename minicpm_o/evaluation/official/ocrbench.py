"""OCRBench: does a right text stand anywhere in the answer? 1000 questions in ten categories, score = hits.

Paper: arXiv:2305.07895. Two scripts count a little differently, so the name of a score ends in its parser:
- vlmevalkit: `OCRBench.evaluate` of VLMEvalKit e8e78f05. The category of handwritten mathematics keeps case and drops
  blanks, all others fold case. An answer that pandas takes for an empty cell ("", "None", "NA", ...) becomes "nan".
- lmms_eval: `ocrbench_process_results` of lmms-eval 75571cfe. The data set HME100k (not the category) decides about
  mathematics; elsewhere full-width ASCII counts as ASCII.
A long answer holds more texts and so scores more: cap the length of answers, and say where.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.files import long_cells, read_text

RECOGNITION = (
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition", "Handwriting Recognition",
    "Digit String Recognition", "Non-Semantic Text Recognition",
)  # fmt: skip
MATHEMATICS = "Handwritten Mathematical Expression Recognition"
OTHERS = ("Scene Text-centric VQA", "Doc-oriented VQA", "Key Information Extraction", MATHEMATICS)
CATEGORIES = RECOGNITION + OTHERS
MATHEMATICS_SET = "HME100k"

OCRBENCH = ("Get OCRBench.tsv from https://opencompass.openxlab.space/utils/VLMEval/OCRBench.tsv: one file with the "
            "columns index, image (base64), question, answer (a list) and category")

_EMPTY_CELLS = frozenset({
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
})  # fmt: skip
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: ord(" ")}


@dataclass(frozen=True)
class OcrAnswer:
    """A model's answer with the texts that are right."""

    category: str
    dataset: str
    """HME100k marks mathematics for lmms-eval; "" where the file does not say."""
    accepted: tuple[str, ...]
    prediction: str


@dataclass(frozen=True)
class OcrBenchScores:
    """Hits in each category; the name ends in the parser."""

    name: str
    hits: Mapping[str, int]
    items: tuple[bool, ...]

    @property
    def recognition(self) -> int:
        """Hits in the six categories of text recognition, of 300."""
        return sum(self.hits[category] for category in RECOGNITION)

    @property
    def final(self) -> int:
        """All hits, of 1000: the score that papers print."""
        return sum(self.hits.values())

    @property
    def reported(self) -> dict[str, float]:
        """The score file of VLMEvalKit."""
        groups = {category: self.hits[category] for category in OTHERS}
        return {"Text Recognition": self.recognition, **groups, "Final Score": self.final,
                "Final Score Norm": self.final / 10}


# --- the rules --------------------------------------------------------------------------------------------------


def vlmevalkit_hit(answer: OcrAnswer) -> bool:
    """Whether VLMEvalKit finds one of the right texts in the answer."""
    prediction = "nan" if answer.prediction in _EMPTY_CELLS else answer.prediction
    tidy = _without_blanks if answer.category == MATHEMATICS else _folded
    return any(tidy(text) in tidy(prediction) for text in answer.accepted)


def lmms_eval_hit(answer: OcrAnswer) -> bool:
    """Whether lmms-eval finds one of the right texts in the answer."""
    tidy = _without_blanks if answer.dataset == MATHEMATICS_SET else _folded_half_width
    return any(tidy(text) in tidy(answer.prediction.strip()) for text in answer.accepted)


PARSERS: Mapping[str, Callable[[OcrAnswer], bool]] = {"vlmevalkit": vlmevalkit_hit, "lmms_eval": lmms_eval_hit}


def ocrbench_scores(answers: Sequence[OcrAnswer], parser: str = "vlmevalkit") -> OcrBenchScores:
    """Hits of all answers and in each category; parsers: vlmevalkit, lmms_eval."""
    if parser not in PARSERS:
        raise InputError(f"the parser {parser!r} is unknown here; known are {', '.join(PARSERS)}")
    items = tuple(PARSERS[parser](answer) for answer in answers)
    hits = dict.fromkeys(CATEGORIES, 0)
    for number, (answer, hit) in enumerate(zip(answers, items, strict=True), start=1):
        hits[_known_category(answer.category, f"answer {number}")] += hit
    return OcrBenchScores(f"ocrbench_{parser}", hits, items)


def _without_blanks(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _folded(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _folded_half_width(text: str) -> str:
    return _folded(text.translate(_FULL_WIDTH))


def _known_category(category: str, place: str) -> str:
    if category not in CATEGORIES:
        raise InputError(f"{place}: the category {category!r} is unknown; expected one of {', '.join(CATEGORIES)}")
    return category


# --- files ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OcrItem:
    """A question of the set; the picture as the bytes of its file."""

    id: str
    image: bytes
    question: str
    accepted: tuple[str, ...]
    category: str
    dataset: str


def read_predictions(path: Path) -> tuple[OcrAnswer, ...]:
    """Answers in a TSV as VLMEvalKit writes it: category, answer (a list), prediction and, if at hand, dataset."""
    source = "expected a TSV with the columns category, answer and prediction"
    return tuple(
        OcrAnswer(_known_category(row["category"], place), row.get("dataset", ""), _accepted(row["answer"], place),
                  row["prediction"])
        for place, row in _read_table(path, ("category", "answer", "prediction"), source)
    )


def load_ocrbench(path: Path) -> tuple[OcrItem, ...]:
    """The questions of OCRBench.tsv, to be asked as they stand."""
    columns = ("index", "image", "question", "answer", "category")
    rows = list(_read_table(path, columns, OCRBENCH))
    images = {row["index"]: row["image"] for _, row in rows}
    return tuple(
        OcrItem(row["index"], _decoded(images, row["index"], place), row["question"].strip(),
                _accepted(row["answer"], place), _known_category(row["category"], place), row.get("dataset", ""))
        for place, row in rows
    )


def _read_table(path: Path, columns: Sequence[str], source: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a TSV with a header, each with its place; cells in quotes may hold line ends."""
    with long_cells():
        reader = csv.reader(StringIO(read_text(path, source)), delimiter="\t")
        rows = [(f"{path.name} line {reader.line_num}", cells) for cells in reader if cells]
    header = rows[0][1] if rows else []
    missing = [column for column in columns if column not in header]
    if missing:
        found = ", ".join(header) or "none"
        raise InputError(f"{path.name} has no column {', '.join(missing)}; it has {found}. {source}")
    for place, cells in rows[1:]:
        if len(cells) != len(header):
            raise InputError(f"{place} has {len(cells)} cells; expected {len(header)}: {', '.join(header)}. Put cells "
                             "with tabs or line ends in double quotes")
        yield place, dict(zip(header, cells, strict=True))


def _accepted(cell: str, place: str) -> tuple[str, ...]:
    """The texts of a cell such as ['Coca-Cola', '1984']."""
    try:
        value = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise InputError(f"{place}: 'answer' is {cell[:60]!r}; expected a list of texts such as ['STOP', 'Stop']")
    return tuple(value)


def _decoded(images: Mapping[str, str], index: str, place: str) -> bytes:
    """A picture; VLMEvalKit's files name the index of another row where the same picture was there before."""
    cell = images[index]
    cell = images.get(cell, cell) if len(cell) <= 64 else cell
    try:
        data = base64.b64decode(cell, validate=True)
    except binascii.Error as error:
        raise InputError(f"{place}: 'image' is no base64 ({error}); get the file again. {OCRBENCH}") from error
    if not data:
        raise InputError(f"{place}: 'image' is empty; get the file again. {OCRBENCH}")
    return data
