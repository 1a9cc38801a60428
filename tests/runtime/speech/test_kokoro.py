from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.errors import OptionError
from minicpm_o.runtime.device import make_session, plan_device
from minicpm_o.runtime.speech.kokoro import VOCABULARY, Kokoro, to_ids


def test_vocabulary_is_the_published_one() -> None:
    assert len(VOCABULARY) == 114 and len(set(VOCABULARY.values())) == 114
    known = {";": 1, "—": 9, " ": 16, "\u0303": 17, "A": 24, "I": 25, "O": 31, "T": 36, "ᵊ": 42, "h": 50, "z": 68,
             "ɑ": 69, "æ": 72, "ɕ": 77, "ə": 83, "ɡ": 92, "ŋ": 112, "ɹ": 123, "ʃ": 131, "ʧ": 133, "ʌ": 138, "ʒ": 147,
             "ˈ": 156, "ː": 158, "↓": 169, "→": 171, "↘": 173, "ᵻ": 177}  # fmt: skip
    assert {symbol: VOCABULARY[symbol] for symbol in known} == known


def test_flap_and_glottal_stop_have_the_ids_of_training() -> None:
    assert to_ids("ɾʔ") == to_ids("Tt")


def test_unknown_sound() -> None:
    with pytest.raises(OptionError, match="€"):
        to_ids("a€")


def test_tokens_style_and_speed_reach_the_graph(toy_graph_path: Path) -> None:
    kokoro = Kokoro(make_session(toy_graph_path, plan_device(threads=1), kind="speech"))
    style = np.zeros((510, 256), np.float32)
    style[2, 0] = 1  # the row of three phonemes
    waveform = kokoro.synthesise("abc", style, 1.0)
    heights = waveform[::600] / 0.03
    assert waveform.dtype == np.float32
    assert [round(float(height), 3) for height in heights] == [token % 7 + 1 for token in (0, 43, 44, 45, 0)]
    assert len(kokoro.synthesise("abc", style, 2.0)) == len(waveform) // 2
    assert not kokoro.synthesise("ab", style, 1.0).any()


@pytest.mark.parametrize("phonemes", ["", "a" * 511])
def test_limits(toy_graph_path: Path, phonemes: str) -> None:
    kokoro = Kokoro(make_session(toy_graph_path, plan_device(threads=1), kind="speech"))
    with pytest.raises(OptionError, match="510"):
        kokoro.synthesise(phonemes, np.zeros((510, 256), np.float32))
