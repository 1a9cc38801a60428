"""Cornell NLVR against metrics_images.py, and what broken files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation.golden.conftest import cases

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.nlvr import load_nlvr, nlvr_scores, read_examples, read_predictions

FILES = ("predictions.csv", "*.json", "expected.json")


def labels_of(case: Path) -> Path:
    (labels,) = (path for path in case.glob("*.json") if path.name != "expected.json")
    return labels


@pytest.mark.parametrize("case", cases("nlvr"))
def test_every_case_belongs_to_a_test(case: Path) -> None:
    assert all(any(case.glob(pattern)) for pattern in FILES), sorted(case.iterdir())


@pytest.mark.parametrize("case", cases("nlvr", *FILES))
def test_scores_are_those_of_the_script(case: Path) -> None:
    expected = json.loads((case / "expected.json").read_text(encoding="utf-8"))
    printed = dict(line.split("=", 1) for line in expected["stdout"].splitlines() if "=" in line)
    if "precision" not in printed:
        with pytest.raises(InputError):
            nlvr_scores(case / "predictions.csv", labels_of(case))
        return
    scores = nlvr_scores(case / "predictions.csv", labels_of(case))
    assert scores.precision == pytest.approx(float(printed["precision"]), abs=1e-9)
    assert scores.consistency == pytest.approx(float(printed["consistency"]), abs=1e-9)
    assert scores.name == "nlvr_official"


# --- rules and files --------------------------------------------------------------------------------------------


def write(folder: Path, lines: list[str], *examples: dict[str, Any]) -> tuple[Path, Path]:
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "dev.json").write_text("".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8")
    return folder / "predictions.csv", folder / "dev.json"


def example(identifier: str, label: str = "true") -> dict[str, Any]:
    return {"identifier": identifier, "sentence": "There is a box.", "label": label, "directory": "0"}


def said(identifier: str, words: list[str]) -> list[str]:
    return [f"dev-{identifier}-{order}.png,{word}" for order, word in enumerate(words)]


def test_a_sentence_is_consistent_when_all_its_examples_are_right(tmp_path: Path) -> None:
    lines = said("1-0", ["TRUE"] * 6) + said("1-1", ["true"] * 5 + ["yes"]) + said("2-0", ["false"] * 6)
    files = write(tmp_path, lines, example("1-0"), example("1-1"), example("2-0", "False"))
    scores = nlvr_scores(*files)
    assert (scores.precision, scores.consistency) == (17 / 18, 1 / 2)


def test_the_last_of_two_lines_for_a_picture_counts_and_blanks_make_it_wrong(tmp_path: Path) -> None:
    files = write(tmp_path, [*said("1-0", ["false"] * 6), *said("1-0", ["true"] * 5 + [" true"])], example("1-0"))
    assert nlvr_scores(*files).precision == 5 / 6
    assert read_predictions(files[0])["1-0-5"] == " true"


@pytest.mark.parametrize(("lines", "message"), [
    (said("1-0", ["true"] * 5), "5 predictions for 6 pictures: 1 are missing \\(1-0-5\\), 0 are of other pictures"),
    (said("1-0", ["true"] * 7), "7 predictions for 6.*0 are missing \\(none\\), 1 are of other pictures \\(1-0-6\\)"),
    (said("3-0", ["true"] * 6), "6 are missing \\(1-0-0, 1-0-1, 1-0-2\\)"),
    (["", *said("1-0", ["true"] * 6)], "predictions.csv line 1 is ''; expected a picture, a comma"),
])  # fmt: skip
def test_predictions_that_do_not_fit_say_so(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        nlvr_scores(*write(tmp_path, lines, example("1-0")))


def test_broken_labels_say_what_is_wrong(tmp_path: Path) -> None:
    _, labels = write(tmp_path, [], {"identifier": "1-0", "sentence": "x"})
    with pytest.raises(InputError, match="dev.json line 1: no field 'label' .fields: identifier, sentence."):
        read_examples(labels)
    with pytest.raises(InputError, match="no labelled examples; expected the JSON file of a split"):
        nlvr_scores(*write(tmp_path, said("1-0", ["true"])))


def test_the_set_is_read_with_its_pictures(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dev.json is not there. Get Cornell NLVR from https://github.com/lil-lab/nlvr"):
        load_nlvr(tmp_path)
    (tmp_path / "dev" / "images" / "0").mkdir(parents=True)
    write(tmp_path / "dev", [], example("1-0"))
    with pytest.raises(InputError, match="the picture .*dev-1-0-0.png is not there"):
        load_nlvr(tmp_path)
    for order in range(6):
        (tmp_path / "dev" / "images" / "0" / f"dev-1-0-{order}.png").write_bytes(b"")
    (item,) = load_nlvr(tmp_path)
    assert (item.label, item.group, len(item.pictures), item.pictures[5].name) == ("true", "1", 6, "dev-1-0-5.png")
