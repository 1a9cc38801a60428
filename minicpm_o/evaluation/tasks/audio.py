"""`audio*.jsonl`: {"audio", "task", "lang", "transcript", "label", "caption", "expected_keywords_any"} -> lines.

asr: as in `speech`. digit: as in `fsdd`. keyword, sound-event: the label in the answer. audio-caption: ROUGE-L.
spoken-question: keywords in the answer, where the row has any (with and without the recogniser's text), and the
recogniser's error rate over all of them. spoken-image-question: the rows name no picture, so only the recogniser's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.caption import ptb_tokens
from minicpm_o.evaluation.rows import Row, read_rows
from minicpm_o.evaluation.scoring import CaptionScorer, contains_scorer, keyword_scorer
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, task_set
from minicpm_o.evaluation.tasks.fsdd import digit_tasks, parse_digit
from minicpm_o.evaluation.tasks.speech import asr_tasks, parse_speech, transcribe_tasks
from minicpm_o.inputs.prompts import KEYWORD, SOUND_CAPTION, SOUND_EVENT, SPOKEN_QUESTION

KINDS = ("asr", "digit", "keyword", "sound-event", "audio-caption", "spoken-question", "spoken-image-question")

Tagged = tuple[str, Item]
"""Name of a line (before language) and one of its items."""


def load(path: Path) -> TaskSet:
    """Tasks STEM/asr_transcribe, STEM/asr_ears, STEM/digit, STEM/keyword, STEM/spoken-question and so on."""
    tagged, bad = read_rows(path, _parse)
    return task_set(path, _build(path.stem, tagged), bad, _notes(path.stem, tagged))


def _parse(row: Row) -> Iterable[Tagged]:
    kind = row.text("task")
    if kind not in KINDS:
        raise InputError(f"task {kind!r} is unknown; known are {', '.join(KINDS)}")
    if kind == "digit":
        yield from ((kind, item) for item in parse_digit(row))
    elif kind == "asr":
        yield from ((kind, item) for item in parse_speech(row))
    elif kind.startswith("spoken"):
        yield from ((f"{kind}_heard", item) for item in parse_speech(row))
        yield from _spoken_question(row) if kind == "spoken-question" else ()
    else:
        yield kind, _labelled(row, kind)


def _spoken_question(row: Row) -> Iterable[Tagged]:
    audio = row.media("audio")
    keywords = row.texts("expected_keywords_any")
    language = row.text_or("lang", "en")
    yield "spoken-question", Item(audio.name, (audio,), SPOKEN_QUESTION, keywords, tag=language)


def _labelled(row: Row, kind: str) -> Item:
    audio = row.media("audio")
    question, name = {
        "keyword": (KEYWORD, "label"),
        "sound-event": (SOUND_EVENT, "label"),
        "audio-caption": (SOUND_CAPTION, "caption"),
    }[kind]
    return Item(audio.name, (audio,), question, (row.text(name),))


def _build(stem: str, tagged: list[Tagged]) -> Iterable[Task]:
    lines: dict[str, list[Item]] = {}
    for name, item in tagged:
        lines.setdefault(name, []).append(item)
    yield from asr_tasks(stem, lines.get("asr", []))
    yield from digit_tasks(stem, lines.get("digit", []))
    for name in ("keyword", "sound-event"):
        yield Task(f"{stem}/{name}", tuple(lines.get(name, [])), contains_scorer())
    captions = tuple(lines.get("audio-caption", []))
    yield Task(f"{stem}/audio-caption", captions, CaptionScorer(ptb_tokens, with_cider=False), 48)
    yield from _question_tasks(stem, lines.get("spoken-question", []))
    for name in ("spoken-question", "spoken-image-question"):
        yield from transcribe_tasks(f"{stem}/{name}_transcribe", lines.get(f"{name}_heard", []))


def _question_tasks(stem: str, items: list[Item]) -> Iterable[Task]:
    for language in sorted({item.tag for item in items}):
        group = tuple(item for item in items if item.tag == language and item.expected)
        suffix = "" if language == "en" else f"_{language}"
        name = f"{stem}/spoken-question"
        yield Task(f"{name}{suffix}", group, keyword_scorer(), 64)
        yield Task(f"{name}_ears{suffix}", group, keyword_scorer(), 64, transcript=False)


def _notes(stem: str, tagged: list[Tagged]) -> tuple[str, ...]:
    free = sum(name == "spoken-question" and not item.expected for name, item in tagged)
    pictures = sum(name == "spoken-image-question_heard" for name, _ in tagged)
    notes = []
    if free:
        notes.append(f"{stem}/spoken-question: {free} rows accept any answer (no keywords) and are not asked")
    if pictures:
        notes.append(f"{stem}/spoken-image-question: {pictures} rows name no picture; only transcribed")
    return tuple(notes)
