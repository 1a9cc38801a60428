"""System prompts and tasks: roles, voices, what is said without one. The sentences themselves are in tests/parity."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from minicpm_o.errors import MessageError, OptionError
from minicpm_o.inputs.messages import AudioPart, TextPart
from minicpm_o.inputs.system_prompts import (
    CLONE_EN,
    NEWER_ASSISTANT,
    PROMPTS,
    Language,
    MarkupPart,
    PromptMode,
    mimic,
    read_aloud,
    system_prompt,
)

VOICE = np.zeros(16_000, np.float32)


@pytest.mark.parametrize("version", ["2.6", "4.5"])
@pytest.mark.parametrize("mode", get_args(PromptMode))
@pytest.mark.parametrize("language", get_args(Language))
def test_every_mode_has_a_prompt(version: str, mode: str, language: str) -> None:
    with_voice = () if mode == "default" else (VOICE, 16_000)
    message = system_prompt(version, mode, language=language, **dict(zip(("ref_audio", "rate_hz"), with_voice,
                                                                         strict=False)))
    assert message.role == ("user" if version == "2.6" else "system")
    kinds = [type(part) for part in message.parts]
    expected = {"default": [TextPart], "voice_cloning": [TextPart, AudioPart]}
    assert kinds == expected.get(mode, [TextPart, AudioPart, TextPart])
    assert mode == "default" or (version, mode, language) in PROMPTS


def test_languages_unless_asked() -> None:
    zh, en = (system_prompt(version, "omni", ref_audio=VOICE, rate_hz=16_000).parts[0].text
              for version in ("2.6", "4.5"))
    assert not zh.isascii() and en.isascii()


@pytest.mark.parametrize("mode", ["audio_assistant", "audio_roleplay"])
def test_without_a_voice_the_models_own_is_named(mode: str) -> None:
    parts = system_prompt("2.6", mode, language="en").parts
    assert isinstance(parts[0], MarkupPart) and "<reserved_53>" in parts[0].text
    assert parts[1].text == PROMPTS["2.6", mode, "en"].suffix


def test_omni_without_a_voice() -> None:
    assert system_prompt("4.5", "omni").parts == (TextPart(""),)
    assert "video" in system_prompt("2.6", "omni", language="en").parts[0].text


def test_newer_words() -> None:
    message = system_prompt("4.5", "audio_assistant", ref_audio=VOICE, rate_hz=16_000, newer=True)
    assert message.parts[0].text == CLONE_EN and message.parts[2].text == NEWER_ASSISTANT["en"].suffix
    older = system_prompt("4.5", "audio_assistant", ref_audio=VOICE, rate_hz=16_000)
    assert older.parts[0].text != CLONE_EN


def test_a_voice_is_cut_at_its_limit() -> None:
    part = system_prompt("4.5", "omni", ref_audio=VOICE, rate_hz=16_000, ref_audio_max_ms=250).parts[1]
    assert isinstance(part, AudioPart) and len(part.source) == 4_000 and part.rate_hz == 16_000


def test_wrong_options() -> None:
    with pytest.raises(OptionError, match="no system prompt of mode 'sing'"):
        system_prompt("4.5", "sing")
    with pytest.raises(OptionError, match="language 'fr'"):
        system_prompt("4.5", "omni", language="fr")
    with pytest.raises(OptionError, match="ref_audio_max_ms is 0"):
        system_prompt("4.5", "omni", ref_audio=VOICE, rate_hz=16_000, ref_audio_max_ms=0)
    with pytest.raises(MessageError, match="voice_cloning needs ref_audio"):
        system_prompt("2.6", "voice_cloning")
    with pytest.warns(UserWarning, match="ref_audio has no effect"):
        system_prompt("4.5", ref_audio=VOICE, rate_hz=16_000)


def test_tasks() -> None:
    assert [message.role for message in read_aloud("4.5", "hi", VOICE, rate_hz=16_000)] == ["system", "user"]
    first, second = read_aloud("2.6", "hi", VOICE, rate_hz=16_000, language="en")
    assert first.parts[0].text == CLONE_EN and second.parts[1].text == "hi"
    assert [len(mimic(version, VOICE, rate_hz=16_000)) for version in ("2.6", "4.5")] == [1, 2]
