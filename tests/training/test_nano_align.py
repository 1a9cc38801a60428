"""Nano's third stage: prompts about cached pictures, facts that reward them, and a run of it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from tiny_nano import ByteTokenizer, Layout, make_model, make_store  # noqa: E402

from minicpm_o.training.mixture import Mixture, Sources  # noqa: E402
from minicpm_o.training.nano import Workshop  # noqa: E402
from minicpm_o.training.nano_align import (  # noqa: E402
    AskedPictures,
    _bare,
    align_nano,
    freeze_hearing,
    make_parser,
    recipe_of,
)
from minicpm_o.training.rewards import total_reward  # noqa: E402
from minicpm_o.training.rows import NOT_LEARNED  # noqa: E402
from minicpm_o.training.run_folder import read_metrics  # noqa: E402


@pytest.fixture
def pictures() -> AskedPictures:
    store, rows = make_store(), ([0, 1], [2, 3])
    labels = [(rows[number % 2], name, "caltech101") for number, name in enumerate(("cat", "dog", "cow", "hen", "owl"))]
    sources = Sources(captions=[(rows[0], ["a cat sits", "the cat"]), (rows[1], ["a dog runs"])], labels=labels,
                      boxes=[(rows[0], ["cat"]), (rows[1], ["dog"])])
    return AskedPictures(Mixture(Layout(), store, sources), store)


def test_a_prompt_ends_where_the_assistant_speaks(pictures: AskedPictures) -> None:
    drawn, head = pictures.draw(random.Random(0), 40), ByteTokenizer().encode("assistant\n")
    assert set(Counter(asked.prompt.tasks[0] for asked in drawn)) == {"caption", "naming", "presence"}
    for asked in drawn:
        assert asked.prompt.ids[-len(head) :].tolist() == head and (asked.prompt.labels == NOT_LEARNED).all()
        assert len(asked.prompt.media.image_spans) == 1


def test_what_people_wrote_earns_more_than_what_they_wrote_of_another_picture(pictures: AskedPictures) -> None:
    asked = next(asked for asked in pictures.draw(random.Random(1), 20) if "references" in asked.facts)
    weights = {"caption": 1.0, "answer": 1.0}
    right, wrong = ("a dog runs", "a cat sits") if asked.facts["references"] == ["a dog runs"] else (
        "a cat sits", "a dog runs")
    assert total_reward(right, asked.facts, weights)[0] > total_reward(wrong, asked.facts, weights)[0]


@pytest.mark.parametrize(("answer", "bare"), [("A sea horse.", "sea horse"), ("Yes.", "Yes"), ("An owl.", "owl"),
                                              ("A.", "A")])
def test_names_earn_without_their_article(answer: str, bare: str) -> None:
    assert _bare(answer) == bare


def test_a_run_draws_answers_and_leaves_the_ears_alone(pictures: AskedPictures, tmp_path: Path) -> None:
    needed = [word for name in ("data", "features", "language", "tokenizer", "run") for word in (f"--{name}", ".")]
    options = make_parser().parse_args([*needed, "--steps", "2", "--batch-size", "4", "--micro-batch-size", "2"])
    recipe = recipe_of(options)
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"log_every": 1})})
    model = make_model()
    shop = Workshop(ByteTokenizer(), model, pictures.store, Layout(), pictures.mixture.sources, Sources())
    freeze_hearing(shop)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    align_nano(shop, recipe, tmp_path, pictures)
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first["grpo/kl"] == pytest.approx(0, abs=1e-6) and "grpo/reward" in second
    assert sum(second["samples"].values()) == 8
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert any(".lora_" in name for name in changed) and not any("projector" in name for name in changed)
    assert np.isfinite(second["loss"])
