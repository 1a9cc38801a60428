"""Training sets and a dictionary to the texts that are spoken: texts.json, a list of {kind, text, val}.

Captions and questions come from the sets' training side, sentences from WordNet's examples, `chat` from `questions`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..labels import sentence
from ..mixture import read_stage, tidy_question
from ..splits import is_validation
from .questions import all_questions
from .work import draws, set_rows, write_json

WORDNET = Path("/usr/share/wordnet")
"""Where Debian's wordnet-base puts WordNet; it is optional."""

_LOG = logging.getLogger("minicpm_o")
_PLAIN = re.compile(r"[A-Za-z ,.'?!-]+")
_EXAMPLE = re.compile(r'"([^"]{20,110})"')


@dataclass(frozen=True)
class Text:
    """Something to say; kept out of training by `splits` as ("speech", text)."""

    kind: str
    text: str
    val: bool


@dataclass(frozen=True)
class TextConfig:
    """How many texts of a kind, and how long, in letters. All chat questions are taken."""

    captions: int = 3900
    questions: int = 1500
    sentences: int = 14_000
    shortest: int = 8
    longest: int = 130
    definition_share: float = 0.05
    """Share of WordNet's definitions that join its examples: they teach rare words."""
    seed: int = 0


def prepare_texts(
    data: Path, out: Path, wordnet: Path = WORDNET, config: TextConfig = TextConfig(), limit: int | None = None
) -> list[Text]:
    """Write texts.json: each text once, at most `limit` of a kind. Raises InputError when a set is missing."""
    sources = (
        ("caption", _captions(data), config.captions),
        ("question", _questions(data), config.questions),
        ("sentence", wordnet_sentences(wordnet, config), config.sentences),
        ("chat", all_questions(), None),
    )
    texts: dict[str, Text] = {}
    for kind, found, count in sources:
        fitting = [t for t in dict.fromkeys(map(sentence, found)) if config.shortest <= len(t) <= config.longest]
        fresh = [text for text in fitting if text not in texts]
        if count is not None:
            fresh = [fresh[i] for i in draws(config.seed, "texts", kind).permutation(len(fresh))[:count]]
        texts |= {text: Text(kind, text, is_validation("speech", text)) for text in fresh[:limit]}
    write_json(out / "texts.json", [asdict(text) for text in texts.values()])
    return list(texts.values())


def read_texts(out: Path, limit: int | None = None) -> list[Text]:
    """The texts that were prepared, at most `limit` of a kind. Raises InputError when they were not."""
    texts = [Text(**entry) for entry in read_stage(out / "texts.json", "texts")]
    kinds = dict.fromkeys(text.kind for text in texts)
    return [text for kind in kinds for text in [text for text in texts if text.kind == kind][:limit]]


def _captions(data: Path) -> Iterator[str]:
    for set_name, file, field in (("flickr8k", "captions.jsonl", "en"), ("coco", "annotations.jsonl", "captions")):
        for row in set_rows(data, set_name, file):
            if not is_validation(set_name, row["image"]):
                yield from row[field]


def _questions(data: Path) -> Iterator[str]:
    """As `mixture` writes them, so that a spoken question finds its pictures."""
    for row in set_rows(data, "daquar", "qa.jsonl"):
        if not is_validation("daquar", row["image"]):
            yield from (tidy_question(question) for question, _ in row["qa"])


def wordnet_sentences(folder: Path, config: TextConfig) -> list[str]:
    """Example sentences and a share of the definitions; none, with a warning, where WordNet is not installed."""
    rng = draws(config.seed, "wordnet")
    found = []
    for gloss in wordnet_glosses(folder):
        found += _EXAMPLE.findall(gloss)
        if rng.random() < config.definition_share:
            found.append(gloss.split(";")[0])
    return [text.strip() for text in found if _PLAIN.fullmatch(text.strip())]


def wordnet_glosses(folder: Path) -> Iterator[str]:
    """What follows the bar in WordNet's data files: a definition, then examples in quotes."""
    files = sorted(folder.glob("data.*"))
    if not files:
        _LOG.warning("WordNet is not in %s: going on without its sentences (Debian: apt-get install wordnet-base; "
                     "or give its folder with --wordnet)", folder)
    for file in files:
        lines = file.read_text(encoding="utf-8", errors="ignore").splitlines()
        yield from (line.partition("|")[2].strip() for line in lines if "|" in line)
