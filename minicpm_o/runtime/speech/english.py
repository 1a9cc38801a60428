"""English words, letters and marks to phonemes (American; the symbols of misaki's lexica).

    tokens -> each word: special cases, lexicon, endings, parts of a compound, letter-to-sound -> one phoneme string

It does not know how a text was read into tokens (`reading.py`) nor what a voice's model calls the sounds (`kokoro.py`,
`piper.py`). Phoneme alphabet: EN_PHONES.md of hexgrad/misaki.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from minicpm_o.runtime.speech.lexicon import Entry, Lexicon
from minicpm_o.runtime.speech.morphology import PRIMARY, SECONDARY, VOWELS, attach, splits
from minicpm_o.runtime.speech.tokens import MARKS, Letters, Mark, Sounds, Token, Word

DETERMINERS = frozenset(
    "a an the this that these those my your his her its our their no some any each every another which whose".split()
)
VERB_CUES = frozenset(
    "to will would can could should may might must shall do does did don't doesn't didn't won't can't couldn't "
    "wouldn't shouldn't let's i you we they please cannot".split()
)
PAST_CUES = frozenset("have has had having was were been being is are be i've you've we've they've got".split())

VOWEL_LETTERS = frozenset("aeiouy")

ALWAYS_SPELLED = frozenset("US IT WHO AM PM AI TV IP ID UN EU UK IE HR".split())
"""Capitals that are also words, but are letters when nothing else is shouted."""

LOUD_SHORT = frozenset(
    "THE AND OR IS ARE NOT YOU THIS DO NO BE IN OF ON AT BY TO AS IF SO UP MY ME WE HE HI OH".split()
)
"""Words that nobody abbreviates to: in capitals they shout, and what stands beside them shouts too."""

CLITICS = {"'ll": "əl", "'ve": "əv", "'re": "əɹ", "'d": "d", "'m": "m"}

PREFIXES = {
    "non": "nˌɑn",
    "un": "ˌʌn",
    "re": "ɹˌi",
    "pre": "pɹˌi",
    "mis": "mˌɪs",
    "dis": "dˌɪs",
    "de": "dˌi",
    "anti": "ˌænti",
    "multi": "mˌʌlti",
    "semi": "sˌɛmi",
    "micro": "mˌIkɹO",
    "nano": "nˌænO",
    "mega": "mˌɛɡə",
    "cyber": "sˌIbəɹ",
    "bio": "bˌIO",
    "auto": "ˌɔɾO",
    "hyper": "hˌIpəɹ",
}

FOLDED = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ł": "l", "Ł": "L",
     "þ": "th", "Þ": "Th", "ð": "th", "Ð": "Th", "ı": "i", "ħ": "h", "Ħ": "H", "ŋ": "ng", "Ŋ": "Ng", "ſ": "s"}
)  # fmt: skip

SHORTEST_PART = 3
SHORTEST_COMPOUND = 7


@dataclass(frozen=True)
class Context:
    """What stands around a word: the word before, and whether a vowel sound (True), a consonant (False) or a pause
    (None) follows."""

    before: str = ""
    vowel_follows: bool | None = None
    shouting: bool = False


ALONE = Context()


@dataclass(frozen=True)
class EnglishPhonemizer:
    """Pronounces tokens. `sound_out(word) -> phonemes` reads the letters of words that no list has."""

    lexicon: Lexicon
    sound_out: Callable[[str], str]

    def phonemes(self, tokens: Sequence[Token]) -> str:
        """One phoneme string: words parted by spaces, marks directly behind the word before them."""
        spoken: list[str] = []
        vowel_follows: bool | None = None
        for index in range(len(tokens) - 1, -1, -1):
            context = Context(_word_before(tokens, index), vowel_follows, self._is_shouted(tokens, index))
            sounds = self.token(tokens[index], context)
            spoken.append(sounds)
            vowel_follows = _starts_with_vowel(sounds, vowel_follows)
        return _join(reversed(spoken))

    def token(self, token: Token, context: Context) -> str:
        """Phonemes of one token."""
        if isinstance(token, Mark):
            return token.text
        if isinstance(token, Sounds):
            return token.phonemes
        if isinstance(token, Letters):
            return self.letters(token.text)
        return self.word(token.text, context)

    def letters(self, text: str) -> str:
        """Letter names in a row, the main stress on the last."""
        names = [self._letter(letter) for letter in text.upper()]
        return "".join([*(name.replace(PRIMARY, SECONDARY) for name in names[:-1]), *names[-1:]])

    def word(self, word: str, context: Context = ALONE) -> str:
        """Phonemes of one word where it stands; empty only when it has no letter."""
        special = _special(word, context)
        if special is not None:
            return special
        if self._is_initialism(word, context):
            return self._capitals(word)
        found = self._known(word, context)
        return found if found is not None else self._unknown(word, context)

    def _is_initialism(self, word: str, context: Context) -> bool:
        """Capitals that are no ordinary word, or one that is better known as letters; GPUs and GPU's count."""
        stem = _without_s(word)
        if (
            context.shouting
            or stem in LOUD_SHORT
            or not (len(stem) > 1 and stem.isascii() and stem.isalpha() and stem.isupper())
        ):
            return False
        return stem in ALWAYS_SPELLED or stem in self.lexicon or stem.lower() not in self.lexicon

    def _is_shouted(self, tokens: Sequence[Token], index: int) -> bool:
        """Whether a neighbour is an ordinary word in capitals."""
        around = (*tokens[max(0, index - 1) : index], *tokens[index + 1 : index + 2])
        return any(isinstance(token, Word) and self._is_loud(token.text) for token in around)

    def _is_loud(self, word: str) -> bool:
        loud = len(word) > 1 and word.isupper() and word not in ALWAYS_SPELLED
        return (loud and word not in self.lexicon and word.lower() in self.lexicon) or word in LOUD_SHORT

    def _letter(self, letter: str) -> str:
        entry = self.lexicon.find(letter)
        return entry.default if entry else ""

    def _capitals(self, word: str) -> str:
        """An all-capitals word: its own entry, else letter by letter ('GPUs' and "GPU's" keep their s)."""
        stem = _without_s(word)
        entry = None if stem in ALWAYS_SPELLED else self.lexicon.find(stem)
        sounds = entry.choose("NOUN") if entry else ""
        sounds = sounds or self.letters(stem)
        return attach(sounds, "s") if stem != word else sounds

    def _known(self, word: str, context: Context) -> str | None:
        """By the lexicon, as written, then in lower case, then as a name, then by its ending."""
        lower = word.lower()
        for form in dict.fromkeys((word, lower, lower.capitalize())):
            entry = self.lexicon.find(form)
            if entry and entry.default:
                return entry.choose(*_tags(context))
        return self._by_ending(lower, context)

    def _by_ending(self, word: str, context: Context) -> str | None:
        for split in splits(word):
            stem = self._stem(split.stem, context)
            if stem:
                return attach(stem, split.ending)
        return None

    def _stem(self, stem: str, context: Context) -> str | None:
        if len(stem) < 2:
            return None
        entry: Entry | None = self.lexicon.find(stem) or self.lexicon.find(stem.capitalize())
        return entry.default if entry else None

    def _unknown(self, word: str, context: Context) -> str:
        """A word that is not listed: without accents, by its parts, else by its letters."""
        plain = _without_accents(word)
        if plain != word:
            return self.word(plain, context)
        parts = _written_parts(word)
        if len(parts) > 1:
            return "".join(self.word(part) for part in parts)
        lower = re.sub("[^a-z]", "", word.lower())
        if not lower or not VOWEL_LETTERS & set(lower):
            return self.letters(lower)
        return self._with_clitic(word) or self._prefixed(lower) or self._compound(lower) or self.sound_out(lower)

    def _with_clitic(self, word: str) -> str | None:
        stem, apostrophe, ending = word.rpartition("'")
        if not stem or apostrophe + ending not in CLITICS:
            return self.word(stem) if stem and not ending else None
        return self.word(stem) + CLITICS[apostrophe + ending]

    def _prefixed(self, word: str) -> str | None:
        for prefix, sounds in PREFIXES.items():
            if word.startswith(prefix) and len(word) - len(prefix) > SHORTEST_PART:
                rest = self._known(word[len(prefix) :], ALONE)
                if rest:
                    return sounds + rest
        return None

    def _compound(self, word: str) -> str | None:
        """Two known words, the longest first part wins; the main stress stays on the first."""
        if len(word) < SHORTEST_COMPOUND:
            return None
        for cut in range(len(word) - SHORTEST_PART, SHORTEST_PART - 1, -1):
            first = self.lexicon.find(word[:cut])
            second = self._known(word[cut:], ALONE) if first and first.default else None
            if first and second:
                return first.default + second.replace(PRIMARY, SECONDARY)
        return None


