"""`flickr8k/captions.jsonl`: {"image", "en": [captions], "zh": [captions]} -> captions in both languages, and which
English caption belongs to which picture (`retrieval`).

The Chinese line asks in Chinese about the first pictures only: a language part that speaks English alone fails it, and
the line is there to say so, not to cost an hour.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.caption import ptb_tokens
from minicpm_o.evaluation.rows import Row
from minicpm_o.evaluation.scoring import CaptionScorer
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, load_file
from minicpm_o.evaluation.tasks.retrieval import pair_tasks
from minicpm_o.evaluation.tokenise import character_tokens
from minicpm_o.inputs.prompts import CAPTION, CAPTION_BEAMS, CAPTION_ZH

MAX_CHINESE = 50


def load(data_dir: Path) -> TaskSet:
    """Tasks flickr8k/caption, flickr8k/retrieval, flickr8k/matching and flickr8k/caption_zh."""
    return load_file(data_dir / "flickr8k" / "captions.jsonl", _parse, _build)


def _parse(row: Row) -> Iterable[Item]:
    image = row.media("image")
    english = row.texts("en", "captions")
    chinese = row.texts("zh") if "zh" in row.fields else ()
    if not english and not chinese:
        raise InputError("no captions; expected at least one in 'en'")
    if english:
        yield Item(image.name, (image,), CAPTION, english, tag="en")
    if chinese:
        yield Item(image.name, (image,), CAPTION_ZH, chinese, tag="zh")


def _build(items: list[Item]) -> Iterable[Task]:
    english = tuple(item for item in items if item.tag == "en")
    chinese = tuple(item for item in items if item.tag == "zh")
    yield Task("flickr8k/caption", english, CaptionScorer(ptb_tokens), max_tokens=48, num_beams=CAPTION_BEAMS)
    yield from pair_tasks("flickr8k", english)
    note = f"the first {MAX_CHINESE} of {len(chinese)} pictures; CIDEr and ROUGE-L over characters"
    scorer = CaptionScorer(character_tokens)
    yield Task("flickr8k/caption_zh", chinese[:MAX_CHINESE], scorer, max_tokens=48, num_beams=CAPTION_BEAMS,
                   notes=(note,))
