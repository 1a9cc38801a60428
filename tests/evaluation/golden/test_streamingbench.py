"""StreamingBench against what the official statistics script printed and wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minicpm_o.errors import InputError, OptionError
from minicpm_o.evaluation.official.streamingbench import poll_times, seconds, statistics

from .conftest import cases

ANSWERS = ("input.json", "expected.json")


def test_every_case_has_a_test() -> None:
    assert [case.id for case in cases("streamingbench", *ANSWERS)] == [case.id for case in cases("streamingbench")]


@pytest.mark.parametrize("case", cases("streamingbench", *ANSWERS))
def test_statistics_are_the_official_ones(case: Path) -> None:
    wanted = json.loads((case / "expected.json").read_text(encoding="utf-8"))
    if wanted["returncode"]:
        with pytest.raises(InputError, match=r"input.json .*; expected .*; "):
            statistics(case / "input.json", wanted["task"], wanted["model_key"])
        return
    found = statistics(case / "input.json", wanted["task"], wanted["model_key"])
    assert list(found.stats) == list(wanted["stats"])
    for name, row in wanted["stats"].items():
        assert found.stats[name] == pytest.approx(row, abs=1e-6), name
    assert (found.stdout, found.csv) == (wanted["stdout"], wanted["csv"])


def save(path: Path, *questions: Any) -> Path:
    path.write_text(json.dumps([{"questions": list(questions), "video_path": "v.mp4"}]), encoding="utf-8")
    return path


def test_empty_answer_says_where_and_what_to_do(tmp_path: Path) -> None:
    path = save(tmp_path / "answers.json", {"task_type": "Counting", "answer": "A", "nano": ""})
    with pytest.raises(InputError, match=r"answers.json entry 1 \(v.mp4\) question 1: the answer is empty"):
        statistics(path, "omni", "nano")


def test_no_answers_is_no_score(tmp_path: Path) -> None:
    path = save(tmp_path / "answers.json", {"task_type": "Counting", "answer": "A", "other": "A"})
    found = statistics(path, "real", "nano")
    assert not found.stats and "no question has an answer under the name 'nano'" in found.notes[0]


@pytest.mark.parametrize("answer", [None, {}, {"dialog_history": []}, {"dialog_history": [{"content": "x"}]}])
def test_proactive_without_reply(tmp_path: Path, answer: Any) -> None:
    question = {"task_type": "Proactive Output", "ground_truth_time_stamp": "00:00:20", "ground_truth_output": "x"}
    with pytest.raises(InputError, match="dialog_history"):
        statistics(save(tmp_path / "answers.json", {**question, "nano": answer}), "proactive", "nano")


@pytest.mark.parametrize("text", ["{", "{}", "[[]]", "[1]", '[{"questions": [1]}]', '[{"questions": {}}]'])
def test_files_of_another_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="expected"):
        statistics(path, "real", "nano")


def test_sqa_wants_lists_of_videos(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a list of videos"):
        statistics(save(tmp_path / "answers.json"), "sqa", "nano")


def test_times_and_names() -> None:
    assert seconds("01:02:03") == 3723 and seconds("02:03") == 123
    assert list(poll_times(5, 7)) == [6, 7, 8, 9, 10, 11], "the first look is a second after the request"
    with pytest.raises(InputError, match="HH:MM:SS"):
        seconds("5 s")
    with pytest.raises(OptionError, match="real, omni, sqa, proactive"):
        statistics(Path("x"), "video", "nano")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="cannot read"):
        statistics(Path("not-there.json"), "real", "nano")
