"""Recipes are strict, changed by key=value, and complain in words."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from minicpm_o.errors import OptionError
from minicpm_o.training.recipe import Recipe, load_recipe, packaged_recipes, parse_recipe


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_are_whole(name: str) -> None:
    recipe = load_recipe(name)
    assert packaged_recipes()[name].read_text().startswith("# "), "the first line says what it is for"
    assert parse_recipe(__import__("yaml").safe_load(recipe.to_yaml())) == recipe


def test_changes_on_the_command_line() -> None:
    recipe = load_recipe("tiny-sft", ["optim.lr=3e-4", "run.steps=7", "model.lora=null", "data.sources=[{name: a, "
                                      "kind: made, path: beeps}]", "sft.speech_codes={weight: 2}"])
    assert (recipe.optim.lr, recipe.run.steps, recipe.model.lora) == (3e-4, 7, None)
    assert [source.name for source in recipe.data.sources] == ["a"]
    assert recipe.sft is not None and recipe.sft.speech_codes is not None and recipe.sft.speech_codes.weight == 2


@pytest.mark.parametrize(("change", "words"), [
    ("optim.rl=1", r"optim\.rl is unknown; did you mean lr\?"),
    ("run.steps=0", r"run\.steps: .*greater than or equal to 1, not 0"),
    ("stage=dance", r"stage: .*'dance'"),
    ("model.lora.rnk=3", r"model\.lora\.rnk is unknown; did you mean rank\?"),
    ("nonsense", "changes nothing; write key=value"),
    ("run.steps.more=1", "run.steps is no table|steps is no table"),
    ("pretrain={}", "the section pretrain would be ignored"),
    ("data.sources=[]", r"data\.sources"),
])
def test_what_is_wrong_is_said(change: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        load_recipe("tiny-sft", [change])


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no recipe 'tiny-stf'.*did you mean tiny-sft\?"):
        load_recipe("tiny-stf")
    (tmp_path / "a.yaml").write_text("a: [1")
    with pytest.raises(OptionError, match="is not YAML"):
        load_recipe(str(tmp_path / "a.yaml"))
    (tmp_path / "b.yaml").write_text("- 1")
    with pytest.raises(OptionError, match="holds list"):
        load_recipe(str(tmp_path / "b.yaml"))


def test_the_fingerprint_tells_what_is_learned_apart() -> None:
    plain = load_recipe("tiny-sft")
    assert load_recipe("tiny-sft", ["run.log_every=5", "run.threads=1"]).fingerprint() == plain.fingerprint()
    assert load_recipe("tiny-sft", ["optim.lr=1e-5"]).fingerprint() != plain.fingerprint()
    assert isinstance(plain, Recipe) and plain.section() == plain.sft
