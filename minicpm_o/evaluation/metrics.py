"""Scores as pure functions of texts: captions, error rates, and whether an answer holds what was expected.

CIDEr and ROUGE-L follow the Python of coco-caption (Vedantam et al., arXiv:1411.5726; Lin, 2004), over the words of
`official.caption` or `tokenise`. CIDEr is on the scale where papers print 100 times the number.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from minicpm_o.evaluation.normalise import has_han, plain_words

Tokens = Sequence[str]
Ngram = tuple[str, ...]

CIDER_ORDERS = 4
CIDER_SIGMA = 6.0
"""Width of CIDEr's penalty on captions of another length."""

ROUGE_BETA = 1.2


# --- captions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Vector:
    """Tf-idf weights of a caption's n-grams for each order, their norms, and the length that the penalty uses."""

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


def cider(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """CIDEr of each caption; its mean is the corpus score.

    hypotheses: words of one caption a picture; references: words of one or more captions a picture.
    Document frequencies come from these references, so scores of different sets (or sizes) do not compare; one
    picture alone scores 0."""
    corpus = CiderCorpus(references)
    return [corpus.score(hypothesis, captions) for hypothesis, captions in zip(hypotheses, references, strict=True)]


class CiderCorpus:
    """How rare n-grams are in the captions of some pictures; scores captions by it."""

    def __init__(self, references: Sequence[Sequence[Tokens]]) -> None:
        self._frequency = Counter(gram for captions in references for gram in
                                  {g for c in captions for g in _count_ngrams(c)})
        self._log_pictures = math.log(len(references)) if references else 0.0

    def score(self, hypothesis: Tokens, captions: Sequence[Tokens]) -> float:
        """CIDEr of one caption against those of its picture."""
        candidate, *others = (_vector(words, self._frequency, self._log_pictures) for words in (hypothesis, *captions))
        return 10.0 * sum(_similarity(candidate, other) for other in others) / len(captions)


def _count_ngrams(tokens: Tokens) -> Counter[Ngram]:
    return Counter(
        tuple(tokens[start : start + order])
        for order in range(1, CIDER_ORDERS + 1)
        for start in range(len(tokens) - order + 1)
    )


def _vector(tokens: Tokens, frequency: Mapping[Ngram, int], log_pictures: float) -> _Vector:
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(CIDER_ORDERS))
    for gram, count in _count_ngrams(tokens).items():
        weights[len(gram) - 1][gram] = count * (log_pictures - math.log(max(1, frequency.get(gram, 0))))
    norms = tuple(math.sqrt(sum(value * value for value in order.values())) for order in weights)
    return _Vector(weights, norms, length=max(0, len(tokens) - 1))  # the official code counts pairs of words


def _similarity(candidate: _Vector, reference: _Vector) -> float:
    """Clipped cosine of two captions, mean over the orders, times the length penalty."""
    penalty = math.exp(-((candidate.length - reference.length) ** 2) / (2 * CIDER_SIGMA**2))
    total = 0.0
    for mine, theirs, my_norm, their_norm in zip(
        candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True
    ):
        if my_norm and their_norm:
            overlap = sum(min(value, theirs[gram]) * theirs[gram] for gram, value in mine.items() if gram in theirs)
            total += overlap / (my_norm * their_norm)
    return penalty * total / CIDER_ORDERS


def rouge_l(hypothesis: Tokens, references: Sequence[Tokens]) -> float:
    """ROUGE-L of one caption: best precision and best recall over the references, joined with beta 1.2."""
    common = [longest_common_subsequence(hypothesis, reference) for reference in references]
    precision = max((c / len(hypothesis) for c in common if hypothesis), default=0.0)
    recall = max((c / len(r) for c, r in zip(common, references, strict=True) if r), default=0.0)
    if not precision or not recall:
        return 0.0
    return (1 + ROUGE_BETA**2) * precision * recall / (recall + ROUGE_BETA**2 * precision)


