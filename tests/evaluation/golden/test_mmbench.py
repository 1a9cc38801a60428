"""MMBench: the recorded outputs of VLMEvalKit and lmms-eval; its files, prompts and errors."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import pytest

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official import mmbench

from .conftest import cases

CIRCULAR = ("expected.json", "predictions.tsv")
TABLE = ("choices.json", "table.jsonl")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", cases("mmbench", *CIRCULAR))
def test_circular(case: Path) -> None:
    expected = read_json(case / "expected.json")["vlmevalkit_circular"]
    scores = mmbench.score_file(case / "predictions.tsv")
    assert scores.parser == "vlmevalkit" and scores.circular
    assert {str(index): int(hit) for index, hit in scores.hits.items()} == expected["hits"]
    report = expected["report"]
    numbers = {name: value for name, value in report.items() if name != "split"}
    assert scores.rates[report["split"]] == pytest.approx(numbers, abs=1e-12)


@pytest.mark.parametrize("case", cases("mmbench", *CIRCULAR))
def test_first_pass_alone(case: Path) -> None:
    expected = read_json(case / "expected.json")["vlmevalkit_vanilla_first_rotation"]
    hits = mmbench.score_file(case / "predictions.tsv", circular=False).hits.values()
    assert sum(hits) / len(hits) == pytest.approx(expected["acc"], abs=1e-12)


@pytest.mark.parametrize("case", cases("mmbench", *CIRCULAR))
def test_rotations(case: Path) -> None:
    rows = {question.index: question for question in mmbench.load(case / "predictions.tsv")}
    made = [turned for question in rows.values() if question.index == question.main_index
            for turned in mmbench.rotations(question)]
    assert {question.index: question for question in made} == rows


@pytest.mark.parametrize("case", cases("mmbench", *TABLE))
def test_table_of_parsers(case: Path) -> None:
    choices = read_json(case / "choices.json")
    for line in (case / "table.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answer = row["prediction"]
        ours = {
            "prediction": answer,
            "vlmevalkit_option": mmbench.vlmevalkit_letter(answer, choices) or False,
            "vlmevalkit": mmbench.choose(answer, choices) or False,
            "lmms_eval": mmbench.choose(answer, choices, "lmms_eval") or False,
        }
        assert {name: ours[name] for name in row} == row


def test_every_case_is_tested() -> None:
    claimed = {case.id for patterns in (CIRCULAR, TABLE) for case in cases("mmbench", *patterns)}
    assert {case.id for case in cases("mmbench")} == claimed, "some cases are left out"


# --- made files ---------------------------------------------------------------------------------------------------

PICTURE = base64.b64encode(b"a picture" * 20_000).decode("ascii")  # longer than what csv takes by itself
COLUMNS = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "L2-category", "split", "image",
           "prediction"]


def write_set(folder: Path, *rows: list[object], columns: list[str] = COLUMNS) -> Path:
    path = folder / "MMBench_DEV_EN.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([columns, *rows])
    return path


def row(index: int, **changes: object) -> list[object]:
    fields = {"index": index, "question": "What\nis it?", "hint": "nan", "A": "a cat", "B": "None", "C": "a dog",
              "D": "", "answer": "A", "category": "ocr", "L2-category": "coarse_perception", "split": "dev",
              "image": PICTURE, "prediction": "A"} | changes
    return [fields[name] for name in COLUMNS]


def test_load(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    path = write_set(tmp_path, row(7), row(1_000_007, image=7, hint="Look."))
    first, turned = mmbench.load(path)
    assert first == mmbench.MMBenchQuestion(
        7, "What\nis it?", "", {"A": "a cat", "C": "a dog"}, "A", "ocr", "coarse_perception", "dev",
        b"a picture" * 20_000)
    assert turned.image is first.image and turned.main_index == 7 and turned.hint == "Look."
    assert csv.field_size_limit() == limit
    scores = mmbench.score_file(path)
    assert scores.rates == {"dev": {"Overall": 1, "CP": 1, "ocr": 1}} and scores.unresolved == 0


def test_prompts(tmp_path: Path) -> None:
    rows = row(1, question="What?"), row(2, question="What?", hint="Look.")
    question, hinted = mmbench.load(write_set(tmp_path, *rows))
    assert mmbench.prompt(question) == (
        "Question: What?\nOptions:\nA. a cat\nC. a dog\nPlease select the correct answer from the options above. \n")
    assert mmbench.prompt(hinted).startswith("Hint: Look.\nQuestion: What?\nOptions:\n")
    request = "Answer with the option's letter from the given choices directly."
    assert mmbench.prompt(hinted, "llava") == f"Look.\nWhat?\nA. a cat\nC. a dog\n{request}"
    assert mmbench.prompt(question, "llava", "cn") == "What?\nA. a cat\nC. a dog\n请直接回答选项字母。"
    assert mmbench.prompt(hinted, "lmms_eval") == (
        f"Look. What? There are several options:\nA. a cat\nC. a dog\n\n{request}")


def test_answers_of_the_test_split_are_not_public(tmp_path: Path) -> None:
    path = write_set(tmp_path, row(1, answer=""))
    with pytest.raises(InputError, match="1 without a right answer; expected .*test are not public"):
        mmbench.score_file(path)
    (question,) = mmbench.load(path)
    assert [turned.answer for turned in mmbench.rotations(question)] == ["", ""]


def test_missing_predictions_are_named(tmp_path: Path) -> None:
    questions = mmbench.load(write_set(tmp_path, row(1), row(1_000_001)))
    with pytest.raises(InputError, match=r"2 rows, 1 of them first passes, 1 without a prediction \(such as index "
                                         r"\[1000001\]"):
        mmbench.score(questions, {1: "A"})
    assert mmbench.score(questions, {1: "A"}, circular=False).hits == {1: True}
    scores = mmbench.score(questions, {1: "A", 1_000_001: "who knows"}, "lmms_eval")
    assert scores.hits == {1: False} and scores.unresolved == 1 and scores.parser == "lmms_eval"


@pytest.mark.parametrize(("rows", "columns", "message"), [
    ([row(1, image="@" * 80)], COLUMNS, "line 3: image is not base64"),
    ([row(1, image=5)], COLUMNS, "line 3: image is '5'"),
    ([["x", *row(1)[1:]]], COLUMNS, "line 3: index is 'x'"),
    ([[*row(1), "more"]], COLUMNS, "line 3: 14 fields under 13"),
    ([row(1)], ["number", *COLUMNS[1:]], " has no column index; it has number, question"),
    ([], [], " has no column index, question, A, B; it has none"),
])
def test_what_is_wrong_with_a_set_is_named(
    tmp_path: Path, rows: list[list[object]], columns: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=f"/MMBench_DEV_EN.tsv ?{message}"):
        mmbench.load(write_set(tmp_path, *rows, columns=columns))


def test_a_missing_set_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no file .*/MMBench_DEV_EN.tsv. .*opencompass.*columns index, question"):
        mmbench.load(tmp_path / "MMBench_DEV_EN.tsv")
    path = tmp_path / "latin.tsv"
    path.write_bytes(b"index\xff")
    with pytest.raises(InputError, match="is not a table in UTF-8"):
        mmbench.load(path)
