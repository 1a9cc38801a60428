"""Captions to the words that CIDEr and ROUGE-L count, as the Penn Treebank tokeniser of coco-caption does it.

coco-caption runs Stanford's Java tokeniser (3.4.1, lower case) and drops a list of punctuation tokens. This is the same
in regular expressions for what captions hold: contractions and possessives ("man 's", "is n't", "can not"), words with
hyphens and abbreviations kept whole, brackets as -lrb-, currency and percent signs as words of their own.
What differs: rare things (web addresses, smileys, quoted slang such as "rock'n'roll", fractions with blanks, several
sentences whose inner "." belongs to an unknown abbreviation) may be split in other places.
"""

from __future__ import annotations

import re
import unicodedata

_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": " -- ", "—": " -- ", "…": " ... "})
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_FUSED = {
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me", "lemme": "lem me",
}  # fmt: skip
_TITLES = frozenset(
    "mr mrs ms dr prof st jr sr vs etc inc co ltd corp ave blvd rd jan feb apr aug sept oct nov dec".split()
)
_TOKEN = re.compile(
    r"""
      n't\b | '(?:s|m|d|ll|re|ve)\b          # what _CONTRACTION has set apart
    | '(?:em|tis|twas)\b
    | (?:[^\W\d_]\.){2,}                     # u.s. p.m.
    | [$£€¥%&]
    | [#@]?\w+(?:[-/'&.,:_@!+]\w+)*          # words, numbers, hyphens, o'clock, 3:30, 1,000, and/or
    | [()\[\]{}]
    | [^\w\s]
    """,
    re.VERBOSE,
)
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|m|d|ll|re|ve))(?!\w)")
_LETTER_COMMA = re.compile(r",(?!\d)|(?<!\d),|!(?=\s|$)")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def caption_tokens(text: str) -> list[str]:
    """Lower-case words of an English caption, punctuation dropped."""
    plain = text.translate(_QUOTES).lower()
    plain = _LETTER_COMMA.sub(" , ", plain)
    plain = _CONTRACTION.sub(r" \1", plain)
    tokens: list[str] = []
    for match in _TOKEN.finditer(plain):
        tokens += _finish(match.group(), plain[match.end() : match.end() + 1])
    return tokens


def _finish(token: str, following: str) -> list[str]:
    if token in _BRACKETS:
        return [_BRACKETS[token]]
    if token in _FUSED:
        return _FUSED[token].split()
    if token in _TITLES and following == ".":
        return [token + "."]
    is_word = any(character.isalnum() for character in token)
    return [token] if is_word or token in "$£€¥%&#@" else []


def character_tokens(text: str) -> list[str]:
    """A Chinese text as characters; runs of Latin letters or digits stay one token, punctuation goes."""
    plain = unicodedata.normalize("NFKC", text).lower()
    spaced = _HAN.sub(lambda match: f" {match.group()} ", plain)
    return re.findall(r"\w+", spaced)
