"""Made pictures: what the sentences say is what was drawn, and the training takes them in."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.training.features import AudioCache, FeatureStore, ImageCache
from minicpm_o.training.mixture import Mixture, SceneRow, Sources
from minicpm_o.training.prepare import scenes as made
from minicpm_o.training.prepare.colours import colour_name
from minicpm_o.training.prepare.images import PICTURE_SETS, plan_views
from minicpm_o.training.prepare.work import draws


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    """Five discs with a name, one whose name is a sentence, one among the symbols."""
    folder = tmp_path / "stamps"
    names = ["A red apple.", "A plum.", "Some cherries.", "A pear.", "A fig.", "Eat your broccoli!", "A letter."]
    for index, name in enumerate(names):
        path = folder / ("symbols" if name == "A letter." else "food") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cutout = Image.new("RGBA", (60, 40))
        ImageDraw.Draw(cutout).ellipse((5, 5, 55, 35), fill=(200, 20, 20) if index == 0 else (30, 60, 210))
        cutout.save(path)
        path.with_suffix(".txt").write_text(f"{name}\nde.utf8=Etwas.\n", encoding="utf-8")
    return folder


def test_only_short_names_of_things_are_taken(stamps: Path) -> None:
    assert [stamp.name for stamp in made.find_stamps(stamps)] == [
        "a red apple", "a plum", "some cherries", "a pear", "a fig",
    ]


def test_without_stamps_solids_are_drawn_and_a_warning_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert made.find_stamps(tmp_path / "none") == []
    assert "apt-get install tuxpaint-stamps-default" in caplog.text
    assert made.make_scenes(tmp_path, [], made.SceneConfig(solids=3)) == 3


def test_a_stamp_is_described_by_its_name_and_colour(stamps: Path) -> None:
    apple, plum, *_ = found = made.find_stamps(stamps)
    told = made.one_stamp(apple, found, draws(0, "apple"))
    assert told.captions[0] == "A red apple." and all("colour" not in question for question, _ in told.questions)
    coloured = made.one_stamp(plum, found, draws(0, "plum"))
    assert coloured.captions[:2] == ["A blue plum.", "A plum."]
    assert ("What colour is the plum?", "Blue.") in coloured.questions


@pytest.mark.parametrize(("rgb", "name"), [*((rgb, name) for name, rgb in made.COLOURS.items())])
def test_colours_have_their_own_names(rgb: tuple[int, int, int], name: str) -> None:
    assert colour_name(*rgb) == name


@pytest.mark.parametrize("seed", range(20))
def test_solids_are_apart_and_counted(seed: int) -> None:
    rng = draws(seed, "solids")
    solids = made.draw_solids(rng)
    assert 1 <= len(solids) <= 9
    for index, one in enumerate(solids):
        for other in solids[:index]:
            assert (one.x - other.x) ** 2 + (one.y - other.y) ** 2 > (one.radius + other.radius) ** 2
    scene = made.solids_scene(draws(seed, "solids"))
    words = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    answers = dict(scene.questions)
    assert words.index(answers["How many shapes are there?"].strip(".").lower()) == len(solids)
    for question, answer in scene.questions:
        kind = re.fullmatch(r"How many (\w+)s are there\?", question)
        if kind and kind[1] != "shape":
            assert words.index(answer.strip(".").lower()) == sum(solid.kind == kind[1] for solid in solids)
    assert {f"{solid.colour} {solid.kind}" for solid in solids} == set(scene.present)
    assert not set(scene.absent) & set(scene.present)


def test_a_drawn_solid_has_its_colour_where_it_stands() -> None:
    canvas = Image.new("RGB", (made.SIDE_PX, made.SIDE_PX), made.GROUNDS["grey"])
    for kind in made.SOLIDS:
        made.draw_solid(canvas, made.Solid(kind, "green", 0.5, 0.5, 0.2))
        middle = canvas.getpixel((made.SIDE_PX // 2 - 4, made.SIDE_PX // 2 + 4))
        assert colour_name(*middle) == "green", kind


def test_scenes_are_the_same_every_time(stamps: Path, tmp_path: Path) -> None:
    config = made.SceneConfig(per_stamp=1, several=2, solids=2)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        assert made.make_scenes(folder, made.find_stamps(stamps), config) == 9
    first, second = ((folder / "scenes" / "scenes.jsonl").read_text() for folder in folders)
    assert first == second
    rows = [json.loads(line) for line in first.splitlines()]
    assert all((folders[0] / "scenes" / row["image"]).is_file() and row["en"] for row in rows)
    views = plan_views(folders[0], [one for one in PICTURE_SETS if one.name == "scenes"])
    assert [view.image for view in views] == [row["image"] for row in rows]


def test_the_set_is_optional(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert plan_views(tmp_path, [one for one in PICTURE_SETS if one.name == "scenes"]) == []
    assert "'scenes' is not there" in caplog.text


def test_the_mixture_asks_about_scenes_only_where_there_are_some() -> None:
    store = FeatureStore(ImageCache(np.zeros((1, 4, 8)), np.zeros((1, 6)), []), AudioCache([], []))
    row = SceneRow([0], ["A red ball."], [("What colour is the ball?", "Red.")], ["red ball"], ["blue cube"])
    assert "scene" not in Mixture(None, store, Sources()).shares
    mixture = Mixture(None, store, Sources(scenes=[row]))
    assert "scene" in mixture.shares
    trunk, branches = mixture._scene(random.Random(0))
    assert trunk.images == (0,)
    assert [branch.task for branch in branches] == ["caption", "scene", "presence", "presence"]
    assert [branch.answer for branch in branches] == ["A red ball.", "Red.", "Yes.", "No."]
