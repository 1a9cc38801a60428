"""Endings of English words: which stem a written form may come from, and what the ending sounds like after it.

Endings follow the voicing of the sound before them; -t becomes a flap between vowels, as Americans say it. It does not
know which stems exist (`english.py` asks the lexicon).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

PRIMARY, SECONDARY = "ˈ", "ˌ"
VOICELESS = frozenset("ptkfθ")
SIBILANTS = frozenset("szʃʒʧʤ")
FLAPPING_VOWELS = frozenset("AIOWYiuæɑəɛɪɹʊʌ")
VOWELS = frozenset("AIOQWYaiuæɑɒɔəɛɜɪʊʌᵻᵊɐ")

Ending = Literal["s", "ed", "ing", "er", "est", "ly", "ness", "less", "able"]

VOWEL_ENDINGS: tuple[Ending, ...] = ("ed", "ing", "er", "est", "able")
CONSONANT_ENDINGS: tuple[Ending, ...] = ("ly", "ness", "less")

SIMPLE_SOUNDS: dict[str, str] = {"ly": "li", "ness": "nəs", "less": "ləs"}
VOWEL_SOUNDS: dict[str, str] = {"ing": "ɪŋ", "er": "əɹ", "est": "ᵻst", "able": "əbᵊl"}


@dataclass(frozen=True)
class Split:
    """A written form taken apart."""

    stem: str
    ending: Ending


def splits(word: str) -> Iterator[Split]:
    """Possible stems of a lower-case word, likeliest first."""
    if word.endswith(("'s", "s'")):
        yield Split(word[:-2] if word.endswith("'s") else word[:-1], "s")
        return
    yield from _plural(word)
    for ending in VOWEL_ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            yield from _vowel_ending(word[: -len(ending)], ending)
    for ending in CONSONANT_ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            yield from _consonant_ending(word[: -len(ending)], ending)


def _consonant_ending(stem: str, ending: Ending) -> Iterator[Split]:
    yield Split(stem, ending)
    if stem.endswith("i"):
        yield Split(stem[:-1] + "y", ending)


def _plural(word: str) -> Iterator[Split]:
    if len(word) < 3 or not word.endswith("s") or word.endswith("ss"):
        return
    yield Split(word[:-1], "s")
    if word.endswith("ies") and len(word) > 4:
        yield Split(word[:-3] + "y", "s")
    if word.endswith("es") and len(word) > 3:
        yield Split(word[:-2], "s")


def _vowel_ending(stem: str, ending: Ending) -> Iterator[Split]:
    doubled = len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "aeiou"
    if doubled:
        yield Split(stem[:-1], ending)
    yield Split(stem + "e", ending)
    yield Split(stem, ending)
    if stem.endswith("i"):
        yield Split(stem[:-1] + "y", ending)
    if stem.endswith("ck"):
        yield Split(stem[:-1], ending)


def attach(phonemes: str, ending: Ending) -> str:
    """Phonemes of stem + ending."""
    if ending == "s":
        return phonemes + _sound_of_s(phonemes[-1:])
    if ending == "ed":
        return _with_ed(phonemes)
    if ending in SIMPLE_SOUNDS:
        return phonemes + SIMPLE_SOUNDS[ending]
    return _flapped(phonemes) + VOWEL_SOUNDS[ending]


def _sound_of_s(last: str) -> str:
    if last in VOICELESS:
        return "s"
    return "ᵻz" if last in SIBILANTS else "z"


def _with_ed(phonemes: str) -> str:
    last = phonemes[-1:]
    if last in "td":
        return _flapped(phonemes) + "ᵻd"
    return phonemes + ("t" if last in VOICELESS or last in "sʃʧ" else "d")


def _flapped(phonemes: str) -> str:
    """Final t between vowels becomes a flap."""
    if len(phonemes) > 1 and phonemes[-1] == "t" and phonemes[-2] in FLAPPING_VOWELS:
        return phonemes[:-1] + "ɾ"
    return phonemes
