"""What a folder for an export may be, and how it appears."""

from __future__ import annotations

from pathlib import Path

import pytest

from minicpm_o.checkpoints.storage import writing_to
from minicpm_o.errors import DiskFullError, OptionError
from minicpm_o.portable.folder import FILES, appearing, check_target


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="no exported page"):
        check_target(tmp_path, "page", "web")
    with pytest.raises(OptionError, match="no exported app"):
        check_target(tmp_path / "mine.txt", "app", "ios")
    check_target(tmp_path / "new", "page", "web")


def test_it_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words in ("one", "two"):
        check_target(out, "page", "web")
        with appearing(out, 1) as (folder, scratch):
            (folder / FILES).write_text('{"target": "web"}')
            (folder / "words.txt").write_text(words)
            (scratch / "left over").write_text("gone afterwards")
    assert (out / "words.txt").read_text() == "two"
    with pytest.raises(OptionError, match="no exported app"):  # a page is none
        check_target(out, "app", "ios")
    (out / FILES).write_text("no list")
    with pytest.raises(OptionError, match="no exported page"):
        check_target(out, "page", "web")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_appears_when_something_fails(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError), writing_to(tmp_path), appearing(tmp_path / "out", 1) as (folder, _):
        (folder / FILES).write_text("half")
        raise OSError(28, "No space left on device")
    assert not any(tmp_path.iterdir())


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError), appearing(tmp_path / "out", 10**18):
        pass
    assert not any(tmp_path.iterdir())
