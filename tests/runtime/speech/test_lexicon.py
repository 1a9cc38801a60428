from __future__ import annotations

import json
from pathlib import Path

import pytest

from minicpm_o.checkpoints.lexicon import build_lexicon
from minicpm_o.errors import CheckpointError
from minicpm_o.runtime.speech.lexicon import Lexicon


def test_every_word_is_found_and_no_other(tmp_path: Path) -> None:
    words = {f"{letter}{number}": f"p{number}" for letter in "abzé" for number in range(50)}
    for name in ("gold", "silver"):
        (tmp_path / name).write_text(json.dumps(words if name == "gold" else {"x": "y"}), encoding="utf-8")
    build_lexicon(tmp_path / "gold", tmp_path / "silver", tmp_path / "out.gz")
    lexicon = Lexicon.open(tmp_path / "out.gz")
    for word, phonemes in {**words, "x": "y"}.items():
        entry = lexicon.find(word)
        assert entry is not None and entry.default == phonemes
    for missing in ("", "a", "a500", "zz", "\n", "b1\t", "é"):
        assert lexicon.find(missing) is None


def test_gold_wins_and_tags_are_kept(toy_lexicon: Lexicon) -> None:
    cat, read, could, us = (toy_lexicon.find(word) for word in ("cat", "read", "could", "US"))
    assert cat and cat.default == "kˈæt"
    assert read and read.choose("VBN") == "ɹˈɛd" and read.choose("NOUN") == "ɹˈid"
    assert could and could.choose("END") == "kˈʊd"
    assert us and us.choose("NOUN") == "" and us.default == "ˌʌs"
    assert "zebra" in toy_lexicon and "zebr" not in toy_lexicon


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "words").write_text('{"b": "x", "a": "y"}', encoding="utf-8")
    for name in ("one", "two"):
        build_lexicon(tmp_path / "words", tmp_path / "words", tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("content", ["", "[]", "{}", "no json"])
def test_bad_word_list(tmp_path: Path, content: str) -> None:
    (tmp_path / "words").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match="words"):
        build_lexicon(tmp_path / "words", tmp_path / "words", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"no gzip", b"\x1f\x8b\x08\x00broken"])
def test_bad_lexicon_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "lexicon_en.txt.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="lexicon_en"):
        Lexicon.open(path)
