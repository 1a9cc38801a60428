"""Mixtures: fixed shares, the same samples whatever the number of ranks, broken rows replaced and counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.errors import InputError, OptionError
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, TextPart
from minicpm_o.training.data.augment import augment
from minicpm_o.training.data.inspect import inspect_source
from minicpm_o.training.data.mixture import Mixture, MixtureConfig, SourceConfig, slots_of
from minicpm_o.training.examples import Example


def text_rows(path: Path, count: int, broken: tuple[int, ...] = ()) -> Path:
    rows = [{"nothing": 1} if number in broken else {"question": f"q{number}", "answer": f"a{number}"}
            for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def config(tmp_path: Path) -> MixtureConfig:
    return MixtureConfig(sources=(
        SourceConfig(name="many", kind="jsonl", path=str(text_rows(tmp_path / "many.jsonl", 11)), weight=3),
        SourceConfig(name="few", kind="jsonl", path=str(text_rows(tmp_path / "few.jsonl", 4)), weight=1)))


def names(micros) -> list[list[str]]:
    return [[example.name for example in micro] for micro in micros]


def test_every_micro_batch_has_the_same_shares(config: MixtureConfig) -> None:
    mixture = Mixture(config, 0, batch_size=16, micro_batch_size=8)
    for step in range(5):
        for micro in mixture.draw(step):
            assert Counter(example.name.split("/")[0] for example in micro) == {"many": 6, "few": 2}
    assert mixture.counts() == {"few": 20, "many": 60}
    epoch = [name for step in range(5) for micro in names(mixture.draw(step)) for name in micro if "few" in name]
    assert len({name.split(": ")[1] for name in epoch[:4]}) == 4, "every row before any comes again"


def test_two_ranks_draw_together_what_one_draws(config: MixtureConfig) -> None:
    whole = Mixture(config, 7, batch_size=16, micro_batch_size=8)
    halves = [Mixture(config, 7, rank, 2, batch_size=16, micro_batch_size=4) for rank in (0, 1)]
    for step in (0, 3):
        parts = [names(half.draw(step)) for half in halves]
        for number, micro in enumerate(names(whole.draw(step))):
            assert sorted(micro) == sorted(parts[0][number] + parts[1][number])
            assert not set(parts[0][number]) & set(parts[1][number])


def test_a_step_needs_no_history_and_another_seed_draws_otherwise(config: MixtureConfig) -> None:
    first, later = (Mixture(config, 1, batch_size=8, micro_batch_size=8) for _ in range(2))
    for step in range(4):
        drawn = names(first.draw(step))
    later.load(first.state())
    assert names(later.draw(3)) == drawn
    assert names(Mixture(config, 2, batch_size=8, micro_batch_size=8).draw(3)) != drawn


def test_broken_rows_are_replaced_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = text_rows(tmp_path / "rows.jsonl", 60, broken=(7,))
    mixture = Mixture(MixtureConfig(sources=(SourceConfig(name="rows", kind="jsonl", path=str(path)),)),
                      batch_size=60, micro_batch_size=60)
    (micro,) = mixture.draw(0)
    assert len(micro) == 60 and mixture.counts() == {"broken rows": 1, "rows": 60}
    assert "rows.jsonl row 8 has the keys ['nothing']" in caplog.text
    again = Mixture(MixtureConfig(sources=(SourceConfig(name="rows", kind="jsonl", path=str(path)),)),
                    batch_size=60, micro_batch_size=60)
    assert names(again.draw(0)) == names([micro]), "what takes its place is always the same"


def test_too_many_broken_rows_end_the_run(tmp_path: Path) -> None:
    path = text_rows(tmp_path / "rows.jsonl", 40, broken=tuple(range(0, 40, 4)))
    source = SourceConfig(name="rows", kind="jsonl", path=str(path))
    with pytest.raises(InputError, match=r"of its last \d+ rows were broken, more than data.max_broken_share = 0.05"):
        Mixture(MixtureConfig(sources=(source,)), batch_size=40, micro_batch_size=40).draw(0)
    with pytest.raises(InputError, match="data.on_error is stop"):
        Mixture(MixtureConfig(sources=(source,), on_error="stop"), batch_size=40, micro_batch_size=40).draw(0)


def test_missing_media_are_broken_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "gone.jpg", "text": "a dog"}) + "\n")
    mixture = Mixture(MixtureConfig(sources=(SourceConfig(name="x", kind="jsonl", path="rows.jsonl"),)),
                      batch_size=1, micro_batch_size=1, folder=tmp_path)
    with pytest.raises(InputError, match=r"gone\.jpg|rows in a row were broken"):
        mixture.draw(0)


def test_a_mixture_that_cannot_be_met_says_what_can(config: MixtureConfig) -> None:
    rare = (config.sources[0].model_copy(update={"weight": 5.0}), config.sources[1])
    with pytest.raises(OptionError, match=r"source 'few' has a share of 0\.167.*micro_batch_size to 6 or more"):
        slots_of(rare, 2, 1)
    assert slots_of(rare, 12, 2) == {"many": 10, "few": 2}
    with pytest.raises(OptionError, match="make it a multiple of 16"):
        Mixture(config, batch_size=24, micro_batch_size=8, world_size=2)
    with pytest.raises(ValueError, match="two sources are called 'many'"):
        MixtureConfig(sources=(config.sources[0], config.sources[0]))


def shown(words: str) -> Example:
    half = np.zeros((32, 32, 3), np.uint8)
    half[:, :16] = 255
    return Example((Message("user", (ImagePart(Image.fromarray(half)), TextPart(words))),))


def test_pictures_are_not_mirrored_where_sides_are_spoken_of() -> None:
    def left_is_bright(example: Example, seed: int) -> bool:
        pixels = np.asarray(augment(example, np.random.default_rng(seed)).messages[0].parts[0].source.convert("L"))
        return pixels[:, 4].mean() > pixels[:, -4].mean()

    assert all(left_is_bright(shown("what is on the left?"), seed) for seed in range(12))
    assert not all(left_is_bright(shown("what is it?"), seed) for seed in range(12))


def test_augmentation_belongs_to_its_draws() -> None:
    sound = Example((Message("user", (AudioPart(np.sin(np.arange(8000) / 9).astype(np.float32), 16_000),)),))
    first, again, other = (augment(sound, np.random.default_rng(seed)).messages[0].parts[0].source
                           for seed in (1, 1, 2))
    assert np.array_equal(first, again) and (len(first) != len(other) or not np.array_equal(first, other))


def test_the_page_shows_samples_and_runs_nothing_of_them(tmp_path: Path) -> None:
    rows = [{"question": "<script>alert(1)</script>", "answer": "x"}, {"question": "q", "answer": "y"}, {"bad": 1}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = inspect_source(str(tmp_path / "rows.jsonl"), 3)
    assert "<script>alert" not in page.html and "&lt;script&gt;alert(1)" in page.html
    assert page.counts == {"rows.jsonl": 3} and len(page.problems) == 1 and "rows.jsonl row 3" in page.problems[0]
    with pytest.raises(OptionError, match="neither a recipe nor a file"):
        inspect_source("nothing-here")


def test_the_page_marks_what_a_model_learns() -> None:
    page = inspect_source("tiny-sft", 2, "tiny-4.5")
    assert "<mark>" in page.html and "media tokens]" in page.html and "data:audio/flac" in page.html
