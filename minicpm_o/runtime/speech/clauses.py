"""Cut a spoken phoneme string into clauses that a voice can say in one breath.

Cuts lie behind sentence ends first; a sentence longer than wished is cut at its inner marks, and one longer than the
model allows between words (inside a word only when the word alone is too long). The first clause may be cut short so
that it is heard early. It does not know text or sound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from minicpm_o.runtime.speech.tokens import MARKS, SENTENCE_ENDS

WISHED_PHONEMES = 180
"""A clause of this length is spoken evenly; longer ones lose their rhythm."""

FIRST_PHONEMES = 60
_MARKS_BEHIND = re.compile(r"(?<=[,;:—])(?: +|$)")
_SENTENCES_BEHIND = re.compile(r"(?<=[.!?…])(?: +|$)")


def cut_clauses(phonemes: str, limit: int, *, first: int = FIRST_PHONEMES) -> list[str]:
    """Clauses of at most `limit` phonemes, in order; the first one aims at `first` phonemes."""
    clauses: list[str] = []
    for sentence in _SENTENCES_BEHIND.split(phonemes):
        if _has_sound(sentence):
            clauses += _cut_sentence(sentence.strip(), limit, WISHED_PHONEMES if clauses else first)
    return clauses


def final_mark(clause: str) -> str:
    """The mark a clause ends with, or empty."""
    return clause[-1:] if clause[-1:] in MARKS else ""


def _has_sound(text: str) -> bool:
    return any(symbol not in MARKS and not symbol.isspace() for symbol in text)


def _cut_sentence(sentence: str, limit: int, first: int) -> Iterator[str]:
    """Join the parts between inner marks until a clause is as long as wished."""
    clause, wished = "", first
    for part in _MARKS_BEHIND.split(sentence):
        if clause and len(clause) + len(part) + 1 > min(wished, limit):
            yield from _cut_words(clause, limit)
            clause, wished = "", WISHED_PHONEMES
        clause = f"{clause} {part}".strip()
    if clause:
        yield from _cut_words(clause, limit)


def _cut_words(clause: str, limit: int) -> Iterator[str]:
    """Nearly equal pieces between words when a clause is over the limit."""
    while len(clause) > limit:
        pieces = -(-len(clause) // limit)
        wished = min(limit, len(clause) // pieces + 20)
        cut = clause.rfind(" ", 1, wished)
        cut = cut if cut > 0 else limit
        yield clause[:cut].rstrip()
        clause = clause[cut:].lstrip()
    yield clause


def ends_sentence(clause: str) -> bool:
    """Whether a clause closes a sentence."""
    return clause[-1:] in SENTENCE_ENDS
