from __future__ import annotations

import errno
from pathlib import Path

import pytest

from minicpm_o.checkpoints import hub
from minicpm_o.checkpoints.bundle import Bundle, describe_files
from minicpm_o.errors import CheckpointError, DiskFullError, UnknownModelError
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


def checkpoint_in(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "minicpmo", "version": "4.5"}')
    return folder


def test_kinds(folder: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "weights")
    assert hub.kind_of("nano") == "nano"
    assert hub.kind_of(folder) == "bundle"
    assert hub.kind_of(checkpoint) == hub.kind_of(str(checkpoint)) == "checkpoint"
    assert hub.kind_of("openbmb/MiniCPM-o-4_5") == "checkpoint"
    (checkpoint / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnknownModelError, match="is of a model of type 'llama', expected 'minicpmo'"):
        hub.kind_of(checkpoint)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(UnknownModelError, match="is damaged"):
        hub.kind_of(checkpoint)


@pytest.mark.parametrize("name", ["openbmb/MiniCPM-o-2_6", "MiniCPM-o-2_6", "minicpm-o-2_6"])
def test_official_names_are_fetched_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    asked = []

    def download(repo: str, **options: object) -> str:
        asked.append((repo, options))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hub.resolve(name, progress=False) == hub.snapshot(name) == tmp_path
    assert [repo for repo, _ in asked] == ["openbmb/MiniCPM-o-2_6"] * 2
    assert "*.py" in asked[0][1]["ignore_patterns"]  # type: ignore[operator]
    bar = asked[0][1]["tqdm_class"]
    assert bar(total=3).disable and "tqdm_class" not in asked[1][1]  # type: ignore[operator]


def test_a_folder_of_weights_is_its_own_snapshot(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "weights")
    assert hub.snapshot(checkpoint) == hub.resolve(checkpoint) == checkpoint
    with pytest.raises(CheckpointError, match=r"is a checkpoint, not a bundle; `minicpm-o export .* --bits 4`"):
        hub.open_bundle(checkpoint)
    with pytest.raises(UnknownModelError, match="no model 'nano2'"):
        hub.snapshot("nano2")


def refusals() -> list[tuple[Exception, type[CheckpointError], str]]:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    return [
        (OfflineModeIsEnabled("offline mode is on"), CheckpointError, "not on this machine .* cannot be reached"),
        (LocalEntryNotFoundError("no snapshot\nand more"), CheckpointError, r"\(no snapshot\); connect"),
        (OSError(errno.ENOSPC, "No space left"), DiskFullError, "no room to download .* set HF_HOME"),
        (OSError(errno.EIO, "Input/output error"), CheckpointError, "could not be downloaded .*Input/output error"),
    ]


@pytest.mark.parametrize("index", range(4))
def test_a_download_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    error, kind, words = refusals()[index]

    def download(repo: str, **options: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(kind, match=words) as caught:
        hub.snapshot("openbmb/MiniCPM-o-4_5")
    assert type(caught.value) is kind and "\n" not in str(caught.value)


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="no model 'micro'; use one of nano, openbmb/MiniCPM-o-2_6"):
        hub.resolve("micro")
    with pytest.raises(UnknownModelError, match=r"not a model folder: it has no bundle\.json"):
        hub.resolve(tmp_path)


@pytest.mark.parametrize(("text", "words"), [
    ('{"model_type": "qwen2"}', "is of a model of type 'qwen2', expected 'minicpmo'"),
    ('{"model_type": "minicpmv", "version": 2.6}', "is of a model of type 'minicpmv'"),
    ("", "is damaged"), ("[1]", "is damaged"),
])
def test_a_config_that_is_not_ours_says_what_it_is(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UnknownModelError, match=words):
        hub.resolve(tmp_path)


def test_the_list_of_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "find", lambda home: home / "nano-x")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache",
                        lambda name, file: str(tmp_path / file) if name.endswith("4_5") else None)
    models = {model.name: model for model in hub.models(tmp_path)}
    assert models["nano"].can_load and models["nano"].path == tmp_path / "nano-x"
    assert models["openbmb/MiniCPM-o-2_6"].can_load and models["openbmb/MiniCPM-o-2_6"].path is None
    assert models["openbmb/MiniCPM-o-4_5"].path == tmp_path

    def refuse(home: Path) -> Path:
        raise CheckpointError("no connectors")

    monkeypatch.setattr(hub, "find", refuse)
    assert hub.models(tmp_path)[0].path is None
