from __future__ import annotations

from pathlib import Path

import pytest

from minicpm_o.checkpoints import hub
from minicpm_o.checkpoints.bundle import Bundle, describe_files
from minicpm_o.errors import CheckpointError, UnknownModelError
from minicpm_o.model.config import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "language.onnx").write_bytes(b"graph")
    Bundle(folder, "tiny", tiny(), {}, describe_files(folder), {}).write()
    return folder


def test_a_folder_is_itself(folder: Path) -> None:
    assert hub.resolve(folder) == hub.resolve(str(folder)) == folder
    assert hub.open_bundle(folder).name == "tiny"


def test_nano_is_assembled_at_home(monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path) -> None:
    asked = []

    def assemble(home: Path, **options: object) -> Path:
        asked.append((home, options))
        return folder

    monkeypatch.setattr(hub, "assemble", assemble)
    monkeypatch.setenv("MINICPM_O_HOME", str(tmp_path / "home"))
    assert hub.open_bundle("nano", parts={"vad": "x"}, progress=False).folder == folder
    assert asked == [(tmp_path / "home", {"parts": {"vad": "x"}, "progress": False})]


@pytest.mark.parametrize("name", ["openbmb/MiniCPM-o-2_6", "MiniCPM-o-2_6", "minicpm-o-4_5"])
def test_official_names_are_known_and_not_loaded(name: str) -> None:
    with pytest.raises(UnknownModelError, match=r"openbmb/MiniCPM-o-.* does not load it yet; use 'nano'"):
        hub.resolve(name)


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'micro'; use one of \['nano'\]"):
        hub.resolve("micro")
    with pytest.raises(UnknownModelError, match=r"not a model folder: it has no bundle\.json"):
        hub.resolve(tmp_path)


def test_the_list_of_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "find", lambda home: home / "nano-x")
    models = {model.name: model for model in hub.models(tmp_path)}
    assert models["nano"].can_load and models["nano"].path == tmp_path / "nano-x"
    assert not models["openbmb/MiniCPM-o-2_6"].can_load

    def refuse(home: Path) -> Path:
        raise CheckpointError("no connectors")

    monkeypatch.setattr(hub, "find", refuse)
    assert hub.models(tmp_path)[0].path is None
