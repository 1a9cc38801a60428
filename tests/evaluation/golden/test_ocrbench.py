"""OCRBench hits against VLMEvalKit and lmms-eval, and what broken files say."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from evaluation.golden.conftest import cases

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.ocrbench import (
    CATEGORIES,
    MATHEMATICS,
    OcrAnswer,
    lmms_eval_hit,
    load_ocrbench,
    ocrbench_scores,
    read_predictions,
    vlmevalkit_hit,
)

FILES = ("predictions.tsv", "expected.json")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def answer(accepted: str, prediction: str, category: str = "Handwriting Recognition", dataset: str = "X") -> OcrAnswer:
    return OcrAnswer(category, dataset, (accepted,), prediction)


@pytest.mark.parametrize("case", cases("ocrbench"))
def test_every_case_belongs_to_a_test(case: Path) -> None:
    assert all((case / name).is_file() for name in FILES), sorted(case.iterdir())


@pytest.mark.parametrize("case", cases("ocrbench", *FILES))
def test_hits_are_those_of_vlmevalkit(case: Path) -> None:
    scores = ocrbench_scores(read_predictions(case / "predictions.tsv"))
    assert scores.reported == pytest.approx(read(case / "expected.json")["vlmevalkit"])
    assert scores.name == "ocrbench_vlmevalkit"


@pytest.mark.parametrize("case", cases("ocrbench", *FILES))
def test_hits_are_those_of_lmms_eval(case: Path) -> None:
    expected = read(case / "expected.json")
    scores = ocrbench_scores(read_predictions(case / "predictions.tsv"), "lmms_eval")
    assert [int(hit) for hit in scores.items] == expected["lmms_eval_item_scores"]
    assert scores.final == expected["lmms_eval_sum"]
    assert scores.name == "ocrbench_lmms_eval"


# --- rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "vlmevalkit", "lmms_eval"), [
    (answer("STOP", "it says stop."), True, True),
    (answer("two lines", "Two\nLines"), True, True),
    (answer("１９８４", "1984"), False, True),
    (answer("①", "1"), False, False),
    (answer("x Y", "xY", MATHEMATICS, "HME100k"), True, True),
    (answer("xY", "xy", MATHEMATICS, "HME100k"), False, False),
    (answer("xY", "xy", MATHEMATICS, "X"), False, True),
    (answer("x Y", "xY", "Handwriting Recognition", "HME100k"), False, True),
    (answer("an", ""), True, False),
    (answer("none", "None"), False, True),
])  # fmt: skip
def test_rules_of_both_parsers(given: OcrAnswer, vlmevalkit: bool, lmms_eval: bool) -> None:
    assert (vlmevalkit_hit(given), lmms_eval_hit(given)) == (vlmevalkit, lmms_eval)


def test_the_score_is_the_sum_of_the_categories() -> None:
    scores = ocrbench_scores([answer("a", "a", category) for category in CATEGORIES] + [answer("a", "b")])
    assert (scores.recognition, scores.final, scores.reported["Final Score Norm"]) == (6, 10, 1.0)
    assert scores.items == (True,) * 10 + (False,)


# --- files ------------------------------------------------------------------------------------------------------


def table(path: Path, *rows: list[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    return path


@pytest.mark.parametrize(("rows", "message"), [
    ([], "no column category, answer, prediction; it has none"),
    ([["category", "answer"]], "no column prediction; it has category, answer"),
    ([["category", "answer", "prediction"], [CATEGORIES[0], "['a']"]], "line 2 has 2 cells; expected 3"),
    ([["category", "answer", "prediction"], [CATEGORIES[0], "a b", "a"]], "line 2: 'answer' is 'a b'; expected a list"),
    ([["category", "answer", "prediction"], [CATEGORIES[0], "'ab'", "a"]], "expected a list of texts"),
    ([["category", "answer", "prediction"], ["Poems", "['a']", "a"]], "line 2: the category 'Poems' is unknown"),
])  # fmt: skip
def test_broken_predictions_say_what_is_wrong(tmp_path: Path, rows: list[list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_predictions(table(tmp_path / "predictions.tsv", *rows))


def test_unknown_parsers_are_errors() -> None:
    with pytest.raises(InputError, match="'gpt' is unknown here; known are vlmevalkit, lmms_eval"):
        ocrbench_scores([], "gpt")


HEADER = ["index", "image", "question", "answer", "category"]


def test_the_set_is_read_with_its_pictures(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    large = base64.b64encode(b"picture" * 40_000).decode()
    path = table(tmp_path / "OCRBench.tsv", HEADER, ["0", large, " what? ", "['a', 'b']", CATEGORIES[0]],
                 ["1", "0", "who?", "['c']", MATHEMATICS])
    first, second = load_ocrbench(path)
    assert first.image == second.image == b"picture" * 40_000
    assert (first.question, first.accepted, second.category) == ("what?", ("a", "b"), MATHEMATICS)
    assert csv.field_size_limit() == limit


def test_a_missing_or_broken_set_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"OCRBench.tsv is not there. Get OCRBench.tsv from https"):
        load_ocrbench(tmp_path / "OCRBench.tsv")
    for image in ("not base64!", ""):
        broken = table(tmp_path / "OCRBench.tsv", HEADER, ["5", image, "what?", "['a']", CATEGORIES[0]])
        with pytest.raises(InputError, match="line 2: 'image' is (no base64|empty).*get the file again"):
            load_ocrbench(broken)
