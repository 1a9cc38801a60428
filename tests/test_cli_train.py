"""`train` and `data inspect` on the command line: listings, a look ahead, a run that goes on, complaints in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from minicpm_o.checkpoints.official import Checkpoint
from minicpm_o.cli import train as verb
from minicpm_o.cli.app import run
from minicpm_o.errors import MissingExtraError
from minicpm_o.training.run_folder import read_metrics

FAST = ["run.batch_size=2", "run.micro_batch_size=2", "data.sources=[{name: a, kind: made, path: beeps}]",
        "run.tensorboard=false", "run.threads=1"]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINICPM_O_HOME", str(tmp_path_factory.mktemp("home")))


def told(capsys: Any) -> Any:
    return json.loads(capsys.readouterr().out)


def test_recipes_are_listed(capsys: Any) -> None:
    assert run(["train", "--list"]) == 0 and "tiny-sft" in capsys.readouterr().out
    assert run(["train", "--list", "--json"]) == 0 and "official-4.5-full" in told(capsys)["recipes"]


def test_a_look_ahead_trains_nothing(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", "tiny-sft", "--dry-run", "--json"]) == 0
    found = told(capsys)
    assert found["parts"]["language"]["learns"] > 0 == found["parts"]["vision"]["learns"]
    assert found["recipe"]["optim"]["betas"] == [0.9, 0.95] and not list(tmp_path.iterdir())


def test_a_run_and_how_it_goes_on(capsys: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(["train", "tiny-sft", "run.steps=3", "run.save_every=2", *FAST, "--out", str(folder), "--quiet",
                "--json"]) == 0
    made = told(capsys)
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[-1]["samples"] == {"a": 6}
    assert Checkpoint.open(Path(made["export"])).config.talker is not None
    assert (folder / "change" / "base.json").is_file() and (folder / "curves.png").stat().st_size > 1000
    told_of = json.loads((folder / "run.json").read_text())
    assert told_of["seed"] == 0 and told_of["torch"] and "steps: 3" in (folder / "recipe.yaml").read_text()
    assert run(["train", "tiny-sft", "run.steps=3", "run.save_every=2", *FAST, "--out", str(folder), "--quiet"]) == 0
    assert read_metrics(folder / "metrics.jsonl") == rows, "what is done is done"
    capsys.readouterr()
    assert run(["train", "tiny-sft", "run.steps=3", "run.seed=1", *FAST, "--out", str(folder), "--quiet"]) == 2
    assert "run.seed is 1, was 0" in capsys.readouterr().err


def test_wrong_words_end_with_one_sentence(capsys: Any) -> None:
    assert run(["train", "tiny-sft", "optim.rl=1"]) == 2
    assert "did you mean lr?" in capsys.readouterr().err
    assert run(["data", "inspect", "nothing-here"]) == 2
    assert "neither a recipe nor a file" in capsys.readouterr().err


def test_a_page_of_samples(capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1 + 1?", "answer": "2"}\n{"broken": 1}\n')
    page = tmp_path / "page.html"
    assert run(["data", "inspect", str(tmp_path / "rows.jsonl"), "--out", str(page), "--json"]) == 0
    found = told(capsys)
    assert found["sources"] == {"rows.jsonl": 2} and "row 2" in found["problems"][0]
    assert "1 + 1?" in page.read_text()


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb.importlib.util, "find_spec", lambda name: None if name == "peft" else True)
    with pytest.raises(MissingExtraError, match=r"training needs peft: pip install 'minicpm-o\[train\]'"):
        verb.check_extra()
