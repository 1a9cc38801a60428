"""Words that no list has, sounded out from their letters.

Rules `left LETTER right -> sounds` in a small file beside this module, learnt from the lexicon by
benchmarks/letter_sounds.py; for each letter the widest rule that matches speaks. Only a-z are known; other characters
are the reader's business (`reading.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from minicpm_o.runtime.speech.lexicon import Lexicon
from minicpm_o.runtime.speech.morphology import PRIMARY, SECONDARY, VOWELS

WINDOWS = ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4), (4, 4))
"""Letters seen to the left and to the right, from the narrowest rule to the widest."""

RULES_FILE = "letters_en.txt.gz"


def pattern(word: str, index: int, window: tuple[int, int]) -> str:
    """What a rule of this window sees: the letter in capital, its neighbours, `#` outside the word."""
    left, right = window
    before = word[max(0, index - left) : index].rjust(left, "#")
    behind = word[index + 1 : index + 1 + right].ljust(right, "#")
    return before + word[index].upper() + behind


@dataclass(frozen=True)
class LetterSounds:
    """Rules in the lexicon's format: pattern to sounds."""

    rules: Lexicon

    @classmethod
    def open(cls) -> LetterSounds:
        """The rules that come with the package."""
        return cls(Lexicon.open(Path(str(files("minicpm_o.runtime.speech").joinpath(RULES_FILE)))))

    def sound_out(self, word: str) -> str:
        """Phonemes of a lower-case a-z word, with exactly one main stress when it has a vowel."""
        return one_main_stress("".join(self._letter(word, index) for index in range(len(word))))

    def _letter(self, word: str, index: int) -> str:
        for window in reversed(WINDOWS):
            entry = self.rules.find(pattern(word, index, window))
            if entry is not None:
                return entry.default
        return ""


def one_main_stress(phonemes: str) -> str:
    """Keep the first main stress and weaken others; a word without one gets it on its first vowel."""
    first = phonemes.find(PRIMARY)
    if first >= 0:
        return phonemes[: first + 1] + phonemes[first + 1 :].replace(PRIMARY, SECONDARY)
    if SECONDARY in phonemes:
        return phonemes.replace(SECONDARY, PRIMARY, 1)
    vowel = next((index for index, sound in enumerate(phonemes) if sound in VOWELS), None)
    return phonemes if vowel is None else phonemes[:vowel] + PRIMARY + phonemes[vowel:]
