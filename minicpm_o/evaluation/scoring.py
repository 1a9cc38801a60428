"""Answers to the numbers of a report line: value, 95 % interval, chance. One scorer a kind of question.

The first metric of a scorer is its headline: interval and chance belong to it. Rates are fractions, not per cent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from minicpm_o.evaluation.baselines import Baseline, Chance, chance_of, majority_answer, others_answers
from minicpm_o.evaluation.intervals import Interval, bootstrap_ratio, wilson
from minicpm_o.evaluation.metrics import (
    chosen_letter,
    cider,
    contains_answer,
    contains_stem,
    digits_named,
    edit_distance,
    pope_yes_no,
    rouge_l,
    yes_no,
)
from minicpm_o.evaluation.moments import Moment
from minicpm_o.evaluation.normalise import basic_normaliser, characters, english_normaliser, english_words
from minicpm_o.evaluation.rows import Row


class Question(Protocol):
    """What a scorer reads of an item."""

    @property
    def expected(self) -> tuple[str, ...]: ...
    @property
    def group(self) -> str | None: ...
    @property
    def tag(self) -> str: ...
    @property
    def choices(self) -> Mapping[str, str]: ...
    @property
    def row(self) -> Row | None: ...
    @property
    def moment(self) -> Moment | None: ...


@dataclass(frozen=True)
class Scores:
    """Numbers of one run of one task; the headline metric stands first."""

    metrics: dict[str, float]
    interval: Interval | None
    details: dict[str, object] = field(default_factory=dict)


class Scorer(Protocol):
    """Judges answers one by one for the answer file, and together for the report."""

    def judge(self, item: Question, answer: str) -> dict[str, object]: ...
    def score(self, items: Sequence[Question], answers: Sequence[str]) -> Scores: ...
    def chance(self, items: Sequence[Question]) -> Chance: ...
    @property
    def rule(self) -> str: ...


# --- right or wrong ---------------------------------------------------------------------------------------------

Hit = Callable[[Question, str], bool]
Guess = Callable[[Sequence[Question]], float]


@dataclass(frozen=True)
class RateScorer:
    """Share of right answers.

    `hit` judges an answer; `extra` are further rates (name -> judgement); `guess` is the score of a random guess where
    the question has a known number of answers. Chance is the better of the guess and of the best constant answer."""

    hit: Hit
    rule: str
    name: str = "accuracy"
    extra: Mapping[str, Hit] = field(default_factory=dict)
    guess: Guess | None = None
    has_chance: bool = True

    def judge(self, item: Question, answer: str) -> dict[str, object]:
        return {"correct": self.hit(item, answer)}

    def score(self, items: Sequence[Question], answers: Sequence[str]) -> Scores:
        hits = _judged(self.hit, items, answers)
        metrics = {self.name: _mean(hits)}
        for name, judge in self.extra.items():
            metrics[name] = _mean(_judged(judge, items, answers))
        return Scores(metrics, wilson(sum(hits), len(hits)), group_details(items, hits))

    def chance(self, items: Sequence[Question]) -> Chance:
        if not self.has_chance:
            return Chance(missing="none: saying nothing is right")
        guess = Baseline(self.guess(items), "random guess") if self.guess else None
        return chance_of(items, lambda answers: _mean(_judged(self.hit, items, answers)), guess=guess)


def _judged(judge: Hit, items: Sequence[Question], answers: Sequence[str]) -> list[bool]:
    return [judge(item, answer) for item, answer in zip(items, answers, strict=True)]


def contains_scorer() -> RateScorer:
    """One of the accepted answers stands in the answer."""
    return RateScorer(_contains_one, "one of the accepted answers stands in the answer (word boundaries)")


def contains_all_scorer() -> RateScorer:
    """All parts of the expected answer stand in the answer."""
    return RateScorer(_contains_all, "every expected answer stands in the answer (word boundaries)")


def some_scorer() -> RateScorer:
    """As many of the accepted answers as the item's tag says stand in the answer."""
    return RateScorer(_contains_some, "as many of the accepted answers as are asked for stand in the answer")


def keyword_scorer() -> RateScorer:
    """One of the expected word beginnings stands in the answer: a weak hint of a sensible answer, no more."""
    return RateScorer(_contains_stem, "an expected keyword begins a word of the answer (a weak hint)", "keyword")


def yes_no_scorer() -> RateScorer:
    """The first yes or no of the answer is the expected one; neither is wrong."""
    extra: dict[str, Hit] = {
        "yes_ratio": lambda item, answer: yes_no(answer) == "yes",
        "unparsed": lambda item, answer: yes_no(answer) is None,
    }
    rule = "first of the words yes and no in the answer"
    return RateScorer(_yes_no_right, rule, extra=extra, guess=lambda items: 0.5)


