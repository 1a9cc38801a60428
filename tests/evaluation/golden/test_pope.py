"""POPE: the recorded outputs of evaluate.py, LLaVA, lmms-eval and VLMEvalKit; its files, prompts and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official import pope

from .conftest import cases

RESULTS = ("expected.json", "labels/*_pope_*.json", "answers_*.jsonl")
LLAVA = ("expected.json", "labels/*_pope_*.json", "llava_answers.jsonl", "llava_questions.jsonl")


def read_expected(case: Path, column: str) -> dict:
    return json.loads((case / "expected.json").read_text(encoding="utf-8"))[column]


def find_files(case: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> answers and labels."""
    return {path.stem.removeprefix("answers_"): (path, *case.glob(f"labels/*_pope_{path.stem.removeprefix('answers_')}"
                                                                  ".json")) for path in case.glob("answers_*.jsonl")}


def read_printed(text: str) -> tuple[str, dict[str, float]]:
    """TP, FP, TN and FN, and the numbers by name, of what a script printed."""
    lines = text.splitlines()
    counts = lines[lines.index("TP\tFP\tTN\tFN\t") + 1]
    numbers = dict(line.split(": ") for line in lines if ": " in line and not line.startswith("Category"))
    return counts, {name: float(value) for name, value in numbers.items()}


def count(scores: pope.PopeScores) -> str:
    return f"{scores.true_yes}\t{scores.false_yes}\t{scores.true_no}\t{scores.false_no}"


@pytest.mark.parametrize("case", cases("pope", *RESULTS))
def test_official(case: Path) -> None:
    files = find_files(case)
    for split, expected in read_expected(case, "official").items():
        counts, numbers = read_printed(expected["stdout"])
        if expected["returncode"]:
            message = r"answers_.*TP {}, FP {}, TN {}, FN {}\)".format(*counts.split("\t"))
            with pytest.raises(InputError, match=message):
                pope.score_files(*files[split])
            continue
        scores = pope.score_files(*files[split])
        assert count(scores) == counts and scores.parser == "official"
        assert scores.to_dict() == pytest.approx(numbers, abs=1e-12)


@pytest.mark.parametrize("case", cases("pope", *LLAVA))
def test_llava(case: Path) -> None:
    expected = read_expected(case, "llava_eval_pope")
    answers = pope.read_llava_answers(case / "llava_answers.jsonl", case / "llava_questions.jsonl")
    for block in expected["stdout_sorted_blocks"]:
        split, _, num_answers = block.splitlines()[0].removeprefix("Category: ").partition(", # samples: ")
        counts, numbers = read_printed(block)
        assert len(answers[split]) == int(num_answers)
        if numbers:  # the script stops before them where it divides by zero
            labels = pope.read_labels(next(case.glob(f"labels/*_pope_{split}.json")))
            scores = pope.score(answers[split], labels, "llava")
            assert count(scores) == counts
            assert scores.to_dict() == pytest.approx(numbers, abs=1e-12)
    files = (case / "llava_answers.jsonl", case / "llava_questions.jsonl", case / "labels")
    if expected["returncode"]:
        with pytest.raises(InputError, match="llava_answers"):
            pope.score_llava(*files)
    else:
        assert len(pope.score_llava(*files)) == len(expected["stdout_sorted_blocks"])


@pytest.mark.parametrize("case", cases("pope", *RESULTS))
def test_lmms_eval(case: Path) -> None:
    overall = pope.score_splits(find_files(case), "lmms_eval")["Overall"]
    assert overall.to_dict() == pytest.approx(read_expected(case, "lmms_eval"), abs=1e-12)


@pytest.mark.parametrize("case", cases("pope", *RESULTS))
def test_vlmevalkit(case: Path) -> None:
    scores = pope.score_splits(find_files(case), "vlmevalkit")
    expected = read_expected(case, "vlmevalkit_exact_matching")
    assert set(scores) == set(expected)
    for split, numbers in expected.items():
        assert scores[split].to_dict() == pytest.approx(numbers, abs=1e-9)


