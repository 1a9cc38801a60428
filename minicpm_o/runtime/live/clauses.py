"""A text that is still being written to clauses that can be spoken already.

Cut behind marks that surely end a clause: not inside numbers, not behind abbreviations, and only when what follows is
known. The first clause is short, to be heard early. Knows no phonemes and no sound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

FIRST_CHARACTERS = 10
"""A first clause this long is spoken at its first mark."""
FIRST_JOINT = 30
"""A first clause this long is spoken before the next word that begins a phrase, mark or none."""
LATER_CHARACTERS = 60
"""Later clauses are cut at inner marks when they are this long; at the end of sentences always."""
MOST_CHARACTERS = 220
"""Without any mark, a clause is cut between words here."""
ABBREVIATIONS = frozenset("mr mrs ms dr prof st vs etc no fig e.g i.e a.m p.m u.s jr sr inc ltd approx".split())

_ENDS = re.compile(r"([.!?…]+[\"'”’)\]]*)(\s+)|([。！？；]+[”’」』）]*)|(\n+)")
_JOINT = re.compile(r"\s(?=(?:and|but|or|nor|so|because|while|when|where|which|who|that|if|of|in|on|at|by|for|from|with"
                    r"|to|into|than|as)\s)", re.IGNORECASE)
_INNER = re.compile(r"([,;:—–][\"'”’)\]]*)(\s+)|([，、：]+)")


@dataclass(frozen=True)
class ClauseCutter:
    """What is open still."""

    open: str = ""
    has_cut: bool = False


def push(cutter: ClauseCutter, text: str) -> tuple[list[str], ClauseCutter]:
    """More text -> the clauses that are complete now, and the cutter for what comes next."""
    cutter = replace(cutter, open=cutter.open + text)
    clauses: list[str] = []
    while (stop := _cut(cutter)) is not None:
        clause, rest = cutter.open[:stop].strip(), cutter.open[stop:].lstrip()
        clauses += [clause] if _is_said(clause) else []
        cutter = ClauseCutter(rest, cutter.has_cut or _is_said(clause))
    return clauses, cutter


def flush(cutter: ClauseCutter) -> list[str]:
    """What is open at the end."""
    clause = cutter.open.strip()
    return [clause] if _is_said(clause) else []


def _cut(cutter: ClauseCutter) -> int | None:
    """Where the first complete clause stops, or None. It lies where it would if the text came letter by letter."""
    ends = [match.end() for match in _ENDS.finditer(cutter.open)
            if _is_said(cutter.open[: match.end()]) and not _is_abbreviation(cutter.open[: match.start()], match)]
    least = LATER_CHARACTERS if cutter.has_cut else FIRST_CHARACTERS
    ends += [match.end() for match in _INNER.finditer(cutter.open) if match.end() >= least]
    if not cutter.has_cut:
        ends += [match.end() for match in _JOINT.finditer(cutter.open) if match.end() >= FIRST_JOINT]
    if len(cutter.open) >= MOST_CHARACTERS and min(ends, default=MOST_CHARACTERS) >= MOST_CHARACTERS:
        space = cutter.open.rfind(" ", 0, MOST_CHARACTERS)
        return space + 1 if space > 0 else MOST_CHARACTERS
    return min(ends, default=None)


def _is_abbreviation(before: str, match: re.Match[str]) -> bool:
    """Whether the mark is one full stop behind what is short for something."""
    if match.group(1) != ".":
        return False
    word = re.split(r"[\s(\[\"']", before)[-1].lower()
    is_initial = len(word) == 1 and word.isalpha() and word != "i"
    is_list_number = word.isdigit() and before.strip() == word
    return word in ABBREVIATIONS or is_initial or is_list_number


def _is_said(text: str) -> bool:
    return any(character.isalnum() for character in text)
