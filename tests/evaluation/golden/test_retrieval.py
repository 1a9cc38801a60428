"""Image-text retrieval against BLIP's itm_eval, and what broken files say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation.golden.conftest import cases

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.retrieval import load_retrieval, read_mapping, read_scores, retrieval_scores

FILES = ("scores_image_rows_text_cols.csv", "mapping.json", "expected.json")


@pytest.mark.parametrize("case", cases("retrieval"))
def test_every_case_belongs_to_a_test(case: Path) -> None:
    assert all((case / name).is_file() for name in FILES), sorted(case.iterdir())


@pytest.mark.parametrize("case", cases("retrieval", *FILES))
def test_recall_is_that_of_blip(case: Path) -> None:
    expected = json.loads((case / "expected.json").read_text(encoding="utf-8"))
    scores = retrieval_scores(read_scores(case / FILES[0]), read_mapping(case / "mapping.json"))
    assert scores.reported == pytest.approx(expected, abs=1e-9)
    assert (scores.name, scores.not_a_number) == ("retrieval_blip", 0)


# --- rules ------------------------------------------------------------------------------------------------------


def test_the_best_caption_of_an_image_counts() -> None:
    table = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.0]])
    scores = retrieval_scores(table, {0: [0, 2], 1: [1]})
    assert scores.recall.txt_r1 == 0.0  # image 0 prefers caption 1, image 1 caption 0
    assert scores.recall.img_r1 == pytest.approx(100 / 3)  # only caption 2 prefers its own image
    assert scores.recall.txt_r5 == scores.recall.img_r5 == 100.0
    assert (scores.images, scores.captions) == (2, 3)


def test_of_equal_scores_the_last_comes_first() -> None:
    scores = retrieval_scores(np.zeros((3, 3)), {0: [0], 1: [1], 2: [2]})
    assert scores.recall.txt_r1 == scores.recall.img_r1 == pytest.approx(100 / 3)


def test_scores_of_captions_may_be_a_table_of_their_own() -> None:
    own = {0: [0], 1: [1]}
    scores = retrieval_scores(np.eye(2), own, 1 - np.eye(2))
    assert (scores.recall.txt_r1, scores.recall.img_r1) == (100.0, 0.0)
    with pytest.raises(InputError, match=r"shape \(2, 3\); expected \(2, 2\)"):
        retrieval_scores(np.eye(2), own, np.zeros((2, 3)))


def test_scores_that_are_no_numbers_are_counted() -> None:
    assert retrieval_scores(np.array([[np.nan, 1.0]]), {0: [0, 1]}).not_a_number == 1


def test_an_image_without_captions_is_never_found() -> None:
    scores = retrieval_scores(np.eye(2), {0: [0, 1], 1: []})
    assert scores.recall.txt_r10 == 50.0


@pytest.mark.parametrize(("captions", "message"), [
    ({0: [0]}, "image 1 has no list of captions"),
    ({0: [0], 1: [2]}, "image 1 names caption 2; expected 0 to 1"),
    ({0: [0], 1: [0]}, "1 captions belong to no image \\(first: 1\\)"),
])  # fmt: skip
def test_mappings_that_do_not_fit_say_so(captions: dict[int, list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        retrieval_scores(np.eye(2), captions)


def test_a_matrix_must_be_a_table() -> None:
    with pytest.raises(InputError, match=r"image_to_text has the shape \(3,\)"):
        retrieval_scores(np.zeros(3), {})


# --- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "message"), [
    ("1,2\n3\n", "scores.csv line 2 has 1 scores; expected 2"),
    ("1,a\n", "line 1: .*'a'; expected numbers and commas only"),
    ("1,2\n\n", "line 2: .*expected numbers"),
])  # fmt: skip
def test_broken_scores_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "scores.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_scores(tmp_path / "scores.csv")


@pytest.mark.parametrize(("value", "message"), [
    ({}, "no field 'img2txt'"), ({"img2txt": {"a": [0]}}, "more than whole numbers"), ([], "expected a JSON object"),
])  # fmt: skip
def test_broken_mappings_say_what_is_wrong(tmp_path: Path, value: object, message: str) -> None:
    (tmp_path / "mapping.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_mapping(tmp_path / "mapping.json")


def test_sets_of_blip_and_karpathy_are_read_alike(tmp_path: Path) -> None:
    blip, karpathy = tmp_path / "flickr30k_test.json", tmp_path / "dataset_coco.json"
    pairs = {"p/a.jpg": ["one", "two"], "p/b.jpg": ["x"]}
    blip.write_text(json.dumps([{"image": image, "caption": captions} for image, captions in pairs.items()]))
    rows = [{"filename": f"{name}.jpg", "filepath": "p", "split": split, "sentences": [{"raw": word} for word in words]}
            for name, split, words in (("a", "test", ["one", "two"]), ("z", "train", ["no"]), ("b", "test", ["x"]))]
    karpathy.write_text(json.dumps({"images": rows}))
    with pytest.raises(InputError, match="the picture .*a.jpg is not there. Get the Karpathy splits"):
        load_retrieval(blip, tmp_path)
    (tmp_path / "p").mkdir()
    for name in "ab":
        (tmp_path / "p" / f"{name}.jpg").write_bytes(b"")
    assert load_retrieval(blip, tmp_path) == load_retrieval(karpathy, tmp_path)
    assert load_retrieval(blip, tmp_path).captions_of == {0: (0, 1), 1: (2,)}
    with pytest.raises(InputError, match="no pictures of the split 'val'"):
        load_retrieval(karpathy, tmp_path, "val")


def test_a_missing_set_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there. Get the Karpathy splits"):
        load_retrieval(tmp_path / "flickr30k_test.json", tmp_path)
