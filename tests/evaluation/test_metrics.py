from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

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
from minicpm_o.evaluation.normalise import characters, english_words
from minicpm_o.evaluation.official.caption import ptb_tokens

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))


def test_cider_of_a_hand_worked_example() -> None:
    """Two pictures, one reference each, so every n-gram of one picture has idf log 2.

    "a dog runs" against "a dog sits": 1-grams share 2 of 3 (cosine 2/3), 2-grams 1 of 2 (1/2), 3-grams 0, no
    4-grams; same length, so no penalty: 10 * (2/3 + 1/2) / 4 = 2.91667. The second caption is its own reference with
    three orders: 10 * 3/4 = 7.5."""
    hypotheses = [["a", "dog", "runs"], ["my", "cat", "sleeps"]]
    references = [[["a", "dog", "sits"]], [["my", "cat", "sleeps"]]]
    assert cider(hypotheses, references) == pytest.approx([10 * (2 / 3 + 1 / 2) / 4, 7.5])


def test_cider_gives_no_weight_to_words_of_every_picture_and_penalises_length() -> None:
    """ "the" stands in both pictures: idf 0. A caption two words longer: penalty exp(-4/72)."""
    scores = cider([["the"], ["x", "y", "z", "w"]], [[["the", "q"]], [["the", "x", "y"]]])
    assert scores[0] == 0.0
    # orders of picture 2, idf log 2 cancels; reference 1-grams x, y (the: 0), 2-grams (the x), (x y), 3-gram (the x y)
    unigrams, bigrams = 2 / (math.sqrt(4) * math.sqrt(2)), 1 / (math.sqrt(3) * math.sqrt(2))
    assert scores[1] == pytest.approx(10 * math.exp(-1 / 72) * (unigrams + bigrams) / 4)


def test_cider_of_one_picture_is_zero_because_nothing_is_rare() -> None:
    assert cider([["a", "dog"]], [[["a", "dog"]]]) == [0.0]


def test_cider_of_an_empty_caption_is_zero() -> None:
    assert cider([[], ["b"]], [[["a"]], [["b"]]])[0] == 0.0


@pytest.mark.parametrize("case", GOLDEN["captions"])
def test_captions_score_as_coco_caption_scores_them(case: dict) -> None:
    hypotheses = [ptb_tokens(item["prediction"]) for item in case["items"]]
    references = [[ptb_tokens(caption) for caption in item["references"]] for item in case["items"]]
    assert [" ".join(words) for words in hypotheses] == [item["prediction_tokens"] for item in case["items"]]
    scores = cider(hypotheses, references)
    rouge = [rouge_l(words, captions) for words, captions in zip(hypotheses, references, strict=True)]
    assert sum(scores) / len(scores) == pytest.approx(case["cider"], abs=1e-9)
    assert sum(rouge) / len(rouge) == pytest.approx(case["rouge_l"], abs=1e-9)


def test_rouge_l_by_hand() -> None:
    """Common sequence "a dog" of 2: precision 2/3, recall 2/4; beta 1.2."""
    expected = (1 + 1.44) * (2 / 3) * (2 / 4) / (2 / 4 + 1.44 * 2 / 3)
    assert rouge_l(["a", "dog", "runs"], [["a", "big", "dog", "sits"]]) == pytest.approx(expected)
    assert rouge_l([], [["a"]]) == 0.0


def test_word_error_rate_equals_jiwer() -> None:
    pairs = GOLDEN["wer_english"]["pairs"]
    errors = sum(edit_distance(english_words(p["reference"]), english_words(p["hypothesis"])) for p in pairs)
    assert errors / sum(len(english_words(p["reference"])) for p in pairs) == GOLDEN["wer_english"]["wer"]


def test_character_error_rate_equals_jiwer() -> None:
    pairs = GOLDEN["cer_chinese"]["pairs"]
    errors = sum(edit_distance(characters(p["reference"]), characters(p["hypothesis"])) for p in pairs)
    assert errors / sum(len(characters(p["reference"])) for p in pairs) == pytest.approx(GOLDEN["cer_chinese"]["cer"])


@pytest.mark.parametrize(
    ("first", "second", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("same", "same", 0)]
)
def test_edit_distance(first: str, second: str, distance: int) -> None:
    assert edit_distance(list(first), list(second)) == distance


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A cat sits.", "cat"),
        ("Two CATS!", "cat"),
        ("butterflies in a field", "butterfly"),
        ("a pair of scissor", "scissors"),
        ("There are three.", "3"),
        ("I see 3 of them", "three"),
        ("a stop-sign", "stop_sign"),
        ("the moon", "the moon"),
        ("it is yellow green", "yellow-green"),
        ("plate 8H458", "8H458"),
        ("它是红色的。", "红色"),
        ("The dog's tail", "dog"),
        ("crossing buses", "bus"),
    ],
)
def test_answers_that_hold_the_expected_one(answer: str, expected: str) -> None:
    assert contains_answer(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("a caterpillar", "cat"),
        ("an elephant", "ant"),
        ("scar", "car"),
        ("23 apples", "3"),
        ("", "cat"),
        ("anything", ""),
        ("anything", "..."),
        ("a bu", "bus"),
        ("蓝色", "红色"),
    ],
)
def test_answers_that_do_not(answer: str, expected: str) -> None:
    assert not contains_answer(answer, expected)


def test_stems_begin_words() -> None:
    assert contains_stem("Water freezes.", "freez")
    assert not contains_stem("it is nice", "ice")
    assert contains_stem("因为大气散射", "散射")


@pytest.mark.parametrize(
    ("answer", "parsed"),
    [("Yes.", "yes"), ("No, there is none", "no"), ("**yes**", "yes"), ("Nothing", None), ("", None), ("I know", None)],
)
def test_yes_no(answer: str, parsed: str | None) -> None:
    assert yes_no(answer) == parsed


@pytest.mark.parametrize(
    ("answer", "parsed"),
    [("No", "no"), ("It is not there", "no"), ("NO", "yes"), ("", "yes"), ("Yes. No doubt", "yes"), ("maybe", "yes")],
)
def test_pope_rule_takes_all_but_no_for_yes(answer: str, parsed: str) -> None:
    assert pope_yes_no(answer) == parsed


def test_digits_named() -> None:
    assert digits_named("It is seven.") == {"7"}
    assert digits_named("3 or four") == {"3", "4"}
    assert digits_named("ten, 42") == set()


CHOICES = {"A": "a bicycle", "B": "a space shuttle", "C": "a tree", "D": "a horse"}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("B. a space shuttle", "B"),
        ("(C)", "C"),
        ("The answer is D", "D"),
        ("the answer is d.", None),
        ("I see a tree there", "C"),
        ("A horse", "D"),
        ("a tree or a horse", None),
        ("", None),
    ],
)
def test_chosen_letter(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer, CHOICES) == letter
