from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpm_o.evaluation.official.caption import ptb_tokens
from minicpm_o.evaluation.scoring import (
    CaptionScorer,
    PresenceScorer,
    contains_all_scorer,
    contains_scorer,
    digit_scorer,
    english_word_errors,
    letter_scorer,
    yes_no_scorer,
)
from minicpm_o.evaluation.tasks.base import Item

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))


def item(*expected: str, **fields: object) -> Item:
    return Item("id", (), "?", expected, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["random", "popular", "adversarial"])
def test_presence_numbers_are_those_of_pope(kind: str) -> None:
    case = GOLDEN["pope"][kind]
    scores = PresenceScorer().score([item(label, tag=kind) for label in case["labels"]], case["answers"])
    official = case["official"]
    assert scores.metrics["accuracy"] == pytest.approx(official["Accuracy"])
    assert scores.metrics["precision"] == pytest.approx(official["Precision"])
    assert scores.metrics["recall"] == pytest.approx(official["Recall"])
    assert scores.metrics["f1"] == pytest.approx(official["F1 score"])
    assert scores.metrics["yes_ratio"] == pytest.approx(official["Yes ratio"])
    assert scores.metrics[f"accuracy_{kind}"] == scores.metrics["accuracy"]


def test_presence_without_any_yes_does_not_divide_by_zero() -> None:
    scores = PresenceScorer().score([item("yes", tag="random"), item("no", tag="random")], ["no", "no"])
    assert scores.metrics["f1"] == 0.0 and scores.metrics["accuracy"] == 0.5


def test_rate_with_wilson_interval_and_interval_over_pictures() -> None:
    items = [item("cat", group="1"), item("red", group="1"), item("dog", group="2"), item("blue", group="3")]
    scores = contains_scorer().score(items, ["a cat", "green", "dogs", "blue sky"])
    assert scores.metrics == {"accuracy": 0.75}
    assert scores.interval == pytest.approx((0.3006, 0.9544), abs=5e-4)
    assert scores.details["pictures"] == 3


def test_chance_of_open_questions_is_the_best_constant_answer() -> None:
    chance = contains_scorer().chance([item("2", "two"), item("two"), item("red"), item("cat")])
    assert chance.value == 0.5
    assert chance.rule in ("best constant answer ('2')", "best constant answer ('two')")


def test_chance_of_unbalanced_yes_no_is_the_majority() -> None:
    chance = yes_no_scorer().chance([item("yes"), item("yes"), item("yes"), item("no")])
    assert chance.value == 0.75
    assert yes_no_scorer().chance([item("yes"), item("no")]).value == 0.5


def test_yes_no_answers_that_are_neither_are_wrong_and_counted() -> None:
    scores = yes_no_scorer().score([item("yes"), item("no")], ["Yes!", "perhaps"])
    assert scores.metrics == {"accuracy": 0.5, "yes_ratio": 0.5, "unparsed": 0.5}


def test_letters_chance_and_score() -> None:
    four = {"A": "cat", "B": "dog", "C": "cow", "D": "hen"}
    two = {"A": "cat", "B": "dog"}
    items = [item("B", choices=four), item("A", choices=two), item("D", choices=four), item("C", choices=four)]
    assert letter_scorer().score(items, ["B", "B", "a hen", "?"]).metrics == {"accuracy": 0.5, "unparsed": 0.25}
    assert letter_scorer().chance(items).value == pytest.approx((0.25 + 0.5 + 0.25 + 0.25) / 4)


def test_every_listed_thing_must_be_named() -> None:
    scorer = contains_all_scorer()
    assert scorer.judge(item("fax machine", "printer"), "a printer and a fax machine") == {"correct": True}
    assert scorer.judge(item("fax machine", "printer"), "a printer") == {"correct": False}


def test_naming_all_digits_does_not_win() -> None:
    scores = digit_scorer().score([item("seven"), item("0")], ["7 8 9", "It is zero."])
    assert scores.metrics == {"accuracy": 0.5}
    assert digit_scorer().chance([item(str(digit)) for digit in range(10)]).value == 0.1


def test_word_errors_are_of_the_corpus_not_the_mean_of_clips() -> None:
    scorer = english_word_errors()
    items = [item("yes"), item("the child almost hurt the small dog")]
    scores = scorer.score(items, ["no", "The child almost hurt the small dog."])
    assert scores.metrics == {"wer": 1 / 8, "exact": 0.5}
    assert scorer.judge(items[0], "no no") == {"errors": 2, "reference_length": 1}
    assert scorer.chance(items).value == 1.0


def test_captions_chance_is_the_caption_of_another_picture() -> None:
    items = [item("a dog runs fast"), item("two red cars park"), item("children play some ball")]
    scorer = CaptionScorer(ptb_tokens)
    assert scorer.score(items, [i.expected[0] for i in items]).metrics == pytest.approx({"cider": 10.0, "rouge_l": 1.0})
    assert scorer.chance(items).value == 0.0
    assert scorer.chance(items[:1]).value is None
