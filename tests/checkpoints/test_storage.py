from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from minicpm_o.checkpoints.storage import (
    check_room,
    default_home,
    home_lock,
    sha256_of,
    work_folder,
    write_atomic,
    writing_to,
)
from minicpm_o.errors import CheckpointError, DiskFullError

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_atomic_tells_hash_and_size_before_the_file_appears(tmp_path: Path) -> None:
    path, heard = tmp_path / "deep" / "file", []

    def check(sha256: str, num_bytes: int) -> None:
        heard.append((sha256, num_bytes, path.exists()))

    write_atomic(path, [b"a", b"bc"], check)
    assert heard == [(ABC, 3, False)]
    assert path.read_bytes() == b"abc" and sha256_of(path) == ABC


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_write_atomic_keeps_others_out_when_told(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", [memoryview(b"a")], mode=0o600)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def chunks() -> Iterator[bytes]:
        yield b"new"
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="no room"), writing_to(tmp_path):
        write_atomic(path, chunks())
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_refusals_name_the_folder_and_the_way_out(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(CheckpointError, match="MINICPM_O_HOME"), home_lock(blocked / "home"):
        pass
    with pytest.raises(OSError, match="broken pipe"), writing_to(tmp_path):
        raise OSError(errno.EPIPE, "broken pipe")  # not a refusal of the disk: left as it is


def test_too_small_a_disk_is_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=r"no room to write in .*are needed.*MINICPM_O_HOME"):
        check_room(tmp_path / "not" / "yet", 10**18)
    check_room(tmp_path, 1)


def test_lock_clears_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / ".work-dead").mkdir()
    (tmp_path / ".work-dead" / "half").touch()
    (tmp_path / "parts" / ".work-dead-model.bin").touch()
    (tmp_path / "parts" / "whole").touch()
    with home_lock(tmp_path), work_folder(tmp_path) as folder:
        assert folder.is_dir()
        (folder / "new").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".lock", "parts", "whole"]


def test_home_follows_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINICPM_O_HOME", str(tmp_path))
    assert default_home() == tmp_path
    monkeypatch.setenv("MINICPM_O_HOME", "")
    assert default_home().is_absolute() and "minicpm-o" in str(default_home())
