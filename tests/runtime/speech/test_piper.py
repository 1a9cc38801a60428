from __future__ import annotations

from pathlib import Path

import pytest

from minicpm_o.errors import CheckpointError
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.speech.piper import Piper, to_ipa


@pytest.mark.parametrize(
    ("phonemes", "ipa"),
    [
        ("fˈAs", "fˈeɪs"),
        ("tʃ", "tʃ"),
        ("ʧˈIld", "tʃˈaɪld"),
        ("wˈɜɹld", "wˈɜːld"),
        ("bˈɛɾəɹ", "bˈɛɾɚ"),
        ("kˈɑɹ", "kˈɑːɹ"),
        ("ʃˈip", "ʃˈiːp"),
        ("hˈæpi", "hˈæpi"),
        ("blˈu", "blˈuː"),
        ("lˈɪɾᵊl…", "lˈɪɾəl."),
    ],
)
def test_symbols_become_ipa(phonemes: str, ipa: str) -> None:
    assert to_ipa(phonemes) == ipa


@pytest.mark.parametrize("settings", [None, "", "{}", '{"audio": 3}'])
def test_bad_settings(tmp_path: Path, settings: str | None) -> None:
    if settings is not None:
        (tmp_path / "voice.onnx.json").write_text(settings, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"voice\.onnx\.json"):
        Piper.open(tmp_path / "voice.onnx", plan_device(threads=1))
