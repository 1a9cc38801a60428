"""Sources read by number: every sample once an epoch, the same draw for the same count, whatever holds them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.errors import InputError, OptionError
from minicpm_o.inputs.messages import ImagePart, TextPart
from minicpm_o.training.data.made import KINDS, made_example
from minicpm_o.training.data.sources import kind_of_path, open_source, shard_files
from minicpm_o.training.pretrain_feed import loaded


def picture(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(picture())
    lines = [{"image": "a.png", "text": f"number {number}"} for number in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "rows.jsonl"


def said(example) -> str:
    return example.messages[-1].parts[0].text


def test_every_sample_comes_once_an_epoch_in_an_order_of_its_own(rows: Path) -> None:
    source = open_source("jsonl", "rows", str(rows))
    epochs = [[said(source.draw(3, 5 * epoch + place)) for place in range(5)] for epoch in range(3)]
    assert all(sorted(epoch) == [f"number {number}" for number in range(5)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    again = open_source("jsonl", "rows", str(rows))
    assert said(again.draw(3, 11)) == epochs[2][1], "a draw needs no history"
    assert isinstance(loaded(source.draw(3, 0)).messages[0].parts[0].source, Image.Image)


def test_folders_with_texts_beside_or_labels_above(tmp_path: Path) -> None:
    (tmp_path / "dog.png").write_bytes(picture())
    (tmp_path / "dog.txt").write_text("A dog runs.")
    (tmp_path / "water_lilly").mkdir()
    (tmp_path / "water_lilly" / "1.png").write_bytes(picture())
    source = open_source("folder", "pictures", str(tmp_path))
    assert sorted(said(source.example(index)) for index in range(len(source))) == ["A dog runs.", "A water lily."]
    (tmp_path / "bare.png").write_bytes(picture())
    with pytest.raises(InputError, match=r"bare\.png has no bare\.txt"):
        for index in range(3):
            open_source("folder", "pictures", str(tmp_path)).example(index)


def write_tar(path: Path, samples: int, first: int = 0) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(first, first + samples):
            for ending, content in (("png", picture()), ("txt", f"number {number}".encode())):
                info = tarfile.TarInfo(f"{number:04}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_shards_are_read_by_place(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"part-{shard:03}.tar", 3, first=3 * shard)
    source = open_source("shards", "tars", str(tmp_path / "part-{000..001}.tar"))
    assert [said(source.example(index)) for index in (5, 0, 3)] == ["number 5", "number 0", "number 3"]
    assert isinstance(source.example(1).messages[0].parts[0].source, bytes)
    assert len(shard_files(tmp_path / "part-*.tar")) == 2
    with pytest.raises(InputError, match="names no tar file"):
        shard_files(tmp_path / "no-*.tar")
    (tmp_path / "bad.tar").write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match="no tar file that can be read by place"):
        open_source("shards", "bad", str(tmp_path / "bad.tar"))


def test_hugging_face_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"question": ["1 + 1?", "2 + 2?"], "answer": ["2", "4"]}).save_to_disk(tmp_path / "d")
    source = open_source("hf", "sums", str(tmp_path / "d"))
    assert [said(source.example(index)) for index in range(2)] == ["2", "4"]
    assert kind_of_path(tmp_path / "d") == "hf"
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"a": [1]})}).save_to_disk(tmp_path / "s")
    with pytest.raises(InputError, match=r"splits \['train'\]"):
        open_source("hf", "split", str(tmp_path / "s"))


@pytest.mark.parametrize("kind", list(KINDS))
def test_made_samples_belong_to_their_number(kind: str) -> None:
    first, again, other = (made_example(kind, number, name="x") for number in (3, 3, 4))
    medium = first.messages[0].parts[0]
    same = again.messages[0].parts[0]
    if isinstance(medium, ImagePart):
        assert np.array_equal(np.asarray(medium.source), np.asarray(same.source))
    else:
        assert np.array_equal(medium.source, same.source)
    assert isinstance(first.messages[0].parts[1], TextPart) and said(first) == said(again)
    assert {said(made_example(kind, number, name="x")) for number in range(12)} != {said(other)}
    if kind == "pairs":
        assert first.rejected and first.rejected != said(first)


def test_empty_and_unknown_sources(tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").write_text("")
    with pytest.raises(InputError, match=r"source 'x' \(.*none\.jsonl\) is empty"):
        open_source("jsonl", "x", str(tmp_path / "none.jsonl"))
    with pytest.raises(OptionError, match="kind 'sql'; kinds are jsonl"):
        open_source("sql", "x", "y")
    with pytest.raises(OptionError, match="nothing made of the kind"):
        open_source("made", "x", "smells").example(0)
