"""Pairs of a model's own answers: the best against the worst, to a file and back into DPO's feed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fixed_draws import Fixed

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from minicpm_o.errors import InputError, OptionError  # noqa: E402
from minicpm_o.training.align import AlignConfig, build  # noqa: E402
from minicpm_o.training.data.formats import example_of, read_rows  # noqa: E402
from minicpm_o.training.data.made import made_example  # noqa: E402
from minicpm_o.training.preferences import PairSettings, sample_pairs, weights_of, write_pairs  # noqa: E402
from minicpm_o.training.rewards import total_reward  # noqa: E402
from minicpm_o.training.trainee import OfficialTrainee, open_trainee  # noqa: E402

LETTERS = PairSettings({"format": 1.0}, group=16, max_tokens=6)
HAS_E = {"format": ".*e.*"}


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory) -> OfficialTrainee:
    return open_trainee("tiny-4.5", home=tmp_path_factory.mktemp("home"))


def rows_file(folder: Path, rows: list[Any]) -> Path:
    Image.new("RGB", (32, 32), "red").save(folder / "red.png")
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_better_answer_is_the_better_paid_one(trainee: OfficialTrainee) -> None:
    example = made_example("captions", 0, name="made 0")
    (pair,) = sample_pairs(trainee, [example.__class__(example.messages, name="made 0", facts=HAS_E)], LETTERS)
    chosen, rejected = (total_reward(text, HAS_E, LETTERS.weights)[0]
                        for text in (pair.messages[-1].parts[0].text, pair.rejected))
    assert (chosen, rejected) == (1, 0) and pair.messages[:-1] == example.messages[:-1] and pair.name == "made 0"


def test_answers_that_are_all_alike_make_no_pair(trainee: OfficialTrainee) -> None:
    example = made_example("captions", 0, name="made 0")
    alike = example.__class__(example.messages, facts={"format": ".*"})
    assert not list(sample_pairs(trainee, [alike], LETTERS))


def test_rows_become_rows_of_pairs_that_dpo_takes(trainee: OfficialTrainee, tmp_path: Path, caplog: Any) -> None:
    asked = {"image": "red.png", "question": "What?", "answer": "Red.", "facts": HAS_E}
    talk = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                         {"role": "user", "content": "c"}], "facts": HAS_E}
    rows = rows_file(tmp_path, [asked, talk, {**asked, "facts": {"smell": 1}}])
    assert write_pairs(trainee, rows, tmp_path / "pairs.jsonl", LETTERS) == (1, 1)
    assert "3 turns; pairs are made of single questions" in caplog.text and "know nothing" in caplog.text
    (row,) = read_rows(tmp_path / "pairs.jsonl")
    _, feed = build(AlignConfig(), trainee, Fixed([example_of(row, tmp_path, name="pair 1")]), 0)
    (micro,) = feed.step(0)
    assert micro.count == 1 and not feed.counts() and row["prompt"] == "What?" and row["facts"]["format"] == ".*e.*"


def test_bad_input(trainee: OfficialTrainee, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no reward 'beauty'"):
        list(sample_pairs(trainee, [], PairSettings({"beauty": 1.0})))
    with pytest.raises(OptionError, match="expected NAME=WEIGHT"):
        weights_of(["facts"])
    with pytest.raises(InputError, match="cannot be read"):
        write_pairs(trainee, tmp_path / "none.jsonl", tmp_path / "out.jsonl", LETTERS)
