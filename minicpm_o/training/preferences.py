"""Preference pairs from a model's own answers: drawn several times, scored claim by claim, the best against the worst.

    python -m minicpm_o.training.preferences ROWS.jsonl --model MODEL --out PAIRS.jsonl

RLAIF-V (arXiv:2405.17220) splits an answer into claims and has a model check each; here rules check them against what
is known of the prompt (`rewards`), which rows tell as `facts`. Pairs are rows again, for DPO.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.storage import write_atomic
from ..errors import InputError, OptionError
from ..inputs.messages import Message, TextPart
from .data.formats import example_of, located, read_rows
from .examples import Example
from .feeds import NAMED_SKIPS
from .rewards import check_weights, preference_rows
from .sampling import SamplingSettings, sample_answers
from .terms import seed_of
from .trainee import Trainee, open_trainee

MEDIA = ("image", "images", "audio", "audios")
_LOG = logging.getLogger("minicpm_o")


@dataclass(frozen=True)
class PairSettings:
    """How answers are drawn and told apart."""

    weights: Mapping[str, float]
    """Reward -> weight."""
    group: int = 8
    """Answers to a prompt."""
    least_gap: float = 0.1
    """In reward, between the best and the worst; closer ones are no pair."""
    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    prompts: int = 8
    """At once; bounds the memory together with `group`."""


def sample_pairs(trainee: Trainee, examples: Sequence[Example], settings: PairSettings) -> Iterator[Example]:
    """The examples with the model's best answer last and its worst as `rejected`; those without a gap are left out.

    Raises OptionError for unknown rewards, and for facts of which none of them knows anything.
    """
    check_weights(settings.weights)
    for start in range(0, len(examples), settings.prompts):
        asked = examples[start : start + settings.prompts]
        drawn = sample_answers(trainee.model, [trainee.prompt(_question(example)) for example in asked],
                               trainee.end_ids, SamplingSettings(
                                   settings.max_tokens, settings.temperature, seed_of(settings.seed, start),
                                   settings.top_p), settings.group)
        for place, example in enumerate(asked):
            texts = [trainee.said(ids) for ids in drawn[place * settings.group : (place + 1) * settings.group]]
            found = preference_rows({}, [text for text in texts if text], example.facts, settings.weights,
                                    least_gap=settings.least_gap)
            for row in found:
                answer = Message("assistant", (TextPart(row["chosen"]),))
                yield replace(example, messages=(*_question(example), answer), task="preference",
                              rejected=row["rejected"])


def _question(example: Example) -> tuple[Message, ...]:
    """The conversation without its last answer."""
    return example.messages[:-1] if example.messages[-1].role == "assistant" else example.messages


def write_pairs(trainee: Trainee, rows: Path, out: Path, settings: PairSettings) -> tuple[int, int]:
    """Pairs of a .jsonl's rows as another; returns how many prompts there were and how many pairs.

    Rows with one question, media beside it and `facts`; others are named and left out. Raises InputError for a file
    that cannot be read.
    """
    by_name, examples = {}, []
    for number, row in enumerate(read_rows(rows), start=1):
        name = f"{rows.name} line {number}"
        try:
            examples.append(_example(row, rows.parent, name, settings))
            by_name[name] = row
        except InputError as error:
            if number - len(examples) <= NAMED_SKIPS:
                _LOG.warning("skipped %s: %s", name, error)
    lines = [json.dumps(_row(pair, by_name[pair.name], rows.parent), ensure_ascii=False)
             for pair in sample_pairs(trainee, examples, settings)]
    write_atomic(out, (f"{line}\n".encode() for line in lines))
    return len(examples), len(lines)


def _example(row: Mapping[str, Any], folder: Path, name: str, settings: PairSettings) -> Example:
    example = example_of(row, folder, name=name)
    if len(_question(example)) != 1:
        raise InputError(f"the conversation has {len(example.messages)} turns; pairs are made of single questions")
    preference_rows({}, ["a", "b"], example.facts, settings.weights)  # whether the facts say anything
    return example


def _row(pair: Example, row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    media = {kind: [located(item, folder.resolve()) for item in (held if isinstance(held, list) else [held])]
             for kind in MEDIA if (held := row.get(kind)) is not None}
    asked = "\n".join(part.text for part in pair.messages[0].parts if isinstance(part, TextPart))
    return {"prompt": asked, **media, "chosen": pair.messages[-1].parts[0].text, "rejected": pair.rejected,
            "facts": dict(pair.facts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reward", action="append", metavar="NAME=WEIGHT", help="facts=1 where none is given")
    for name in ("group", "max_tokens", "seed"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(PairSettings, name))
    for name in ("least_gap", "temperature", "top_p"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(PairSettings, name))
    args = vars(parser.parse_args())
    rows, model, out, given = (args.pop(name) for name in ("rows", "model", "out", "reward"))
    asked, pairs = write_pairs(open_trainee(model), rows, out, PairSettings(weights_of(given or ["facts=1"]), **args))
    print(f"{pairs} pairs of {asked} prompts: {out}")


def weights_of(given: Sequence[str]) -> dict[str, float]:
    """["facts=1", ...] -> by name. Raises OptionError."""
    try:
        return {name: float(weight) for name, weight in (item.split("=", 1) for item in given)}
    except ValueError as error:
        raise OptionError(f"--reward {' '.join(given)}: expected NAME=WEIGHT, as facts=1") from error


if __name__ == "__main__":
    main()
