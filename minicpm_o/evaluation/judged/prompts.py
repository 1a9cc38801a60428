"""What a judge of VoiceBench is asked: words of this package, or a file's. Other words give other marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.files import needed_text, read_text
from minicpm_o.evaluation.official.voicebench import EvaluatorName
from minicpm_o.evaluation.rows import Row

Origin = Literal["own_prompt", "given_prompt"]
PLACES = re.compile(r"\{(prompt|reference|response)\}")


@dataclass(frozen=True)
class Prompt:
    """A text with the places {prompt}, {response} and, for questions with an answer, {reference}."""

    text: str
    origin: Origin = "own_prompt"
    """Part of every score's name."""

    def filled(self, row: Row) -> str:
        """The text about a row of an answer file; what is filled in is not read again."""
        return PLACES.sub(lambda place: needed_text(row, place.group(1)), self.text)


Prompts = Mapping[EvaluatorName, Prompt]
"""Judged evaluator -> what is asked."""

OWN: Prompts = {
    "open": Prompt(
        "Somebody spoke to a voice assistant and it replied. Grade the reply with a whole number.\n\n"
        "5: does all that was wanted, is true, and wastes no word\n"
        "4: true and to the point, with little left to wish for\n"
        "3: true for the most part, but long-winded or with things that nobody wanted\n"
        "2: touches what was wanted, but something that matters is wrong or missing\n"
        "1: wrong, empty, or about something else\n\n"
        "Spoken to the assistant:\n{prompt}\n\nIts reply:\n{response}\n\nWrite the number and nothing else."),
    "qa": Prompt(
        "A question:\n{prompt}\n\nWhat is right:\n{reference}\n\nWhat somebody replied:\n{response}\n\n"
        "Does the reply give what is right? Write one word, Yes or No, without a full stop."),
}


def read_prompts(paths: Sequence[Path]) -> Prompts:
    """The package's words, replaced by those of files; one that has {reference} is for sd-qa, one without for the open
    sets. Raises InputError for a file without {prompt} and {response}, or for two of a kind."""
    given: dict[EvaluatorName, Prompt] = {}
    for path in paths:
        text = read_text(path, "Give a text with {prompt}, {response} and, for sd-qa, {reference}")
        missing = [place for place in ("{prompt}", "{response}") if place not in text]
        if missing:
            raise InputError(f"{path.name} has no {' and no '.join(missing)}; expected a text with these places, "
                             f"which are filled with the question and the answer")
        kind: EvaluatorName = "qa" if "{reference}" in text else "open"
        if kind in given:
            raise InputError(f"{path.name} is a second prompt {'with' if kind == 'qa' else 'without'} {{reference}}; "
                             f"expected at most one of each kind")
        given[kind] = Prompt(text, "given_prompt")
    return {**OWN, **given}


def origin_of(prompts: Prompts) -> str:
    """How a score that rests on all prompts is named."""
    origins = {prompt.origin for prompt in prompts.values()}
    return origins.pop() if len(origins) == 1 else "mixed_prompts"
