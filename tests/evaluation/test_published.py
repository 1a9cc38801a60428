"""Published benchmarks from folders of the official shape to the report; a right answer scores as the paper says."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from minicpm_o.errors import InputError
from minicpm_o.evaluation.local import run_local
from minicpm_o.evaluation.official.mme import SUBTASKS
from minicpm_o.evaluation.official.seed_bench import SeedQuestion
from minicpm_o.evaluation.tasks.seed_bench import tasks as seed_tasks


class Knowing:
    """Answers by the words of the question, and finds the listed texts likeliest."""

    name = "knowing"

    def __init__(self, answer: Any, likely: tuple[str, ...] = ()) -> None:
        self.answer = answer
        self.likely = likely

    def chat(self, messages: list[dict[str, Any]], **_: Any) -> str:
        parts = messages[0]["content"]
        seen = any(part["type"] != "text" for part in parts)
        return str(self.answer(parts[-1]["text"], seen))

    def losses(self, messages: Any, texts: list[str], *, transcript: bool = True) -> list[Any]:
        from types import SimpleNamespace

        return [SimpleNamespace(loss=0.1 if text in self.likely else 5.0, num_tokens=len(text.split()))
                for text in texts]

    def transcribe(self, source: Any, **_: Any) -> str:
        return ""


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)


def encoded() -> str:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def mme_folder(root: Path, pictures: int = 2) -> Path:
    for name in SUBTASKS:
        for number in range(pictures):
            path = root / "MME_Benchmark_release_version" / name / f"{number}.jpg"
            picture(path)
            path.with_suffix(".txt").write_text("Is it red? Please answer yes or no.\tYes\n"
                                                "Is it blue? Please answer yes or no.\tNo\n", encoding="utf-8")
    return root


def test_mme_of_right_answers_is_2800_and_of_one_answer_700(tmp_path: Path) -> None:
    mme_folder(tmp_path)
    right = Knowing(lambda words, seen: "yes" if "red" in words else "No.")
    line = run_local(right, tmp_path).task("mme")
    assert line.headline == "total_official" and line.score == 2800 and line.n == 56
    assert line.metrics["perception_vlmevalkit"] == 2000 and line.metrics["cognition_lmms_eval"] == 800
    assert line.metrics["OCR_official"] == 200 and line.interval == (2800, 2800)
    assert line.chance == 1050, "a coin beats the constant answer's 700"
    constant = run_local(Knowing(lambda words, seen: "Yes"), tmp_path).task("mme")
    assert constant.score == 700
    silent = run_local(Knowing(lambda words, seen: "Blue."), tmp_path).task("mme")
    assert silent.score == 0, "the official script stops here; the report counts nothing"


def test_a_limit_keeps_both_questions_on_a_picture(tmp_path: Path) -> None:
    mme_folder(tmp_path, pictures=1)
    line = run_local(Knowing(lambda words, seen: "Yes"), tmp_path, limit=6).task("mme")
    assert line.n == 6 and line.score == pytest.approx(3 * 50)


def test_pope_splits_and_parsers(tmp_path: Path) -> None:
    picture(tmp_path / "val2014" / "COCO_val2014_000000000001.jpg")
    things = [("cat", "yes"), ("dog", "no")] * 3
    rows = [{"question_id": number, "image": "COCO_val2014_000000000001.jpg", "label": label,
             "text": f"Is there a {thing} in the image?"} for number, (thing, label) in enumerate(things, start=1)]
    for split in ("random", "popular"):
        path = tmp_path / "pope" / f"coco_pope_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = run_local(Knowing(lambda words, seen: "Yes, there is." if "cat" in words else "No."), tmp_path, blind=True)
    line = report.task("pope/random")
    assert line.metrics["f1_official"] == 1.0 and line.metrics["f1_lmms_eval"] == 0.0, "the whole answer must be yes"
    assert line.chance == pytest.approx(2 / 3) and line.blind["f1_official"] == 1.0
    assert report.task("pope/popular").n == 6
    never = run_local(Knowing(lambda words, seen: "no"), tmp_path).task("pope/random")
    assert never.metrics["f1_official"] == 0.0 and never.metrics["accuracy_official"] == 0.5


def seed_folder(root: Path) -> Path:
    questions = [{"question_id": str(number), "question_type_id": 5, "data_type": "image", "question": "How many?",
                  "choice_a": "One", "choice_b": "Two or three", "choice_c": "Four", "choice_d": "Five",
                  "answer": answer, "data_id": "1.jpg"} for number, answer in enumerate("BBA")]
    picture(root / "SEED-Bench-image" / "1.jpg")
    (root / "SEED-Bench.json").write_text(json.dumps({"question_type": {"Counting": 5}, "questions": questions}),
                                          encoding="utf-8")
    return root


def test_seed_bench_ranks_and_generates(tmp_path: Path) -> None:
    model = Knowing(lambda words, seen: "b" if seen else "The", likely=("Two or three",))
    report = run_local(model, seed_folder(tmp_path), blind=True)
    rank, generate = report.task("seed_bench/rank"), report.task("seed_bench/generate")
    assert rank.metrics["total_official"] == pytest.approx(2 / 3) == rank.metrics["dimension_5_official"]
    assert generate.metrics["total_lmms_eval"] == pytest.approx(2 / 3) and generate.metrics["total_llava"] == 0.0
    assert generate.blind["total_lmms_eval"] == 0.0 and generate.chance == pytest.approx(2 / 3)
    assert any("videos are left out" in note for note in report.notes)


def test_seed_bench_shows_the_part_of_a_video_that_is_asked_about() -> None:
    def question(dimension: int, segment: tuple[float, float] | None) -> SeedQuestion:
        return SeedQuestion(str(dimension), dimension, "video", "What next?", tuple("abcd"), "A", "v", Path("v.mp4"),
                            segment)

    asked = [question(10, None), question(11, (2.5, 4.0)), question(12, (30, 75))]
    for task in seed_tasks(asked):
        assert [item.media[0].window for item in task.items] == [None, (2.5, 4.0), (2.0, 5.0)]


def test_a_model_without_losses_is_told(tmp_path: Path) -> None:
    class Silent:
        name = "silent"

        def chat(self, messages: Any, **_: Any) -> str:
            return "A"

        def transcribe(self, source: Any, **_: Any) -> str:
            return ""

    report = run_local(Silent(), seed_folder(tmp_path))
    assert [line.name for line in report.tasks] == ["seed_bench/generate"]
    assert any("seed_bench/rank: left out, silent does not tell" in note for note in report.notes)


def test_mmbench_counts_only_questions_right_in_every_rotation(tmp_path: Path) -> None:
    columns = ["index", "question", "hint", "A", "B", "C", "answer", "category", "l2-category", "split", "image"]
    row = ["7", "What is it?", "", "cat", "dog", "cow", "B", "animals", "things", "dev", encoded()]
    (tmp_path / "MMBench_DEV_EN.tsv").write_text("\t".join(columns) + "\n" + "\t".join(row) + "\n", encoding="utf-8")

    def knows(words: str, seen: bool) -> str:
        return next(line[0] for line in words.splitlines() if line.endswith(". dog"))

    line = run_local(Knowing(knows), tmp_path).task("mmbench/MMBench_DEV_EN")
    assert line.n == 3 and line.metrics["circular_vlmevalkit"] == 1.0
    always_b = run_local(Knowing(lambda words, seen: "B"), tmp_path).task("mmbench/MMBench_DEV_EN")
    assert always_b.metrics["circular_vlmevalkit"] == 0.0 and always_b.metrics["vanilla_vlmevalkit"] == 1.0


def test_ocrbench_and_textvqa(tmp_path: Path) -> None:
    columns = ["index", "image", "question", "answer", "category"]
    row = ["1", encoded(), "What is written?", "['STOP']", "Regular Text Recognition"]
    (tmp_path / "OCRBench.tsv").write_text("\t".join(columns) + "\n" + "\t".join(row) + "\n", encoding="utf-8")
    picture(tmp_path / "textvqa" / "train_images" / "ab.jpg")
    (tmp_path / "textvqa" / "TextVQA_0.5.1_val.json").write_text(json.dumps({"data": [
        {"image_id": "ab", "question_id": 3, "question": "What does it say?", "answers": ["stop"] * 10}]}))
    report = run_local(Knowing(lambda words, seen: "Stop"), tmp_path)
    assert report.task("ocrbench").metrics["share_vlmevalkit"] == 1.0
    assert report.task("textvqa").metrics["vqa_accuracy_m4c"] == 1.0


def test_a_broken_set_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    mme_folder(tmp_path)
    (tmp_path / "MME_Benchmark_release_version" / "OCR" / "0.txt").write_text("Is it?\tMaybe\n", encoding="utf-8")
    seed_folder(tmp_path)
    report = run_local(Knowing(lambda words, seen: "A"), tmp_path)
    assert [line.name for line in report.tasks] == ["seed_bench/rank", "seed_bench/generate"]
    assert len(report.bad_rows) == 1 and "OCR" in report.bad_rows[0].reason


@pytest.mark.parametrize("name", ["mme", "pope", "mmbench", "ocrbench", "textvqa", "docvqa", "chartqa", "vqa_v2"])
def test_a_missing_set_says_where_it_is_had(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"does not hold .*\."):
        run_local(Knowing(lambda words, seen: "A"), seed_folder(tmp_path), tasks=[name])