def longest_common_subsequence(first: Tokens, second: Tokens) -> int:
    """Length of the longest sequence of words that both hold in the same order."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for index, other in enumerate(second, start=1):
            above = row[index]
            row[index] = diagonal + 1 if word == other else max(above, row[index - 1])
            diagonal = above
    return row[-1]


# --- error rates ------------------------------------------------------------------------------------------------


def edit_distance(reference: Tokens, hypothesis: Tokens) -> int:
    """Fewest substitutions, deletions and insertions that turn one sequence into the other (Levenshtein)."""
    row = list(range(len(hypothesis) + 1))
    for row_number, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], row_number
        for index, other in enumerate(hypothesis, start=1):
            above = row[index]
            row[index] = min(above + 1, row[index - 1] + 1, diagonal + (word != other))
            diagonal = above
    return row[-1]


# --- does the answer hold it ------------------------------------------------------------------------------------


def contains_answer(answer: str, expected: str) -> bool:
    """Whether the expected word or phrase stands in the answer, between word boundaries.

    Case, punctuation, a leading article, number words (up to twenty) and a plural ending of the last word do not
    count. Chinese is looked up without boundaries. An empty expectation is never found."""
    if has_han(expected):
        return plain_words(expected).replace(" ", "") in plain_words(answer).replace(" ", "")
    padded = f" {plain_words(answer)} "
    return any(f" {form} " in padded for form in _phrase_forms(expected))


@lru_cache(maxsize=8192)
def _phrase_forms(expected: str) -> frozenset[str]:
    phrase = re.sub(r"^(?:a|an|the) (?=\w)", "", plain_words(expected))
    return frozenset(_plural_forms(phrase)) if phrase else frozenset()


def _plural_forms(phrase: str) -> set[str]:
    """The phrase with its last word in the singular and plural forms that English spelling allows."""
    if not phrase[-1].isalpha():
        return {phrase}
    forms = {phrase, phrase + "s", phrase + "es"}
    if phrase.endswith("y"):
        forms.add(phrase[:-1] + "ies")
    if phrase.endswith("ies"):
        forms.add(phrase[:-3] + "y")
    if phrase.endswith("es"):
        forms.add(phrase[:-2])
    if phrase.endswith("s") and not phrase.endswith(("ss", "us", "is")):
        forms.add(phrase[:-1])
    return forms


def contains_stem(answer: str, stem: str) -> bool:
    """Whether a word of the answer begins with the stem ("freez" is in "it freezes"); Chinese: stands anywhere."""
    plain = plain_words(stem)
    if has_han(stem):
        return plain.replace(" ", "") in plain_words(answer).replace(" ", "")
    return bool(plain) and f" {plain}" in f" {plain_words(answer)}"


YesNo = Literal["yes", "no"]


def yes_no(answer: str) -> YesNo | None:
    """The first of the words yes and no in an answer; None where neither stands."""
    match = re.search(r"(?<!\S)(yes|no)(?!\S)", plain_words(answer))
    if match is None:
        return None
    return "yes" if match.group() == "yes" else "no"


def pope_yes_no(answer: str) -> YesNo:
    """POPE's own rule: up to the first full stop, one of the words No, no, not means no, everything else means yes.

    Source: arXiv:2305.10355 and its evaluation script."""
    words = answer.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def digits_named(answer: str) -> set[str]:
    """Distinct single digits in an answer, as figures or words."""
    return {word for word in plain_words(answer).split() if len(word) == 1 and word.isdigit() and word.isascii()}


def chosen_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """Letter of a multiple-choice answer: a letter that stands first or in brackets or after "answer is" or
    "option", else the one choice whose text is in the answer; None where that does not decide."""
    letters = "".join(re.escape(letter) for letter in choices)
    text = answer.strip()
    patterns = (
        rf"^\(?([{letters}])(?:[.):,]|$)",
        rf"\(([{letters}])\)",
        rf"(?i:answer is|answer:|option)\s*\(?([{letters}])(?!\w)",
    )
    for pattern in patterns:
        match = re.search(pattern, text) or (re.search(pattern, text.upper()) if len(text) <= 2 else None)
        if match:
            return match.group(1)
    named = [letter for letter, choice in choices.items() if contains_answer(text, choice)]
    return named[0] if len(named) == 1 else None
