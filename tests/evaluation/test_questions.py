"""Everyday questions, typed and spoken: the same rows, so that the lines can be compared."""

from __future__ import annotations

from typing import Any

from minicpm_o.evaluation.tasks import load_tasks
from minicpm_o.inputs.prompts import SPOKEN_QUESTION


def test_spoken_rows_are_asked_three_ways(data: Any) -> None:
    data.sounds("questions/audio", "1.wav")
    data.rows("questions/qa.jsonl", [
        {"question": "How many days has a week?", "answers": ["7"], "audio": "audio/1.wav"},
        {"question": "Name two colours.", "answers": ["red", "blue", "green"], "at_least": 2},
        {"question": "Name two colours.", "answers": ["red"], "at_least": 2},
    ])
    found = load_tasks(data.root)
    tasks = {task.name: task for task in found.tasks}
    assert [len(tasks[f"questions/{name}"].items) for name in ("typed", "typed_spoken", "spoken", "spoken_ears")] == [
        2, 1, 1, 1]
    assert not any(item.media for item in tasks["questions/typed"].items), "a typed question has no sound"
    assert tasks["questions/spoken_ears"].items[0].question == SPOKEN_QUESTION, "the question itself is only heard"
    assert not tasks["questions/spoken_ears"].transcript and tasks["questions/spoken"].transcript
    assert [bad.line for bad in found.bad_rows] == [3], "two of one answer cannot be named"


def test_as_many_answers_as_are_asked_for_must_be_named(data: Any) -> None:
    data.rows("questions/qa.jsonl", [
        {"question": "Name two colours.", "answers": ["red", "blue", "green"], "at_least": 2}])
    (task,) = [task for task in load_tasks(data.root).tasks if task.name == "questions/typed"]
    said = ("Red and green.", "Red, and red again.", "None.")
    assert [task.scorer.judge(task.items[0], text)["correct"] for text in said] == [True, False, False]
