"""Everything that a page or an app must know in numbers and words and Python knows already, as one JSON file.

So each is written down once: special tokens, prompts, shapes, when a window's text is believed, when speech begins.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ..inputs import prompts
from ..inputs.image import MAX_PIXELS, MEAN, SHRINK_PIXELS, STD
from ..inputs.processor import HEARD, HEARD_NOTHING
from ..inputs.text import SPECIAL_STRINGS, Tokenizer
from ..model.config import NanoConfig
from ..runtime.beam import BeamConfig
from ..runtime.parts import AnswerDefaults
from ..runtime.transcribe import RecogniserConfig, Vocabulary
from ..runtime.vad import DetectorConfig

FILE_NAME = "config.json"


def tables(folder: Path, config: NanoConfig) -> dict[str, Any]:
    """The tables of a model whose tokenizers lie in `folder`."""
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    special = tokenizer.special
    return {
        "config": config.to_dict(),
        "special": {name: getattr(special, name) for name in SPECIAL_STRINGS},
        "eos": [special.im_end, special.endoftext],
        "banned": [special.im_start, *special.markers],
        "answer": {"max_tokens": AnswerDefaults().max_tokens},
        "beams": {"count": prompts.CAPTION_BEAMS, "length_penalty": BeamConfig().length_penalty},
        "prompts": {"caption": prompts.CAPTION, "heard": HEARD, "heard_nothing": HEARD_NOTHING},
        "image": {"mean": MEAN, "std": STD, "max_pixels": MAX_PIXELS, "shrink_pixels": SHRINK_PIXELS},
        "recogniser": {**dataclasses.asdict(RecogniserConfig()), **_recogniser_ids(folder)},
        "detector": dataclasses.asdict(DetectorConfig()),
    }


def _recogniser_ids(folder: Path) -> dict[str, Any]:
    """The recogniser's tokens by what they do, and the prompt of every language."""
    words = Vocabulary.from_files(folder / "recogniser_tokenizer.json", folder / "recogniser_config.json")
    return {
        "start": words.start, "end": words.end, "no_speech_id": words.no_speech,
        "suppressed": words.suppressed.tolist(), "not_first": words.not_first.tolist(),
        "languages": {code: {"id": number, "prompt": words.prompt(code)} for code, number in words.languages.items()},
    }


def small_tokenizer(path: Path) -> bytes:
    """What is needed of a tokenizer.json: words in the order of their ids, merges in the order of their rank."""
    values = json.loads(path.read_text(encoding="utf-8"))
    words = {**values["model"]["vocab"], **{token["content"]: token["id"] for token in values["added_tokens"]}}
    listed: list[str | None] = [None] * (max(words.values()) + 1)
    for word, number in words.items():
        listed[number] = word
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in values["model"]["merges"]]
    small = {"words": listed, "merges": merges, "special": [token["id"] for token in values["added_tokens"]]}
    return json.dumps(small, ensure_ascii=False, separators=(",", ":")).encode()
