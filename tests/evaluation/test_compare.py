"""Two reports side by side: pairs, intervals, exact tests, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpm_o.errors import InputError
from minicpm_o.evaluation.card import profile, write_card
from minicpm_o.evaluation.compare import compare, mcnemar
from minicpm_o.evaluation.local import run_local


def questions(data: Any, count: int = 12) -> None:
    data.images("images", "1.png")
    data.rows("images_qa.jsonl", [{"id": str(n), "image": "1.png", "type": "yesno", "question": f"Is it {n}?",
                                   "answers": ["yes"]} for n in range(count)])


def report(data: Any, scripted: Any, path: Path, right: int, name: str = "scripted") -> Path:
    answers = {("1.png", f"Is it {n}?"): "yes" if n < right else "no" for n in range(12)}
    run_local(scripted(answers, name=name), data.root, report_path=path)
    return path


def test_a_difference_that_is_no_chance(data: Any, scripted: Any, tmp_path: Path) -> None:
    questions(data)
    found = compare(report(data, scripted, tmp_path / "a.json", 2, "small"),
                    report(data, scripted, tmp_path / "b.json", 11, "large"))
    (line,) = found.differences
    assert (line.n, line.a, line.b) == (12, pytest.approx(2 / 12), pytest.approx(11 / 12))
    assert line.metric == "accuracy"
    assert line.p == pytest.approx(mcnemar(0, 9)) == pytest.approx(2 / 512)
    assert line.interval is not None and line.interval[0] > 0 and line.verdict == "B is better"
    assert "B is large" in found.to_markdown() and "+0.750" in found.to_markdown()
    json.dumps(found.to_dict())


def test_a_difference_that_may_be_chance(data: Any, scripted: Any, tmp_path: Path) -> None:
    questions(data)
    found = compare(report(data, scripted, tmp_path / "a.json", 5), report(data, scripted, tmp_path / "b.json", 6))
    assert found.differences[0].verdict == "no difference shown" and found.differences[0].p == 1.0


def test_what_cannot_be_compared(data: Any, scripted: Any, tmp_path: Path) -> None:
    questions(data)
    first = report(data, scripted, tmp_path / "a.json", 5)
    with pytest.raises(InputError, match="no report .*missing.json"):
        compare(first, tmp_path / "missing.json")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(InputError, match="is not a report"):
        compare(first, tmp_path / "other.json")
    answers = tmp_path / "a.answers.jsonl"
    changed = answers.read_text().replace("Is it 3?", "Was it 3?")
    second = tmp_path / "b.json"
    second.write_text(first.read_text())
    with pytest.raises(InputError, match="answers lie beside"):
        compare(first, second)
    (tmp_path / "b.answers.jsonl").write_text(changed)
    with pytest.raises(InputError, match="different questions"):
        compare(first, second)


def test_items_of_one_report_alone_are_counted(data: Any, scripted: Any, tmp_path: Path) -> None:
    questions(data)
    first, second = report(data, scripted, tmp_path / "a.json", 5), tmp_path / "b.json"
    second.write_text(first.read_text())
    lines = (tmp_path / "a.answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "b.answers.jsonl").write_text("".join(lines[:-2]))
    found = compare(first, second)
    assert found.differences[0].metric == "share_right", "of the ten that both answered, not of the report's twelve"
    assert found.differences[0].n == 10 and any("2 items" in note for note in found.notes)


def test_the_card_is_a_page_with_plots(data: Any, scripted: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    questions(data)
    made = run_local(scripted({}), data.root, blind=True)
    names = [path.name for path in write_card(made, tmp_path / "card")]
    assert names == ["card.md", "card.html", "scores.svg", "seconds.svg"]
    page = (tmp_path / "card" / "card.html").read_text(encoding="utf-8")
    assert "images_qa/yesno" in page and 'src="scores.svg"' in page and "first of the words yes and no" in page
    assert profile(made.tasks) == {}, "where one constant answer is always right, nothing rises above chance"