def _special(word: str, context: Context) -> str | None:
    """Words whose sound depends on what follows."""
    lower, follows = word.lower(), context.vowel_follows
    if lower == "a":
        return "ɐ" if follows is not None and (word == "a" or not context.before) else "ˈA"
    if lower == "i":
        return "ˌI" if follows is not None else "ˈI"
    if lower == "in" and follows is None:
        return "ˈɪn"
    by_next = {"an": ("ɐn", "ɐn", "ˈæn"), "the": ("ðə", "ði", "ðə"), "to": ("tə", "tʊ", "tu")}
    if lower in by_next and not (word.isupper() and not context.shouting and lower != "the"):
        return by_next[lower][2 if follows is None else int(follows)]
    return None


def _written_parts(word: str) -> list[str]:
    """well-known -> well, known; OpenAI -> Open, AI; iPhone -> i, Phone."""
    return [part for piece in word.split("-") for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+|[A-Z]", piece)]


def _tags(context: Context) -> tuple[str, ...]:
    """Guess the part of speech from the word before; nothing guessed = default."""
    before = context.before
    end = ("END",) if context.vowel_follows is None else ()
    if before in DETERMINERS:
        return ("NOUN", "ADJ", *end)
    if before in PAST_CUES:
        return ("VBN", "VBD", "ADJ", *end)
    if before in VERB_CUES:
        return ("VERB", *end)
    return end


def _without_s(word: str) -> str:
    return word[:-1].rstrip("'") if word[-1:] == "s" else word


def _word_before(tokens: Sequence[Token], index: int) -> str:
    before = tokens[index - 1] if index else None
    return before.text.lower() if isinstance(before, Word) else ""


def _starts_with_vowel(sounds: str, otherwise: bool | None) -> bool | None:
    for sound in sounds:
        if sound in MARKS:
            return None
        if sound not in (PRIMARY, SECONDARY, " "):
            return sound in VOWELS
    return otherwise


def _without_accents(word: str) -> str:
    """Plain a-z where the alphabet has it; other letters by the letter that Unicode names them after."""
    folded = unicodedata.normalize("NFD", word.translate(FOLDED))
    return "".join(_plain_letter(letter) for letter in folded if not unicodedata.combining(letter))


def _plain_letter(letter: str) -> str:
    if letter.isascii():
        return letter
    named = re.search(r"LETTER (?:\w+ )?([A-Z]{1,2})\b", unicodedata.name(letter, ""))
    return named.group(1).lower() if named else ""


def _join(sounds: Iterable[str]) -> str:
    text = ""
    for sound in sounds:
        text += sound if not text or not sound or sound in MARKS else f" {sound}"
    return text
