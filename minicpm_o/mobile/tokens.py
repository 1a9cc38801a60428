"""What an app needs to write and to ask: the bytes of every token, and prompts that are laid out already."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..inputs.messages import ImagePart, Message, TextPart
from ..inputs.processor import Processor
from ..inputs.prompts import CAPTION, NAMING
from ..inputs.text import Tokenizer
from ..model.config import NanoConfig

FILE_NAME = "tokens.bin"
PLAIN = "What is the capital of France?"
"""A question without a picture."""


def token_table(tokenizer: Mapping[str, Any]) -> bytes:
    """For each id in turn the number of its bytes, uint16 with the low byte first, and they themselves: UTF-8 when
    tokens stand together, not always alone. Special tokens have none.

    tokenizer: what `small_tokenizer` wrote.
    """
    letters = {letter: byte for byte, letter in enumerate(byte_letters())}
    silent = set(tokenizer["special"])
    pieces = []
    for token_id, word in enumerate(tokenizer["words"]):
        content = b"" if word is None or token_id in silent else bytes(letters[letter] for letter in word)
        pieces.append(struct.pack("<H", len(content)) + content)
    return b"".join(pieces)


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's rule): what can be printed stands for
    itself, the others for letters from 256 on."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


def ready_prompts(tokenizer: Tokenizer, config: NanoConfig) -> dict[str, dict[str, Any]]:
    """By name: the words of a question and the ids of its whole prompt, with one picture before it or without."""
    from PIL import Image

    processor = Processor(config, tokenizer)
    side = config.vision.image_px
    picture = ImagePart(Image.fromarray(np.zeros((side, side, 3), np.uint8)))
    asked = {"describe": (CAPTION, [picture]), "name": (NAMING, [picture]), "plain": (PLAIN, [])}
    return {name: {"text": text, "pictures": len(media),
                   "ids": processor.prepare([Message("user", (*media, TextPart(text)))]).ids.tolist()}
            for name, (text, media) in asked.items()}
