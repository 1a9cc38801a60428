"""`video*.jsonl`: {"video", "qa": [{"id", "time", "question", "answers"}]} -> yes/no and open questions on clips.

A question with a time is asked with that second in its words. Those of type "proactive" are requests ("Say stop when
the light is red."), told to a live session before the clip runs through it; `ground_truth_time_stamp` (HH:MM:SS) and
`ground_truth_output` say when it is time for which words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import contains_answer, yes_no
from minicpm_o.evaluation.moments import Moment
from minicpm_o.evaluation.official.streamingbench import seconds
from minicpm_o.evaluation.rows import Media, Row, read_rows
from minicpm_o.evaluation.scoring import Question, contains_scorer, yes_no_scorer
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, task_set
from minicpm_o.evaluation.tasks.timed import timed_scorer
from minicpm_o.inputs.prompts import VIDEO_TIME

PROACTIVE = "proactive"
PROACTIVE_RULE = "what is said first comes within 2 s of the time and holds the expected words (word boundaries)"


def load(path: Path) -> TaskSet:
    """Tasks STEM/yesno, STEM/open and STEM/proactive."""
    items, bad = read_rows(path, _parse)
    return task_set(path, _build(path.stem, items), bad)


def _parse(row: Row) -> Iterable[Item]:
    video = row.media("video")
    questions = row.fields.get("qa")
    if not isinstance(questions, list) or not all(isinstance(question, dict) for question in questions):
        raise InputError("expected 'qa': a list of objects with 'question' and 'answers'")
    for number, fields in enumerate(questions):
        yield _item(replace(row, fields=fields), video, number)


def _item(question: Row, video: Media, number: int) -> Item:
    words = question.text("question")
    name = question.text_or("id", f"{video.name} {number}")
    if question.text_or("type", "") == PROACTIVE:
        return _request(question, name, video, words)
    time_s = question.fields.get("time")
    if time_s is not None and not isinstance(time_s, (int, float)):
        raise InputError(f"'time' is {time_s!r}; expected seconds or null")
    answers = question.texts("answers")
    if not answers:
        raise InputError(f"question {number} has no answers")
    asked = words if time_s is None else VIDEO_TIME.format(time_s=time_s, question=words)
    kind = "yesno" if len(answers) == 1 and yes_no(answers[0]) == answers[0] else "open"
    return Item(name, (video,), asked, answers, group=video.name, tag=kind)


def _request(question: Row, name: str, video: Media, words: str) -> Item:
    """Asked as the clip begins."""
    moment = Moment(0.0, seconds(question.text("ground_truth_time_stamp")))
    return Item(name, (video,), words, (question.text("ground_truth_output"),), group=video.name, tag=PROACTIVE,
                moment=moment)


def _build(stem: str, items: list[Item]) -> Iterable[Task]:
    yield Task(f"{stem}/yesno", tuple(item for item in items if item.tag == "yesno"), yes_no_scorer(), 8)
    yield Task(f"{stem}/open", tuple(item for item in items if item.tag == "open"), contains_scorer(), 32)
    yield Task(f"{stem}/proactive", tuple(item for item in items if item.tag == PROACTIVE),
               timed_scorer(_holds, PROACTIVE_RULE), 32, verb="live")


def _holds(item: Question, words: str) -> bool:
    return contains_answer(words, item.expected[0])
