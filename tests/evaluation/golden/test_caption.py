"""BLEU, ROUGE-L and CIDEr against pycocoevalcap, its tokeniser against Java's, and what broken files say.

Two columns of the golden cases are not compared: METEOR of the set and of each caption. METEOR 1.5 is a Java program
that matches words by a table of paraphrases and WordNet's synonyms, neither of which this package brings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from evaluation.golden.conftest import cases

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.caption import (
    CaptionScores,
    bleu,
    caption_scores,
    coco_caption_scores,
    load_coco_captions,
    ptb_text,
)

FILES = ("input.json", "expected.json")
NOT_COMPARED = {"METEOR"}
COMPARED = {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr", "per_item"}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def texts_of(case: Path) -> tuple[list[str], list[list[str]]]:
    """Predictions and references of a case, in either of the two layouts."""
    given = read(case / "input.json")
    if "predictions" in given:
        keys = list(given["references"])
        return [given["predictions"][key][0] for key in keys], [given["references"][key] for key in keys]
    return [item["prediction"] for item in given.values()], [item["references"] for item in given.values()]


def has_tokens(case: Path) -> bool:
    return "ptb_tokenised" in read(case / "expected.json")


def with_tokens(wanted: bool) -> list[Any]:
    """The cases that hold the tokens of Java, or those that are tokenised already."""
    return [parameter for parameter in cases("caption", *FILES) if has_tokens(parameter.values[0]) is wanted]


def assert_scores(scores: CaptionScores, expected: Mapping[str, Any]) -> None:
    """Every column of the case, of the set and of each caption, except those that are left out by name."""
    assert set(expected) - NOT_COMPARED <= COMPARED
    found = {f"Bleu_{order}": value for order, value in enumerate(scores.bleu.corpus, start=1)}
    found |= {"ROUGE_L": scores.rouge_l, "CIDEr": scores.cider}
    items = {f"Bleu_{order}": [item[order - 1] for item in scores.bleu.items] for order in range(1, 5)}
    items |= {"ROUGE_L": list(scores.item_rouge_l), "CIDEr": list(scores.item_cider)}
    for name in set(expected) - NOT_COMPARED - {"per_item"}:
        assert found[name] == pytest.approx(expected[name], abs=1e-9, rel=1e-9), name
    for name in set(expected["per_item"]) - NOT_COMPARED:
        assert items[name] == pytest.approx(expected["per_item"][name], abs=1e-9, rel=1e-9), name


# --- golden cases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("caption"))
def test_every_case_belongs_to_a_test(case: Path) -> None:
    assert all((case / name).is_file() for name in FILES), sorted(case.iterdir())
    assert has_tokens(case) or "per_item" in read(case / "expected.json")


@pytest.mark.parametrize("case", with_tokens(True))
def test_captions_are_tokenised_as_java_does_it(case: Path) -> None:
    expected = read(case / "expected.json")["ptb_tokenised"]
    predictions, references = texts_of(case)
    assert [[ptb_text(text)] for text in predictions] == list(expected["predictions"].values())
    assert [list(map(ptb_text, captions)) for captions in references] == list(expected["references"].values())


@pytest.mark.parametrize("case", with_tokens(True))
def test_scores_are_those_of_pycocoevalcap_and_vlmevalkit(case: Path) -> None:
    expected = read(case / "expected.json")
    assert_scores(caption_scores("ptb", *texts_of(case)), expected["official_with_ptb"])
    assert_scores(caption_scores("raw", *texts_of(case)), expected["vlmevalkit_style_no_tokeniser"])


@pytest.mark.parametrize("case", with_tokens(False))
def test_scores_of_split_texts_are_those_of_pycocoevalcap(case: Path) -> None:
    assert_scores(caption_scores("raw", *texts_of(case)), read(case / "expected.json"))


# --- the tokeniser ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("caption", "tokens"), [
    ("The dogs' owner isn't here, is he?", "the dogs owner is n't here is he"),
    ("It's 5 o'clock in the U.S.; people can't've left.", "it 's 5 o'clock in the u.s. people ca n't 've left"),
    ("A $5.00 bill and 50% off w/ a hat", "a $ 5.00 bill and 50 % off w / a hat"),
    ("Mr. Smith's car on Main St. at 10:30pm.", "mr. smith 's car on main st. at 10:30 pm"),
    ("He said “stop”… then left—quickly", "he said stop then left quickly"),
    ("A skateboarder mid-air!! What's that?!", "a skateboarder mid-air !! what 's that ?!"),
    ("£20 and ½ of a #1 pizza 😀", "# 20 and 1/2 of a # 1 pizza"),
    ("No. 5 train, no. five", "no. 5 train no five"),
    ("rock'n'roll at AT&T, y'all; 'twas rock&roll", "rock 'n' roll at at&t y' all 't was rock & roll"),
    ("A man and/or 2 1/2 dogs.cats", "a man and/or 2\u00a01/2 dogs.cats"),
    ("a (platform 9) [x] :-)", "a -lrb- platform 9 -rrb- -lsb- x -rsb- :--rrb-"),
    ("the dog., cat", "the dog. cat"),
    ("", ""),
])  # fmt: skip
def test_tokens_are_those_of_stanfords_tokeniser(caption: str, tokens: str) -> None:
    assert ptb_text(caption) == tokens


# --- the scores -------------------------------------------------------------------------------------------------


def test_bleu_of_a_hand_worked_example() -> None:
    """ "the cat the" against "the cat sat down": 1-grams 2 of 3 ("the" counts once), 2-grams 1 of 2, length 3 of 4."""
    scores = bleu([["the", "cat", "the"]], [[["the", "cat", "sat", "down"]]]).corpus
    assert scores[0] == pytest.approx(2 / 3 * math.exp(1 - 4 / 3), abs=1e-6)
    assert scores[1] == pytest.approx(math.sqrt(2 / 3 * 1 / 2) * math.exp(1 - 4 / 3), abs=1e-6)


def test_of_references_as_near_in_length_bleu_takes_the_shorter() -> None:
    assert bleu([["a", "b"]], [[["a"], ["a", "b", "c"]]]).corpus[0] == pytest.approx(1.0)
    assert bleu([["a"]], [[["a", "b"], ["b", "c", "d"]]]).corpus[0] == pytest.approx(math.exp(-1), abs=1e-6)


def test_an_empty_caption_scores_nothing() -> None:
    scores = caption_scores("ptb", ["!", "a dog"], [["a cat"], ["a dog"]])
    assert (scores.item_rouge_l[0], scores.item_cider[0], scores.bleu.items[0][0]) == (0.0, 0.0, 0.0)


def test_names_hold_the_tokeniser() -> None:
    scores = caption_scores("raw", ["a dog"], [["a dog"]])
    assert set(scores.metrics) == {"bleu_1_raw", "bleu_2_raw", "bleu_3_raw", "bleu_4_raw", "rouge_l_raw", "cider_raw"}


def test_texts_that_do_not_fit_are_errors() -> None:
    with pytest.raises(InputError, match="'13a' is unknown here; known are ptb, raw"):
        caption_scores("13a", ["a"], [["a"]])
    with pytest.raises(InputError, match="1 predictions and references for 2 pictures"):
        caption_scores("raw", ["a"], [["a"], ["b"]])
    with pytest.raises(InputError, match="0 predictions"):
        caption_scores("raw", [], [])
    with pytest.raises(InputError, match="picture 2 has no reference caption"):
        caption_scores("raw", ["a", "b"], [["a"], []])
    with pytest.raises(InputError, match="all reference captions are empty"):
        caption_scores("raw", ["a"], [[" "]])


# --- files of COCO ----------------------------------------------------------------------------------------------

ANNOTATIONS = {
    "images": [{"id": 7, "file_name": "seven.jpg"}, {"id": 8, "file_name": "eight.jpg"}],
    "annotations": [{"image_id": 7, "caption": "A dog runs."}, {"image_id": 7, "caption": "Dog on grass"},
                    {"image_id": 8, "caption": "A cat."}],
}


def test_results_are_scored_against_the_annotations(tmp_path: Path) -> None:
    annotations = write(tmp_path / "captions.json", ANNOTATIONS)
    results = write(tmp_path / "results.json", [{"image_id": 8, "caption": "a cat"}])
    scores = coco_caption_scores(results, annotations)
    assert (scores.rouge_l, scores.bleu.corpus[1]) == pytest.approx((1.0, 1.0), abs=1e-6)
    assert coco_caption_scores(results, annotations, "raw").rouge_l == 0.0


@pytest.mark.parametrize(("results", "message"), [
    ({}, "results.json holds a JSON dict; expected a list"),
    ([{"image_id": 7, "caption": "a"}] * 2, "item 2: a second caption for picture 7"),
    ([{"image_id": 9, "caption": "a"}], "1 pictures have no caption in captions.json \\(first: 9\\)"),
    ([{"image_id": 7}], "item 1 has no field 'caption'; it has image_id"),
])  # fmt: skip
def test_broken_results_say_what_is_wrong(tmp_path: Path, results: object, message: str) -> None:
    annotations = write(tmp_path / "captions.json", ANNOTATIONS)
    with pytest.raises(InputError, match=message):
        coco_caption_scores(write(tmp_path / "results.json", results), annotations)


def test_the_set_is_read_with_its_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="captions_val2014.json is not there. Get COCO captions from https://cocodataset"):
        load_coco_captions(tmp_path)
    write(tmp_path / "annotations" / "captions_val2014.json", ANNOTATIONS)
    with pytest.raises(InputError, match="the picture .*seven.jpg is not there"):
        load_coco_captions(tmp_path)
    (tmp_path / "val2014").mkdir()
    for name in ("seven", "eight"):
        (tmp_path / "val2014" / f"{name}.jpg").write_bytes(b"")
    first, second = load_coco_captions(tmp_path)
    assert (first.id, first.references, second.image.name) == ("7", ("A dog runs.", "Dog on grass"), "eight.jpg")
