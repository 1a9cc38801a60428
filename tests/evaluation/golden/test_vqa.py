"""VQA accuracy, ANLS and relaxed accuracy against the outputs of the official scripts, and what broken files say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from evaluation.golden.conftest import cases

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.vqa import (
    PARSERS,
    SHORT_ANSWER,
    anls,
    anls_scores,
    lavis_answer,
    leave_one_out,
    load_chartqa,
    load_docvqa,
    load_textvqa,
    load_vqa_v2,
    m4c_answer,
    normalised_levenshtein,
    relaxed_correct,
    relaxed_scores,
    textvqa_question,
    textvqa_scores,
    vlmevalkit_answer,
    vqa_accuracy,
    vqa_v2_scores,
)

TEXTVQA_FILES = ("answers.jsonl", "annotations.json")
VQA_V2_FILES = ("results.json", "questions.json", "annotations.json")
CLAIMED = (TEXTVQA_FILES, VQA_V2_FILES, ("table.jsonl",))
COLUMNS = {"m4c_llava": "m4c", "lmms_eval": "lmms_eval", "vlmevalkit": "vlmevalkit"}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


# --- golden cases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("vqa"))
def test_every_case_belongs_to_a_test(case: Path) -> None:
    assert any(all((case / name).is_file() for name in names) for names in CLAIMED), sorted(case.iterdir())


@pytest.mark.parametrize("case", cases("vqa", *TEXTVQA_FILES))
def test_textvqa_scores_as_llava_scores_it(case: Path) -> None:
    expected = read(case / "expected.json")
    if expected["returncode"] != 0:
        with pytest.raises(InputError):
            textvqa_scores(case / "answers.jsonl", case / "annotations.json")
        return
    scores = textvqa_scores(case / "answers.jsonl", case / "annotations.json")
    assert scores.items == pytest.approx(expected["official_item_scores"], abs=1e-9)
    assert scores.value == pytest.approx(expected["official_mean"], abs=1e-9)
    assert f"Samples: {len(scores.items)}\nAccuracy: {100 * scores.value:.2f}%" in expected["stdout"]
    assert scores.name == "vqa_accuracy_m4c"


@pytest.mark.parametrize("case", cases("vqa", *TEXTVQA_FILES))
def test_textvqa_scores_as_vlmevalkit_scores_it(case: Path) -> None:
    expected = read(case / "expected.json")
    if "vlmevalkit_score" not in expected:
        pytest.skip("the case has no VLMEvalKit column")
    scores = textvqa_scores(case / "answers.jsonl", case / "annotations.json", "vlmevalkit")
    assert 100 * scores.value == pytest.approx(expected["vlmevalkit_score"], abs=1e-9)
    assert matches_of_vlmevalkit(case) == expected["vlmevalkit_match_lists"]


def matches_of_vlmevalkit(case: Path) -> list[list[float]]:
    """The leave-one-out accuracies of every answer, before their mean."""
    known = {item["image_id"]: item["answers"] for item in read(case / "annotations.json")["data"]}
    return [
        list(leave_one_out(vlmevalkit_answer(row["text"]), [vlmevalkit_answer(a) for a in known[row["question_id"]]]))
        for row in read_lines(case / "answers.jsonl")
    ]


@pytest.mark.parametrize("case", cases("vqa", *VQA_V2_FILES))
def test_vqa_v2_scores_as_the_tool_scores_it(case: Path) -> None:
    expected = read(case / "expected.json")
    if "overall" not in expected:
        with pytest.raises(InputError):
            vqa_v2_scores(case / "results.json", case / "annotations.json")
        return
    scores = vqa_v2_scores(case / "results.json", case / "annotations.json")
    assert scores.overall == pytest.approx(expected["overall"], abs=1e-9)
    assert scores.per_answer_type == pytest.approx(expected["perAnswerType"], abs=1e-9)
    assert scores.per_question_type == pytest.approx(expected["perQuestionType"], abs=1e-9)
    questions = {str(key): value for key, value in scores.per_question.items()}
    assert questions == pytest.approx(expected["evalQA"], abs=1e-9)
    assert scores.name == "vqa_v2_accuracy_lavis"


@pytest.mark.parametrize("case", cases("vqa", "table.jsonl"))
def test_tables_give_what_every_parser_gives(case: Path) -> None:
    for row in read_lines(case / "table.jsonl"):
        if "answer" in row:
            for column, parser in COLUMNS.items():
                assert PARSERS[parser](row["answer"]) == row[column], (row, column)
        else:
            compare_answers(row)


def compare_answers(row: Mapping[str, Any]) -> None:
    """A row with a reference and a prediction: edit distance, its ratio, and relaxed correctness."""
    said, wanted = row["pred"], row["gt"]
    assert normalised_levenshtein(said, wanted) == pytest.approx(row["anls_vlmevalkit"], abs=1e-9), row
    longest = max(len(said), len(wanted))
    assert normalised_levenshtein(said, wanted) * longest == pytest.approx(row["levenshtein"], abs=1e-9), row
    assert relaxed_correct(said, wanted) == row["relaxed_vlmevalkit"], row


# --- normalisation ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("answer", "m4c", "vlmevalkit"), [
    ("The cat's hat", "cat 's hat", "cat's hat"),
    ("no. 5.", "no 5", "no 5."),
    ("3,000 left-handed/right", "3000 left handed right", "3000 lefthandedright"),
    ("red / blue", "red blue", "red blue"),
    ("couldntve", "couldntve", "couldntve"),
    ("couldnt've and wouldn'tve", "couldn't've and wouldn't've", "couldn't've and wouldn't've"),
    ("yall oclock Im ten", "y'all o'clock im 10", "y'all o'clock im 10"),
    ("somebody'd", "somebodyd", "somebodyd"),
    (". " * 40, ". . . . . . . .", ". . . . . . . ."),
])  # fmt: skip
def test_normalisation_rules(answer: str, m4c: str, vlmevalkit: str) -> None:
    assert (m4c_answer(answer), vlmevalkit_answer(answer)) == (m4c, vlmevalkit)
    assert PARSERS["lmms_eval"](answer) == m4c


def test_lavis_leaves_number_words_of_people_as_they_are(tmp_path: Path) -> None:
    people = [{"answer": word, "answer_id": number} for number, word in enumerate(["two"] * 9 + ["2"])]
    note = {"question_id": 7, "question_type": "how many", "answer_type": "number", "answers": people}
    annotations = write(tmp_path / "annotations.json", {"annotations": [note]})
    scores = vqa_v2_scores(write(tmp_path / "r.json", [{"question_id": 7, "answer": "two"}]), annotations)
    assert lavis_answer("two") == "2"
    assert scores.overall == 30.0  # only the "2" of one person is met, in nine of ten subsets: 9 / 10 * 1 / 3


def test_two_equal_notes_of_one_person_are_left_out_together(tmp_path: Path) -> None:
    """Without an answer_id the tool cannot tell equal answers apart and leaves all of them out."""
    note = {"question_id": 1, "question_type": "is", "answer_type": "yes/no", "answers": [{"answer": "yes"}] * 10}
    annotations = write(tmp_path / "annotations.json", {"annotations": [note]})
    results = write(tmp_path / "results.json", [{"question_id": 1, "answer": "yes"}])
    assert vqa_v2_scores(results, annotations).overall == 0.0


# --- ANLS and relaxed accuracy ----------------------------------------------------------------------------------


def test_anls_at_one_half_differs_between_paper_and_scripts() -> None:
    assert anls("ab", ["cb"]) == anls("ab", ["cb"], "lmms_eval") == 0.5
    assert anls("ab", ["cb"], "paper") == 0.0
    assert anls("abc", ["xyz", "ABC "], "paper") == 1.0
    assert anls_scores("vlmevalkit", ["abcd", "a"], [["abcx"], ["z"]]).items == (0.75, 0.0)
    assert anls_scores("paper", ["a"], [["a"]]).name == "anls_paper"


def test_anls_of_scripts_divides_by_the_length_with_blanks() -> None:
    assert normalised_levenshtein("a   b", "a c") == pytest.approx(1 / 5)
    assert normalised_levenshtein("a   b", "a c", "paper") == pytest.approx(1 / 3)
    assert normalised_levenshtein("", "") == 0.0


@pytest.mark.parametrize(("prediction", "reference", "right"), [
    ("105", "100", True), ("105.1", "100", False), ("0.5", "50%", True), ("0", "0.0", False), ("0.0", "0.0", True),
    ("nan", "3", False), ("Yes", "yes", True), (" yes", "yes", False), ("1,000", "1000", False), ("-5", "-5.2", True),
])  # fmt: skip
def test_relaxed_correct(prediction: str, reference: str, right: bool) -> None:
    assert relaxed_correct(prediction, reference) is right


def test_vlmevalkit_strips_the_prediction_before_the_relaxed_rule() -> None:
    assert relaxed_scores("vlmevalkit", [" yes"], [["yes"]]).value == 1.0
    assert relaxed_scores("lmms_eval", [" yes"], [["yes"]]).value == 0.0
    assert relaxed_scores("lmms_eval", ["yes"], [["no", "yes"]]).name == "relaxed_accuracy_lmms_eval"


# --- broken files -----------------------------------------------------------------------------------------------


def textvqa_files(folder: Path, answers: str, people: int = 10) -> tuple[Path, Path]:
    data = {"data": [{"image_id": "a", "question": "What?", "answers": ["x"] * people}]}
    (folder / "answers.jsonl").write_text(answers, encoding="utf-8")
    return folder / "answers.jsonl", write(folder / "annotations.json", data)


GOOD_ANSWER = json.dumps({"question_id": "a", "prompt": "What?" + SHORT_ANSWER, "text": "X."})


@pytest.mark.parametrize(("answers", "people", "message"), [
    ("", 10, "no predictions to take the mean of"),
    (GOOD_ANSWER + "\n\n", 10, "line 2: the line is blank.*stops there too"),
    (GOOD_ANSWER, 9, "line 1.*9 human answers.*for 10"),
    (GOOD_ANSWER.replace("What?", "Who?"), 10, "no question 'who\\?' for image 'a'"),
    (GOOD_ANSWER.replace("\\n", " "), 10, "'prompt' is .*expected the question"),
    (GOOD_ANSWER.replace('"text"', '"answer"'), 10, "no field 'text' .fields: answer, prompt, question_id."),
    ("[]", 10, "line 1: \\[\\]; expected one JSON object"),
])  # fmt: skip
def test_broken_textvqa_files_say_what_is_wrong(tmp_path: Path, answers: str, people: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        textvqa_scores(*textvqa_files(tmp_path, answers, people))


def test_only_the_m4c_rule_needs_ten_people(tmp_path: Path) -> None:
    assert textvqa_scores(*textvqa_files(tmp_path, GOOD_ANSWER + "\n")).value == 1.0
    assert textvqa_scores(*textvqa_files(tmp_path, GOOD_ANSWER, people=5), "vlmevalkit").value == 1.0


@pytest.mark.parametrize(("prompt", "question"), [
    ("OCR tokens: a, b. Question: Which One? Short answer:", "which one?"),
    ("Reference OCR token: a\nWhich One?\nShort", "which one?"),
    ("Which One?\nReference OCR token: a\nShort", "which one?"),
    ("Which One?\nShort", "which one?"),
])  # fmt: skip
def test_the_question_of_every_llava_prompt_is_found(prompt: str, question: str) -> None:
    assert textvqa_question(prompt, "answers.jsonl line 1") == question


@pytest.mark.parametrize(("results", "message"), [
    ({}, "holds a JSON dict; expected a list"),
    ([], "1 questions of the annotations have no answer \\(1\\) and 0"),
    ([{"question_id": 1, "answer": "a"}, {"question_id": 2, "answer": "a"}], "1 answers are for no question there"),
    ([{"question_id": 1, "answer": 5}], "item 1: 'answer' is 5; expected str"),
])  # fmt: skip
def test_broken_vqa_v2_results_say_what_is_wrong(tmp_path: Path, results: object, message: str) -> None:
    note = {"question_id": 1, "question_type": "is", "answer_type": "other", "answers": [{"answer": "a"}]}
    annotations = write(tmp_path / "annotations.json", {"annotations": [note]})
    with pytest.raises(InputError, match=message):
        vqa_v2_scores(write(tmp_path / "results.json", results), annotations)


def test_unknown_parsers_and_lengths_that_differ_are_errors() -> None:
    with pytest.raises(InputError, match="'lavis' is unknown here; known are m4c, lmms_eval, vlmevalkit"):
        vqa_accuracy("lavis", ["a"], [["a"]])
    with pytest.raises(InputError, match="2 predictions but references for 1"):
        vqa_accuracy("m4c", ["a", "b"], [["a"]])
    with pytest.raises(InputError, match="prediction 1, 'a', has no reference"):
        anls_scores("paper", ["a"], [[]])
    with pytest.raises(InputError, match="no predictions to take the mean of"):
        vqa_accuracy("m4c", [], [])


# --- the sets ---------------------------------------------------------------------------------------------------


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_sets_are_read_as_they_are_downloaded(tmp_path: Path) -> None:
    image = touch(tmp_path / "train_images" / "a.jpg")
    write(tmp_path / "TextVQA_0.5.1_val.json", {"data": [{"image_id": "a", "question": "Q?", "answers": ["x"] * 10}]})
    (item,) = load_textvqa(tmp_path)
    assert (item.image, item.prompt) == (image, "Q?" + SHORT_ANSWER)

    image = touch(tmp_path / "val2014" / "COCO_val2014_000000000042.jpg")
    question = {"question_id": 420, "image_id": 42, "question": "Q?"}
    note = {"question_id": 420, "answer_type": "other", "answers": [{"answer": "x"}, {"answer": "y"}]}
    write(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [question]})
    write(tmp_path / "v2_mscoco_val2014_annotations.json", {"annotations": [note]})
    (item,) = load_vqa_v2(tmp_path)
    assert (item.id, item.image, item.answers, item.group) == ("420", image, ("x", "y"), "other")

    image = touch(tmp_path / "documents" / "d.png")
    row = {"questionId": 9, "question": "Q?", "image": "documents/d.png"}
    write(tmp_path / "val_v1.0_withQT.json", {"data": [row | {"answers": ["x"]}]})
    write(tmp_path / "test_v1.0.json", {"data": [row]})
    (item,) = load_docvqa(tmp_path)
    assert (item.id, item.image, item.answers) == ("9", image, ("x",))
    assert load_docvqa(tmp_path, "test")[0].answers == ()

    touch(tmp_path / "test" / "png" / "c.png")
    for group in ("human", "augmented"):
        write(tmp_path / "test" / f"test_{group}.json", [{"imgname": "c.png", "query": "Q?", "label": "5"}])
    assert [(item.group, item.answers) for item in load_chartqa(tmp_path)] == [("human", ("5",)), ("augmented", ("5",))]


@pytest.mark.parametrize(("load", "message"), [
    (load_textvqa, "TextVQA_0.5.1_val.json is not there. Get TextVQA from https://textvqa.org"),
    (load_vqa_v2, "questions.json is not there. Get VQA v2 from https://visualqa.org"),
    (load_docvqa, "is not there. Get DocVQA"),
    (load_chartqa, "test_human.json is not there. Get ChartQA"),
])  # fmt: skip
def test_a_missing_set_says_where_to_get_it(tmp_path: Path, load: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    write(tmp_path / "TextVQA_0.5.1_val.json", {"data": [{"image_id": "a", "question": "Q?", "answers": []}]})
    with pytest.raises(InputError, match="the picture .*a.jpg is not there. Get TextVQA"):
        load_textvqa(tmp_path)