def letter_scorer() -> RateScorer:
    """The letter (or the text) of the right choice."""
    extra: dict[str, Hit] = {"unparsed": lambda item, answer: chosen_letter(answer, item.choices) is None}
    rule = "letter first, in brackets or after 'answer is'; else the one choice named"
    return RateScorer(_letter_right, rule, extra=extra, guess=_guess_letter)


def digit_scorer() -> RateScorer:
    """Exactly one digit is named and it is the right one."""
    return RateScorer(_digit_right, "the answer names one digit, the right one", guess=lambda items: 0.1)


def empty_scorer() -> RateScorer:
    """Nothing is written where nothing was said."""
    return RateScorer(lambda item, answer: not answer.strip(), "no words at all", name="empty", has_chance=False)


def _contains_one(item: Question, answer: str) -> bool:
    return any(contains_answer(answer, expected) for expected in item.expected)


def _contains_all(item: Question, answer: str) -> bool:
    return bool(item.expected) and all(contains_answer(answer, expected) for expected in item.expected)


def _contains_some(item: Question, answer: str) -> bool:
    return sum(contains_answer(answer, expected) for expected in item.expected) >= int(item.tag)


def _contains_stem(item: Question, answer: str) -> bool:
    return any(contains_stem(answer, stem) for stem in item.expected)


def _yes_no_right(item: Question, answer: str) -> bool:
    return yes_no(answer) in item.expected


def _letter_right(item: Question, answer: str) -> bool:
    return chosen_letter(answer, item.choices) in item.expected


def _digit_right(item: Question, answer: str) -> bool:
    return digits_named(answer) == {digit for expected in item.expected for digit in digits_named(expected)}


def _guess_letter(items: Sequence[Question]) -> float:
    return _mean([1 / len(item.choices) for item in items])


def group_details(items: Sequence[Question], hits: Sequence[bool]) -> dict[str, object]:
    """An interval that resamples pictures instead of questions, where questions share pictures."""
    groups: dict[str, list[bool]] = {}
    for index, (item, hit) in enumerate(zip(items, hits, strict=True)):
        groups.setdefault(item.group or f"#{index}", []).append(hit)
    if len(groups) == len(items):
        return {}
    interval = bootstrap_ratio([sum(group) for group in groups.values()], [len(group) for group in groups.values()])
    return {"interval_by_picture": interval, "pictures": len(groups)}


# --- presence ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PresenceScorer:
    """POPE's numbers: yes is the positive class; every negative has one positive of its own (same tag and picture)."""

    rule: str = "POPE: No, no or not before the first full stop means no, everything else yes"

    def judge(self, item: Question, answer: str) -> dict[str, object]:
        return {"correct": pope_yes_no(answer) in item.expected, "parsed": pope_yes_no(answer), "kind": item.tag}

    def score(self, items: Sequence[Question], answers: Sequence[str]) -> Scores:
        said = [pope_yes_no(answer) for answer in answers]
        wanted = [item.expected[0] for item in items]
        hits = self._hits(items, answers)
        true_yes = sum(a == b == "yes" for a, b in zip(said, wanted, strict=True))
        precision = true_yes / said.count("yes") if "yes" in said else 0.0
        recall = true_yes / wanted.count("yes") if "yes" in wanted else 0.0
        metrics = {
            "accuracy": _mean(hits),
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            "yes_ratio": said.count("yes") / len(said),
            "unparsed": _mean([yes_no(answer) is None for answer in answers]),
        }
        for kind in sorted({item.tag for item in items}):
            of_kind = [hit for hit, item in zip(hits, items, strict=True) if item.tag == kind]
            metrics[f"accuracy_{kind}"] = _mean(of_kind)
        return Scores(metrics, wilson(sum(hits), len(hits)), group_details(items, hits))

    def chance(self, items: Sequence[Question]) -> Chance:
        return chance_of(items, lambda answers: _mean(self._hits(items, answers)), constants=("yes", "no"),
                         guess=Baseline(0.5, "random guess"))

    def _hits(self, items: Sequence[Question], answers: Sequence[str]) -> list[bool]:
        return [pope_yes_no(answer) == item.expected[0] for item, answer in zip(items, answers, strict=True)]


# --- captions ---------------------------------------------------------------------------------------------------

Tokenise = Callable[[str], list[str]]
MAX_CONSTANT_CAPTIONS = 10
"""Captions that are tried as the one answer to everything: each scores the whole set anew."""


