"""Texts to comparable texts: for word error rates as Whisper's evaluation does it, for answers in a plainer way.

Source of the English and the basic normaliser: appendix C of Whisper (arXiv:2212.04356), package whisper-normalizer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from minicpm_o.errors import MissingExtraError

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
_DIGITS = {word: str(value) for value, word in enumerate(_NUMBER_WORDS)}
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


@lru_cache(maxsize=1)
def english_normaliser() -> Callable[[str], str]:
    """Whisper's EnglishTextNormalizer. Raises MissingExtraError without the extra `eval`."""
    try:
        from whisper_normalizer.english import EnglishTextNormalizer  # type: ignore[import-untyped]
    except ImportError as error:
        raise _missing_extra() from error
    normaliser: Callable[[str], str] = EnglishTextNormalizer()
    return normaliser


@lru_cache(maxsize=1)
def basic_normaliser() -> Callable[[str], str]:
    """Whisper's BasicTextNormalizer, for every language but English. Raises MissingExtraError without the extra."""
    try:
        from whisper_normalizer.basic import BasicTextNormalizer  # type: ignore[import-untyped]
    except ImportError as error:
        raise _missing_extra() from error
    normaliser: Callable[[str], str] = BasicTextNormalizer()
    return normaliser


def _missing_extra() -> MissingExtraError:
    return MissingExtraError(
        "word error rates need the package whisper-normalizer, which is not installed; pip install 'minicpm-o[eval]'"
    )


def english_words(text: str) -> list[str]:
    """Words as Whisper's evaluation counts them: "Mr. Park isn't" -> mister park is not.

    Spoken digits are joined ("one two three" -> 123), so strings of digits are judged all or nothing."""
    return english_normaliser()(text).split()


def characters(text: str) -> list[str]:
    """Characters for an error rate of a language without blanks; punctuation and blanks dropped."""
    return list(basic_normaliser()(text).replace(" ", ""))


def has_han(text: str) -> bool:
    """Whether a text holds Chinese characters."""
    return _HAN.search(text) is not None


@lru_cache(maxsize=8192)
def plain_words(text: str) -> str:
    """Lower case, punctuation and underscores as blanks, number words up to twenty as digits."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"[^\W_]+", folded.replace("'s ", " ").replace("’s ", " "))
    return " ".join(_DIGITS.get(word, word) for word in words)