@pytest.mark.parametrize("case", cases("pope", *LLAVA))
def test_prompts_are_those_of_llava(case: Path) -> None:
    asked: dict[str, list[str]] = {}
    for line in (case / "llava_questions.jsonl").read_text(encoding="utf-8").splitlines():
        asked.setdefault(json.loads(line)["category"], []).append(json.loads(line)["text"])
    for split, texts in asked.items():
        labels = next(case.glob(f"labels/*_pope_{split}.json")).read_text(encoding="utf-8").splitlines()
        questions = [json.loads(line)["text"] for line in labels][: len(texts)]
        assert [pope.prompt(question, "llava") for question in questions] == texts
        assert [pope.prompt(question) for question in questions] == questions


def test_every_case_is_tested() -> None:
    claimed = {case.id for patterns in (RESULTS, LLAVA) for case in cases("pope", *patterns)}
    assert {case.id for case in cases("pope")} == claimed, "some cases are left out"


# --- made files ---------------------------------------------------------------------------------------------------


def write_lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def write_labels(folder: Path, split: str = "random") -> Path:
    rows = [{"question_id": number, "image": "a.jpg", "text": "Is there a cat in the image?", "label": label}
            for number, label in enumerate(("yes", "no", "yes"), start=1)]
    return write_lines(folder / f"coco_pope_{split}.json", rows)


def test_answers_without_a_label_count_for_the_ratio_of_yes_alone(tmp_path: Path) -> None:
    answers = write_lines(tmp_path / "a.jsonl", [{"answer": text} for text in ("yes", "no", "no", "no")])
    scores = pope.score_files(answers, write_labels(tmp_path))
    assert scores.yes_ratio == 0.25 and scores.accuracy == pytest.approx(2 / 3)


def test_what_is_neither_yes_nor_no() -> None:
    answers, labels = ["yes", "perhaps", "no"], ["yes", "yes", "no"]
    assert pope.score(answers, labels, "lmms_eval").recall == 1
    assert pope.score(answers, labels, "vlmevalkit").recall == 0.5
    assert pope.score(answers, labels, "official").recall == 1


@pytest.mark.parametrize(("row", "message"), [
    ("{", "line 2: not JSON"),
    ({"question": "q"}, "line 2: no field 'answer' .fields: question.; expected"),
    ({"answer": 1}, "line 2: 'answer' is 1"),
    ("", "line 2: the line is blank"),
])
def test_a_bad_line_is_named(tmp_path: Path, row: object, message: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"answer": "yes"}, row, {"answer": "no"}])
    with pytest.raises(InputError, match=f"a.jsonl:? {message}"):
        pope.read_answers(path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"/a.jsonl is not there. Expected a file"):
        pope.read_answers(tmp_path / "a.jsonl")
    answers = write_lines(tmp_path / "a.jsonl", [{"question_id": 7, "text": "yes"}])
    questions = write_lines(tmp_path / "q.jsonl", [{"question_id": 1, "category": "random"}])
    with pytest.raises(InputError, match=r"a.jsonl line 1: question_id 7; expected a question of .*q.jsonl"):
        pope.read_llava_answers(answers, questions)
    write_lines(questions, [{"question_id": [1], "category": "random"}])
    with pytest.raises(InputError, match=r"q.jsonl line 1: 'question_id' is \[1\]"):
        pope.read_llava_answers(answers, questions)


def test_load(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no coco_pope_\*.json .*RUCAIBox/POPE.*val2014.zip"):
        pope.load(tmp_path, tmp_path)
    write_labels(tmp_path)
    write_labels(tmp_path, "popular")
    with pytest.raises(InputError, match=r"no picture a.jpg in .*val2014.zip"):
        pope.load(tmp_path, tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"a picture")
    questions = pope.load(tmp_path, tmp_path)
    assert [question.split for question in questions] == ["popular"] * 3 + ["random"] * 3
    assert questions[1] == pope.PopeQuestion(2, "popular", tmp_path / "a.jpg", "Is there a cat in the image?", "no")
