"""`images_qa*.jsonl`: {"image", "type": yesno | open | caption | mcq, "lang", "question", "answers" or "references",
"choices"} -> a line for each type and language, under the file's name.

Questions are asked in the row's own words; the choices of `mcq` are listed under them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.metrics import yes_no
from minicpm_o.evaluation.official.caption import ptb_tokens
from minicpm_o.evaluation.rows import Row
from minicpm_o.evaluation.scoring import CaptionScorer, Scorer, contains_scorer, letter_scorer, yes_no_scorer
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, load_file
from minicpm_o.evaluation.tokenise import character_tokens
from minicpm_o.inputs.prompts import CAPTION_BEAMS, CHOICES


def load(path: Path) -> TaskSet:
    """Tasks STEM/yesno, STEM/open, STEM/caption, STEM/mcq, with _zh for Chinese rows."""
    return load_file(path, _parse, lambda items: _build(path.stem, items))


def _parse(row: Row) -> Iterable[Item]:
    kind, language = row.text("type"), row.text_or("lang", "en")
    if kind not in PARSERS:
        raise InputError(f"type {kind!r} is unknown; known are {', '.join(PARSERS)}")
    image = row.media("image")
    question, expected, choices = PARSERS[kind](row)
    name = row.text_or("id", f"{image.name} {question}")
    yield Item(name, (image,), question, expected, group=image.name, tag=_line(kind, language), choices=choices)


def _line(kind: str, language: str) -> str:
    return kind if language == "en" else f"{kind}_{language}"


Parsed = tuple[str, tuple[str, ...], Mapping[str, str]]


def parse_yes_no(row: Row) -> Parsed:
    """Question and "yes" or "no"."""
    answers = tuple(answer.lower() for answer in row.texts("answers"))
    if len(answers) != 1 or yes_no(answers[0]) != answers[0]:
        raise InputError(f"'answers' is {list(answers)}; expected ['yes'] or ['no']")
    return row.text("question"), answers, {}


def parse_open(row: Row) -> Parsed:
    """Question and accepted answers."""
    return row.text("question"), _not_empty(row, "answers"), {}


def _parse_caption(row: Row) -> Parsed:
    return row.text("question"), _not_empty(row, "references"), {}


def _parse_choice(row: Row) -> Parsed:
    choices = row.fields.get("choices")
    if not isinstance(choices, dict) or not all(len(letter) == 1 for letter in choices):
        raise InputError("'choices' is missing or no object of letters; expected {'A': ..., 'B': ...}")
    letters = _not_empty(row, "answers")
    if not set(letters) <= set(choices):
        raise InputError(f"answers {list(letters)} are not among the choices {sorted(choices)}")
    lines = "\n".join(f"{letter}. {text}" for letter, text in choices.items())
    question = CHOICES.format(question=row.text("question"), choices=lines)
    return question, letters, {letter: str(text) for letter, text in choices.items()}


def _not_empty(row: Row, name: str) -> tuple[str, ...]:
    texts = row.texts(name)
    if not texts:
        raise InputError(f"{name!r} is empty")
    return texts


PARSERS: dict[str, Callable[[Row], Parsed]] = {
    "yesno": parse_yes_no,
    "open": parse_open,
    "caption": _parse_caption,
    "mcq": _parse_choice,
}


def _build(stem: str, items: list[Item]) -> Iterable[Task]:
    for line in sorted({item.tag for item in items}):
        group = tuple(item for item in items if item.tag == line)
        kind, _, language = line.partition("_")
        num_beams = CAPTION_BEAMS if kind == "caption" else 1
        yield Task(f"{stem}/{line}", group, _scorer(kind, language), max_tokens=_MAX_TOKENS[kind], num_beams=num_beams)


_MAX_TOKENS = {"yesno": 8, "open": 32, "caption": 48, "mcq": 16}


def _scorer(kind: str, language: str) -> Scorer:
    if kind == "caption":
        return CaptionScorer(character_tokens if language == "zh" else ptb_tokens)
    return {"yesno": yes_no_scorer, "open": contains_scorer, "mcq": letter_scorer}[kind]()
