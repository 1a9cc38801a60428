"""MME: the recorded outputs of calculation.py, lmms-eval and VLMEvalKit; its files, prompts and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import pope_yes_no
from minicpm_o.evaluation.official import mme

from .conftest import cases

RESULTS = ("expected.json", "results/*.txt")
TABLE = ("table.jsonl",)


def read_expected(case: Path) -> dict:
    return json.loads((case / "expected.json").read_text(encoding="utf-8"))


def cases_with(column: str) -> list:
    return [case for case in cases("mme", *RESULTS) if column in read_expected(case.values[0])]


def score_printed(case: Path, expected: dict) -> dict[str, float]:
    """Scores of the subtasks that the official script got to print."""
    names = [name for kind in ("Perception", "Cognition") for name in expected.get(kind, {}).get("tasks", {})]
    return {name: mme.score_file(case / "results" / f"{name}.txt").score for name in names}


@pytest.mark.parametrize("case", cases("mme", *RESULTS))
def test_official(case: Path) -> None:
    expected = read_expected(case)
    printed = {name: score for kind in ("Perception", "Cognition")
               for name, score in expected.get(kind, {}).get("tasks", {}).items()}
    assert score_printed(case, expected) == pytest.approx(printed, abs=1e-9)
    if expected["returncode"]:
        with pytest.raises(InputError, match=r"results/\w+\.txt"):
            mme.score_folder(case / "results")
        return
    scores = mme.score_folder(case / "results")
    assert scores.parser == "official" and list(scores.subtasks) == list(printed)
    assert scores.perception == pytest.approx(expected["Perception"]["total"], abs=1e-9)
    assert scores.cognition == pytest.approx(expected["Cognition"]["total"], abs=1e-9)
    assert scores.total == pytest.approx(expected["overall"], abs=1e-9)


@pytest.mark.parametrize("case", cases_with("lmms_eval"))
def test_lmms_eval(case: Path) -> None:
    expected = read_expected(case)["lmms_eval"]
    scores = mme.score_folder(case / "results", "lmms_eval")
    assert {"mme_perception_score": scores.perception, "mme_cognition_score": scores.cognition} == pytest.approx(
        expected, abs=1e-9)


@pytest.mark.parametrize("case", cases_with("vlmevalkit_exact_matching"))
def test_vlmevalkit(case: Path) -> None:
    expected = read_expected(case)["vlmevalkit_exact_matching"]
    scores = mme.score_folder(case / "results", "vlmevalkit")
    ours = {"perception": scores.perception, "reasoning": scores.cognition}
    assert ours | {name: subtask.score for name, subtask in scores.subtasks.items()} == pytest.approx(
        expected, abs=1e-9)


@pytest.mark.parametrize("case", cases("mme", *TABLE))
def test_table_of_parsers(case: Path) -> None:
    for line in (case / "table.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        answer = row["answer"]
        ours = {
            "answer": answer,
            "mme_official": mme.label(answer + "\n"),
            "lmms_eval_mme": mme.label(answer, "lmms_eval"),
            "vlmevalkit_yorn": {"yes": "Yes", "no": "No", "other": "Unknown"}[mme.label(answer, "vlmevalkit")],
            "pope_official_rule": pope_yes_no(answer),
        }
        assert {name: ours[name] for name in row} == row


def test_every_case_is_tested() -> None:
    claimed = {case.id for patterns in (RESULTS, TABLE) for case in cases("mme", *patterns)}
    assert {case.id for case in cases("mme")} == claimed, "some cases are left out"


# --- made files ---------------------------------------------------------------------------------------------------


def write_results(folder: Path, lines: dict[str, str] | None = None) -> Path:
    """A folder of result files; all answers are yes, but for the subtasks given."""
    good = "a.jpg\tIs it? Please answer yes or no.\tYes\tyes\na.jpg\tIs it not?\tNo\tyes\n"
    folder.mkdir()
    for name in mme.SUBTASKS:
        (folder / f"{name}.txt").write_text((lines or {}).get(name, good), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("text", "message"), [
    ("a.jpg\tq\tYes\tyes\n\n", "line 2: a blank line"),
    ("a.jpg\tq\tYes\n", "line 1: 3 fields"),
    ("a.jpg\tq\tYes\ta\tb\n", "line 1: 5 fields"),
    ("a.jpg\tq\tYes\tyes\nand more\n", "line 2: 1 field "),
    ("a.jpg\tq\tmaybe\tyes\na.jpg\tq\tNo\tyes\n", "line 1: the right answer is 'maybe'"),
    ("a.jpg\tq\tYes\tyes\n", "1 lines; expected two"),
    ("", "0 lines; expected two"),
    ("a.jpg\tq\tYes\t?\na.jpg\tq\tNo\t?\n", "none of the 2 answers"),
])
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    folder = write_results(tmp_path / "results", {"color": text})
    with pytest.raises(InputError, match=f"results/color.txt:? ?{message}"):
        mme.score_folder(folder)


def test_a_missing_file_and_foreign_text_are_named(tmp_path: Path) -> None:
    folder = write_results(tmp_path / "results")
    (folder / "scene.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"results/scene.txt: not UTF-8"):
        mme.score_folder(folder)
    (folder / "scene.txt").unlink()
    with pytest.raises(InputError, match=r"results/scene.txt cannot be read"):
        mme.score_folder(folder)


def test_pairs_by_name_need_two_lines(tmp_path: Path) -> None:
    text = "a.jpg\tq\tYes\tyes\nb.jpg\tq\tNo\tno\n"
    folder = write_results(tmp_path / "results", {"color": text})
    assert mme.score_file(folder / "color.txt").score == 200
    with pytest.raises(InputError, match="name the picture a.jpg: 1; lmms_eval pairs"):
        mme.score_file(folder / "color.txt", "lmms_eval")
    (folder / "color.txt").write_text(text.replace("b.jpg", "a.jpg") * 2, encoding="utf-8")
    assert mme.score_file(folder / "color.txt", "vlmevalkit").score == 200
    with pytest.raises(InputError, match="name the picture a.jpg: 4"):
        mme.score_file(folder / "color.txt", "lmms_eval")


def test_no_parseable_answer_is_zero_elsewhere(tmp_path: Path) -> None:
    path = write_results(tmp_path / "results", {"color": "a\tq\tYes\t?\na\tq\tNo\t?\n"}) / "color.txt"
    assert mme.score_file(path, "vlmevalkit") == mme.SubtaskScore(0, 0, 2, 2)


def test_prompts() -> None:
    question = "Is there a cat in this image? Please answer yes or no."
    assert mme.prompt(question) == mme.prompt(question, "vlmevalkit") == question
    assert mme.prompt(question, "lmms_eval") == (
        "Is there a cat in this image?\nAnswer the question using a single word or phrase.")


def write_release(folder: Path) -> Path:
    for name in mme.SUBTASKS:
        flat = name not in ("artwork", "celebrity", "landmark", "posters", "scene")
        images, texts = (folder / name, folder / name) if flat else (
            folder / name / "images", folder / name / "questions_answers_YN")
        images.mkdir(parents=True)
        texts.mkdir(exist_ok=True)
        (images / "0001.png").write_bytes(b"a picture")
        (texts / "0001.txt").write_text("Is it?\tYes\nIs it not?\tNo\n", encoding="utf-8")
    return folder


def test_load_the_release(tmp_path: Path) -> None:
    questions = mme.load(write_release(tmp_path / "release"))
    assert len(questions) == 2 * 14
    assert questions[1] == mme.MMEQuestion("existence/0001.png/2", "existence",
                                           tmp_path / "release/existence/0001.png", "Is it not?", "no")
    by_subtask = {question.subtask: question.image for question in questions}
    assert by_subtask["scene"] == tmp_path / "release/scene/images/0001.png"


def test_load_the_list_of_the_eval_tool(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")
    lists = tmp_path / "Your_Results"
    lists.mkdir()
    for name in mme.SUBTASKS:
        (lists / f"{name}.txt").write_text("0001.png\tIs it?\tYes\n0001.png\tIs it not?\tNo\n", encoding="utf-8")
    assert mme.load(lists, release) == mme.load(release)


def test_a_missing_set_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no questions in .*existence.*on request.*MME_Benchmark_release_version"):
        mme.load(tmp_path)
    release = write_release(tmp_path / "release")
    (release / "count/0001.png").unlink()
    with pytest.raises(InputError, match=r"no picture 0001 in release/count"):
        mme.load(release)
    (release / "existence/0001.txt").write_text("Is it?\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"existence/0001.txt line 1: 1 fields"):
        mme.load(release)


def test_written_lines_are_read_again(tmp_path: Path) -> None:
    questions = mme.load(write_release(tmp_path / "release"))[:2]
    path = tmp_path / "existence.txt"
    path.write_text("".join(mme.result_line(question, "yes,\tit\nis") + "\n" for question in questions),
                    encoding="utf-8")
    assert mme.score_file(path) == mme.SubtaskScore(50, 0, 2, 0)
    assert mme.read_results(path)[0] == mme.ResultLine("0001.png", "Is it?", "yes", "yes, it is")
