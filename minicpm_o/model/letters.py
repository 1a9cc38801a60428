"""The letters that nano's own ears write, as classes of CTC (Graves et al. 2006). Knows no sounds and no network."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

BLANK = 0
"""Class for nothing new."""
SPACE = " "
LETTERS = SPACE + "'abcdefghijklmnopqrstuvwxyz"
"""Letter number n is class n + 1."""
NUM_CLASSES = len(LETTERS) + 1
START = "<s>"
"""Stands before the first word where pairs of words are counted."""


def spoken_words(text: str) -> list[str]:
    """Words as they sound: small letters and apostrophes."""
    return re.sub(r"[^a-z' ]+", SPACE, text.lower()).split()


def spell(text: str) -> list[int]:
    """Classes of a text's letters, one space between words and none around them."""
    return [LETTERS.index(letter) + 1 for letter in SPACE.join(spoken_words(text))]


def read_path(path: Iterable[int]) -> str:
    """CTC's path, a class per step, as words: repeated classes are one, blanks are nothing."""
    written = (LETTERS[number - 1] for number, _ in itertools.groupby(path) if number != BLANK)
    return SPACE.join("".join(written).split())
