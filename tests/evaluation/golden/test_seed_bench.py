"""SEED-Bench: the recorded outputs of eval.py, LLaVA's converter and lmms-eval; its files, prompts and errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official import seed_bench

from .conftest import cases

RANKING = ("expected.json", "SEED-Bench*.json", "losses.jsonl")
GENERATION = ("expected.json", "SEED-Bench*.json", "answers.jsonl")
PROMPTS = ("expected.json", "questions.jsonl")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def find_questions(case: Path, task: str = "all") -> tuple[seed_bench.SeedQuestion, ...]:
    return seed_bench.load(next(case.glob("SEED-Bench*.json")), task)


def per_cent(tally: seed_bench.Tally) -> str:
    return f"{100 * tally.accuracy:.2f}%"


def read_rates(text: str) -> dict[str, str]:
    """Name -> per cent, of the lines that a script printed."""
    return dict(line.split(": ") for line in text.splitlines() if line.endswith("%"))


@pytest.mark.parametrize("case", cases("seed_bench", *RANKING))
def test_ranking(case: Path) -> None:
    expected = read_json(case / "expected.json")
    questions = find_questions(case, expected["task"])
    assert len(questions) == expected["n_questions"]
    losses = seed_bench.read_losses(case / "losses.jsonl")
    predictions = {identity: seed_bench.rank(values) for identity, values in losses.items()}
    lines = [json.loads(line) for line in seed_bench.result_lines(questions, predictions)]
    assert lines == expected["predictions"]
    for path in case.glob("official_results.jsonl"):
        assert lines == read_lines(path)
        assert seed_bench.score_file(questions, path, strict=False) == seed_bench.score_losses(
            questions, case / "losses.jsonl", strict=False)


@pytest.mark.parametrize("case", cases("seed_bench", *RANKING))
def test_accuracy_of_ranking(case: Path) -> None:
    expected = read_json(case / "expected.json")
    questions, path = find_questions(case, expected["task"]), case / "losses.jsonl"
    printed = read_rates(expected["patched_stdout"])
    scores = seed_bench.score_losses(questions, path, strict=False)
    ours = {f"Data type {number}": per_cent(tally) for number, tally in scores.dimensions.items()}
    if expected["patched_error"]:  # dimensions are printed up to the one without a hit
        assert list(printed.items()) == list(ours.items())[: len(printed)]
        with pytest.raises(InputError, match="losses.jsonl: no answer of dimension"):
            seed_bench.score_losses(questions, path)
    else:
        assert list(printed.items()) == [*ours.items(), ("Total accuracy", per_cent(scores.total))]
        assert seed_bench.score_losses(questions, path) == scores


@pytest.mark.parametrize("case", cases("seed_bench", *GENERATION))
def test_generation_by_llava(case: Path) -> None:
    expected = read_json(case / "expected.json")["llava_converter"]
    names = {number: name for name, number in read_json(next(case.glob("SEED-Bench*.json")))["question_type"].items()}
    questions, path = find_questions(case), case / "answers.jsonl"
    scores = seed_bench.score_file(questions, path, "llava", strict=False)
    ours = {names[number]: per_cent(tally) for number, tally in sorted(scores.dimensions.items())}
    for name, tally in {"Total": scores.total, "image": scores.image, "video": scores.video}.items():
        if tally:
            ours[f"{name} accuracy"] = per_cent(tally)
    printed = read_rates(expected["stdout"])
    assert list(ours.items())[: len(printed)] == list(printed.items())
    if "Total accuracy" in printed:
        assert seed_bench.score_file(questions, path, "llava") == scores
    else:  # the script stopped at a dimension without a hit
        assert expected["returncode"]
        with pytest.raises(InputError, match="answers.jsonl: no answer of dimension"):
            seed_bench.score_file(questions, path, "llava")


@pytest.mark.parametrize("case", cases("seed_bench", *GENERATION))
def test_the_file_for_the_leaderboard(case: Path) -> None:
    questions, answers = find_questions(case), seed_bench.read_answers(case / "answers.jsonl")
    expected = read_json(case / "expected.json")["llava_converter"]
    if {str(question.id) for question in questions} - set(map(str, answers)):
        assert expected["returncode"]
        with pytest.raises(InputError, match="no answer to question"):
            seed_bench.result_lines(questions, answers)
    elif (case / "upload.jsonl").exists():
        lines = seed_bench.result_lines(questions, answers)
        assert lines == (case / "upload.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("case", cases("seed_bench", *GENERATION))
def test_generation_by_lmms_eval(case: Path) -> None:
    expected = read_json(case / "expected.json").get("lmms_eval", {})
    scores = seed_bench.score_file(find_questions(case), case / "answers.jsonl", "lmms_eval")
    ours = {"seed_all": scores.total, "seed_image": scores.image, "seed_video": scores.video}
    for name, value in expected.items():
        assert ours[name] is not None and ours[name].accuracy == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("case", cases("seed_bench", *PROMPTS))
def test_prompts(case: Path, tmp_path: Path) -> None:
    path = tmp_path / "SEED-Bench.json"
    path.write_text(json.dumps(read_lines(case / "questions.jsonl")), encoding="utf-8")
    ours = [{
        "question_id": question.id,
        "lmms_eval_generation_prompt": seed_bench.generation_prompt(question),
        "lmms_eval_ppl_context": seed_bench.ranking_prompt(question, "lmms_eval"),
        "lmms_eval_ppl_choices": list(question.choices),
        "lmms_eval_ppl_target": question.choices["ABCD".index(question.answer)],
    } for question in seed_bench.load(path)]
    assert ours == read_json(case / "expected.json")


@pytest.mark.parametrize("case", cases("seed_bench", *GENERATION))
def test_prompts_of_generation(case: Path) -> None:
    asked = {str(row["question_id"]): row["prompt"] for row in read_lines(case / "answers.jsonl") if "prompt" in row}
    prompts = {str(question.id): seed_bench.generation_prompt(question) for question in find_questions(case)}
    assert {identity: prompts[identity] for identity in asked} == asked


def test_every_case_is_tested() -> None:
    claimed = {case.id for patterns in (RANKING, GENERATION, PROMPTS) for case in cases("seed_bench", *patterns)}
    assert {case.id for case in cases("seed_bench")} == claimed, "some cases are left out"


# --- made files ---------------------------------------------------------------------------------------------------


def record(number: int, dimension: int = 1, **changes: object) -> dict[str, object]:
    return {"question_id": str(number), "question_type_id": dimension,
            "data_type": "image" if dimension < 10 else "video", "question": "What?", "answer": "A", "data_id": "a",
            "choice_a": "one", "choice_b": "two", "choice_c": "three", "choice_d": 4} | changes


def write_set(folder: Path, *records: dict[str, object]) -> Path:
    path = folder / "SEED-Bench.json"
    path.write_text(json.dumps({"question_type": {}, "questions": records}), encoding="utf-8")
    return path


@pytest.mark.parametrize(("losses", "letter"), [
    ([1, 1, 1, 1], "A"), ([float("nan"), 3, 2, 2], "C"), ([float("nan")] * 4, "A"),
    ([float("nan"), float("inf"), float("nan"), float("inf")], "B"), ([0.1, 0.0, -0.0, -1e-9], "D"),
])
def test_rank(losses: list[float], letter: str) -> None:
    assert seed_bench.rank(losses) == letter


def test_a_dimension_without_a_hit(tmp_path: Path) -> None:
    questions = seed_bench.load(write_set(tmp_path, record(1, 3), record(2, 10)))
    with pytest.raises(InputError, match="dimension 10 is right"):
        seed_bench.score(questions, {"1": "A", "2": "B"})
    scores = seed_bench.score(questions, {"1": "A", "2": "B"}, strict=False)
    assert scores.video == seed_bench.Tally(0, 1) and scores.total.accuracy == 0.5
    assert seed_bench.score(questions, {"1": "A"}, "llava") == seed_bench.SeedScores(
        "llava", scores.dimensions, scores.image, scores.video, scores.total)


def test_missing_answers_are_named(tmp_path: Path) -> None:
    questions = seed_bench.load(write_set(tmp_path, record(1), record(2)))
    with pytest.raises(InputError, match="nothing for question '2'"):
        seed_bench.score(questions, {"1": "A"})
    with pytest.raises(InputError, match="nothing for question '1'"):
        seed_bench.score(questions, {}, "lmms_eval")
    assert seed_bench.score(questions, {1: "a) one"}, "lmms_eval").total == seed_bench.Tally(1, 1)


@pytest.mark.parametrize("losses", [None, [1, 2, 3], ["x", 1, 2, 3], 5])
def test_bad_losses_are_named(tmp_path: Path, losses: object) -> None:
    path = tmp_path / "losses.jsonl"
    path.write_text(json.dumps({"question_id": "1", "losses": losses}), encoding="utf-8")
    with pytest.raises(InputError, match="losses.jsonl line 1: 'losses' is .*four numbers"):
        seed_bench.read_losses(path)


def test_load_with_media(tmp_path: Path) -> None:
    path = write_set(tmp_path, record(1), record(2, 12, data_id="v/b.avi", segment=[18, 166]))
    (tmp_path / "a").write_bytes(b"a picture")
    (question,) = seed_bench.load(path, "image", tmp_path)
    assert question == seed_bench.SeedQuestion("1", 1, "image", "What?", ("one", "two", "three", "4"), "A", "a",
                                               tmp_path / "a")
    with pytest.raises(InputError, match=r"no video v/b.avi in .*AILab-CVC/SEED-Bench"):
        seed_bench.load(path, media=tmp_path)
    (video,) = seed_bench.load(path, "12")
    assert video.segment == (18, 166) and video.media is None
    assert seed_bench.ranking_prompt(video) == "Question: What?\nAnswer:"


def test_what_is_wrong_with_a_set_is_named(tmp_path: Path) -> None:
    path = tmp_path / "SEED-Bench.json"
    with pytest.raises(InputError, match=r"no file .*SEED-Bench.json. .*Hugging Face"):
        seed_bench.load(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="is not JSON"):
        seed_bench.load(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="holds no list 'questions'"):
        seed_bench.load(path)
    write_set(tmp_path, record(1), {"question": "What?"})
    with pytest.raises(InputError, match="question 2 has no question_id, question_type_id"):
        seed_bench.load(path)
    write_set(tmp_path, record(1, answer="E"))
    with pytest.raises(InputError, match="question 1: data_type 'image', question_type_id 1, answer 'E'"):
        seed_bench.load(path)
    with pytest.raises(InputError, match="task is 'audio'"):
        seed_bench.load(path, "audio")