@dataclass(frozen=True)
class CaptionScorer:
    """CIDEr (document frequencies from the references in use) and ROUGE-L; ROUGE-L alone for a handful of items."""

    tokenise: Tokenise
    with_cider: bool = True

    @property
    def rule(self) -> str:
        return "CIDEr and ROUGE-L of coco-caption, own tokeniser; CIDEr x 1 (papers print x 100)"

    def judge(self, item: Question, answer: str) -> dict[str, object]:
        return {"rouge_l": round(rouge_l(self.tokenise(answer), self._references(item)), 4)}

    def score(self, items: Sequence[Question], answers: Sequence[str]) -> Scores:
        hypotheses = [self.tokenise(answer) for answer in answers]
        references = [self._references(item) for item in items]
        rouge = _rouge(hypotheses, references)
        if not self.with_cider:
            return Scores({"rouge_l": _mean(rouge)}, bootstrap_ratio(rouge))
        per_picture = cider(hypotheses, references)
        metrics = {"cider": _mean(per_picture), "rouge_l": _mean(rouge)}
        details: dict[str, object] = {"rouge_l_interval": bootstrap_ratio(rouge), "distinct_answers": len(set(answers))}
        return Scores(metrics, bootstrap_ratio(per_picture), details)

    def chance(self, items: Sequence[Question]) -> Chance:
        """Also: a person's caption of some other item of the set."""
        if len(items) < 2:
            return Chance(missing="needs two items to compare")
        references = [self._references(item) for item in items]
        return Chance(self._best_constant(items, references),
                      others_answers(items, lambda answers: self._headline(answers, references)))

    def _best_constant(self, items: Sequence[Question], references: Sequence[list[list[str]]]) -> Baseline:
        """A caption of the set for all other items: its own would be right by itself."""
        tried = []
        for place, item in enumerate(items[:MAX_CONSTANT_CAPTIONS]):
            others = [*references[:place], *references[place + 1 :]]
            tried.append(Baseline(self._headline([item.expected[0]] * len(others), others),
                                  f"best constant answer ({item.expected[0]!r}), for all but its own item"))
        return max(tried, key=lambda baseline: baseline.value)

    def _headline(self, answers: Sequence[str], references: Sequence[list[list[str]]]) -> float:
        hypotheses = [self.tokenise(answer) for answer in answers]
        return _mean(cider(hypotheses, references) if self.with_cider else _rouge(hypotheses, references))

    def _references(self, item: Question) -> list[list[str]]:
        return [self.tokenise(caption) for caption in item.expected]


def _rouge(hypotheses: Sequence[list[str]], references: Sequence[list[list[str]]]) -> list[float]:
    return [rouge_l(words, captions) for words, captions in zip(hypotheses, references, strict=True)]


# --- error rates ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ErrorRateScorer:
    """Errors over reference length of the whole corpus (not the mean of utterances); lower is better."""

    split: Tokenise
    name: str
    rule: str

    def judge(self, item: Question, answer: str) -> dict[str, object]:
        errors, length = self._count(item, answer)
        return {"errors": errors, "reference_length": length}

    def score(self, items: Sequence[Question], answers: Sequence[str]) -> Scores:
        errors, lengths = self._counts(items, answers)
        metrics = {self.name: _ratio(errors, lengths), "exact": _mean([error == 0 for error in errors])}
        details: dict[str, object] = {"errors": sum(errors), "reference_length": sum(lengths)}
        return Scores(metrics, bootstrap_ratio(errors, lengths), details)

    def chance(self, items: Sequence[Question]) -> Chance:
        def score(answers: Sequence[str]) -> float:
            return _ratio(*self._counts(items, answers))

        return Chance(Baseline(1.0, "no text at all"), others_answers(items, score), majority_answer(items, score),
                      lower_is_better=True)

    def _counts(self, items: Sequence[Question], answers: Sequence[str]) -> tuple[list[int], list[int]]:
        """Errors and reference lengths of all items."""
        counts = [self._count(item, answer) for item, answer in zip(items, answers, strict=True)]
        return [errors for errors, _ in counts], [length for _, length in counts]

    def _count(self, item: Question, answer: str) -> tuple[int, int]:
        reference = self.split(item.expected[0])
        return edit_distance(reference, self.split(answer)), len(reference)


def english_word_errors() -> ErrorRateScorer:
    """WER after Whisper's English normaliser. Raises MissingExtraError now rather than after an hour of answers."""
    english_normaliser()
    return ErrorRateScorer(english_words, "wer", "corpus WER after Whisper's English normaliser")


def other_word_errors() -> ErrorRateScorer:
    """WER after Whisper's basic normaliser, for other languages with blanks between words."""
    basic = basic_normaliser()
    return ErrorRateScorer(lambda text: basic(text).split(), "wer", "corpus WER after Whisper's basic normaliser")


def character_errors() -> ErrorRateScorer:
    """CER after Whisper's basic normaliser, blanks removed, for Chinese."""
    basic_normaliser()
    return ErrorRateScorer(characters, "cer", "corpus CER after Whisper's basic normaliser, blanks removed")


def _ratio(errors: Sequence[int], lengths: Sequence[int]) -> float:
    return sum(errors) / max(1, sum(lengths))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
