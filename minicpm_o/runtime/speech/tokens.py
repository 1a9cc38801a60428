"""What the reading of a text is made of: words, letters spelled out and marks that pause. Knows no sounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Word:
    """A word as written (case kept), to be pronounced."""

    text: str


@dataclass(frozen=True)
class Letters:
    """ASCII capitals to be named one by one."""

    text: str


@dataclass(frozen=True)
class Mark:
    """A pause or a tone of voice: one of `, ; : . ! ? — …`."""

    text: str


@dataclass(frozen=True)
class Sounds:
    """Ready phonemes, from a reader of another language."""

    phonemes: str


Token: TypeAlias = Word | Letters | Mark | Sounds

SENTENCE_ENDS = frozenset(".!?…")
MARKS = SENTENCE_ENDS | frozenset(",;:—")
