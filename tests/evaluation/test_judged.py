"""A report's answers to LLaVA-Bench, graded by fixed replies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpm_o.errors import EndpointError, InputError
from minicpm_o.evaluation.judged.llava_bench import grade
from minicpm_o.evaluation.local import run_local
from minicpm_o.evaluation.official.judge import FixedJudge


@pytest.fixture
def bench(data: Any) -> Any:
    data.images("llava-bench-in-the-wild/images", "1.jpg")
    folder = "llava-bench-in-the-wild/"
    data.rows(folder + "questions.jsonl", [
        {"question_id": n, "image": "1.jpg", "text": f"What is {n}?", "category": kind}
        for n, kind in enumerate(("conv", "detail", "complex"))])
    data.rows(folder + "context.jsonl", [{"id": 0, "image": "1.jpg", "caption": "A red square."}])
    data.rows(folder + "answers_gpt4.jsonl", [{"question_id": n, "text": "It is a red square.", "answer_id": f"g{n}"}
                                              for n in range(3)])
    return data


def test_the_proxy_is_named_so_and_the_judge_grades_later(bench: Any, scripted: Any, tmp_path: Path) -> None:
    model = scripted({("1.jpg", f"What is {n}?"): "A red square." for n in range(3)})
    report = tmp_path / "report.json"
    line = run_local(model, bench.root, report_path=report).task("llava_bench_proxy")
    assert line.headline == "keyword_recall_proxy" and line.score == 100.0
    assert any("this is another set" in note for note in run_local(model, bench.root).notes)
    judge = FixedJudge(["8 4\nfine", "10 5\nfine", "6 3\nfine"])
    found = grade(report, bench.root, judge)
    official = found["scores"]["llava_official"]
    assert len(judge.requests) == 3 and found["asked"] == 3
    assert json.dumps(official) and "50.0" in json.dumps(official)
    again = grade(report, bench.root, FixedJudge([]))
    assert again["asked"] == 0 and again["resumed"] == 3 and again["scores"] == found["scores"]


def test_a_judge_that_fails_keeps_what_is_there(bench: Any, scripted: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    run_local(scripted({}), bench.root, report_path=report)
    with pytest.raises(EndpointError, match=r"question 1 \(2 of 3\)"):
        grade(report, bench.root, FixedJudge(["8 4"]))
    assert grade(report, bench.root, FixedJudge(["8 4", "8 4"]))["resumed"] == 1


def test_a_report_of_something_else(bench: Any, scripted: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with pytest.raises(InputError, match="answers lie beside the report"):
        grade(report, bench.root, FixedJudge([]))
    run_local(scripted({}), bench.root, report_path=report)
    answers = tmp_path / "report.answers.jsonl"
    answers.write_text("".join(answers.read_text().splitlines(keepends=True)[:1]))
    with pytest.raises(InputError, match="no answer to .* of 3 questions"):
        grade(report, bench.root, FixedJudge([]))
