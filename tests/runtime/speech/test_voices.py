from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.runtime.speech.voices import PREFERRED, choose_voice, describe, find_voices, load_style, piper_name


def test_both_file_kinds_are_found_and_read(voices_path: Path) -> None:
    voices = find_voices(voices_path)
    assert list(voices) == ["af_heart", "jm_kumo"]
    assert load_style(voices["af_heart"]).shape == (510, 256)
    assert load_style(voices["jm_kumo"])[0, 0] == np.float32(0.5)
    assert find_voices(voices_path / "nowhere") == {}


def test_languages() -> None:
    assert describe("af_heart", "x.npy").language == "en-US"
    assert describe("zf_xiaobei", "x.bin").language == "zh"
    assert describe("joe", "piper/en_US-joe-medium.onnx").language == "en-US"
    assert describe("mine", "mine.npy").language == "unknown"
    assert piper_name("a/en_US-joe-medium.onnx") == "joe" and piper_name("other.onnx") == "other"


def test_default_voice() -> None:
    assert choose_voice(None, dict.fromkeys(["jm_kumo", PREFERRED[0]])) == PREFERRED[0]
    assert choose_voice(None, dict.fromkeys(["xx_own"])) == "xx_own"
    assert choose_voice(None, dict.fromkeys(["af_heart", "zf_xiaobei"]), chinese=True) == "zf_xiaobei"


def test_unknown_voice_lists_the_names() -> None:
    with pytest.raises(OptionError, match=r"'bob'.*af_heart, jm_kumo"):
        choose_voice("bob", dict.fromkeys(["jm_kumo", "af_heart"]))
    with pytest.raises(OptionError, match="no voice is installed"):
        choose_voice(None, {})


@pytest.mark.parametrize(
    "content",
    [None, b"", b"\x00" * 100, np.full(510 * 256, np.nan, "<f4").tobytes()],
    ids=["gone", "0", "short", "nan"],
)
@pytest.mark.parametrize("suffix", [".npy", ".bin"])
def test_bad_voice_files(tmp_path: Path, content: bytes | None, suffix: str) -> None:
    path = tmp_path / f"af_bad{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="af_bad"):
        load_style(path)
