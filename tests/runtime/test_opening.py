"""Exported bundles that are not as they were made: refused before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from minicpm_o.checkpoints.export import export_checkpoint
from minicpm_o.checkpoints.export_steps import ExportSettings
from minicpm_o.checkpoints.random_official import write_random_checkpoint
from minicpm_o.errors import CheckpointError, HashError
from minicpm_o.runtime.opening import open_parts

SETTINGS = ExportSettings(bits=8, block_size=32, vision=False, hearing=False, speech=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("opening")
    write_random_checkpoint(folder / "source", "4.5")
    return export_checkpoint(folder / "source", folder / "bundle", SETTINGS, progress=False).folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def test_a_copy_opens(bundle: Path) -> None:
    assert open_parts(bundle).config.name == "MiniCPM-o 4.5"


def test_a_file_that_is_gone_cut_short_or_edited_is_named(bundle: Path) -> None:
    data = bundle / "language.onnx.data"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(HashError, match=r"language\.onnx\.data: it has sha256 .*make it again with `minicpm-o export`"):
        open_parts(bundle)
    os.truncate(data, 100)
    with pytest.raises(HashError, match=r"language\.onnx\.data: it has .*\(100 bytes\), expected"):
        open_parts(bundle)
    data.unlink()
    with pytest.raises(HashError, match=r"language\.onnx\.data: it is gone, expected"):
        open_parts(bundle)


@pytest.mark.parametrize("size", ["x", 0, None])
def test_settings_that_make_no_sense(bundle: Path, size: object) -> None:
    path = bundle / "bundle.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["settings"]["block_size"] = size
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is damaged: block_size is"):
        open_parts(bundle)
