from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.rates import AUDIO_RATE_HZ, SPEECH_RATE_HZ
from minicpm_o.runtime.speech import Speaker
from minicpm_o.runtime.speech.level import PAUSES_S
from minicpm_o.runtime.speech.voices import find_voices


@pytest.fixture(scope="module")
def toy(toy_graph_path: Path, voices_path: Path, toy_lexicon_path: Path) -> Speaker:
    return Speaker(toy_graph_path, find_voices(voices_path), toy_lexicon_path, threads=1)


@pytest.fixture(scope="module")
def speaker(nano: Path) -> Speaker:
    from minicpm_o.checkpoints.bundle import Bundle

    return Speaker.from_bundle(Bundle.open(nano))


def test_speech_is_sound_at_24_khz(toy: Speaker) -> None:
    speech = toy.speak("The cat walked.")
    assert speech.rate_hz == SPEECH_RATE_HZ == 24_000
    assert speech.waveform.dtype == np.float32 and speech.waveform.ndim == 1
    assert 0 < np.abs(speech.waveform).max() <= 1
    assert speech.phonemes == "ðə kˈæt wˈɔkt."
    assert speech.seconds == pytest.approx(len(speech.waveform) / 24_000)


def test_a_stream_is_the_same_speech_in_parts(toy: Speaker) -> None:
    text = "The cat walked. The dog walked! Cat?"
    parts = list(toy.stream(text))
    assert [part.phonemes for part in parts] == ["ðə kˈæt wˈɔkt.", "ðə dˈɔɡ wˈɔkt!", "kˈæt?"]
    assert np.array_equal(np.concatenate([part.waveform for part in parts]), toy.speak(text).waveform)


def test_clauses_are_equally_loud_and_end_in_their_pause(toy: Speaker) -> None:
    parts = list(toy.stream("Cat. Walked walking dogs in London. Zebra!", voice="af_heart"))
    pause = round(PAUSES_S["."] * SPEECH_RATE_HZ)
    loudness = [np.sqrt(np.mean(part.waveform[:-pause] ** 2)) for part in parts]
    assert max(loudness) / min(loudness) < 1.2
    assert all(not part.waveform[-pause:].any() for part in parts)


def test_speed_changes_the_length(toy: Speaker) -> None:
    normal, fast, slow = (toy.speak("The cat walked.", speed=speed).seconds for speed in (1.0, 2.0, 0.5))
    assert fast < normal < slow


@pytest.mark.parametrize("speed", [0.0, -1.0, 0.49, 2.01, math.nan, math.inf])
def test_speed_out_of_range(toy: Speaker, speed: float) -> None:
    with pytest.raises(OptionError, match=r"0\.5 to 2\.0"):
        toy.speak("cat", speed=speed)


@pytest.mark.parametrize("text", ["", "   \n", "...", "“”", "\u200b"])
def test_nothing_to_say(toy: Speaker, text: str) -> None:
    with pytest.raises(OptionError, match="nothing to say"):
        toy.speak(text)


def test_errors_come_before_the_first_clause(toy: Speaker) -> None:
    with pytest.raises(OptionError, match="af_heart, jm_kumo"):
        toy.stream("cat", voice="nobody")


def test_long_text_is_spoken_in_clauses(toy: Speaker) -> None:
    parts = list(toy.stream("cat dog walk " * 300))
    assert len(parts) > 5 and all(len(part.phonemes) <= 510 for part in parts)
    assert sum(part.phonemes.count("kˈæt") for part in parts) == 300


def test_voices_are_listed(toy: Speaker) -> None:
    assert [(voice.name, voice.language) for voice in toy.voices()] == [("af_heart", "en-US"), ("jm_kumo", "ja")]


def test_missing_graph(voices_path: Path, toy_lexicon_path: Path, tmp_path: Path) -> None:
    speaker = Speaker(tmp_path / "gone.onnx", find_voices(voices_path), toy_lexicon_path, threads=1)
    with pytest.raises(CheckpointError, match=r"gone\.onnx"):
        speaker.speak("cat")


def words(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


@pytest.mark.parametrize(
    "text",
    [
        "The picture shows a brown dog running across a wet beach.",
        "There are twenty people in the photograph, and most of them are smiling.",
    ],
)
def test_speech_is_understood_by_the_recogniser(speaker: Speaker, nano: Path, text: str) -> None:
    import soxr

    from minicpm_o.checkpoints.bundle import Bundle
    from minicpm_o.runtime.device import plan_device
    from minicpm_o.runtime.transcribe import Recogniser

    recogniser = Recogniser.from_bundle(Bundle.open(nano), plan_device())
    heard = recogniser.transcribe(soxr.resample(speaker.speak(text).waveform, SPEECH_RATE_HZ, AUDIO_RATE_HZ)).text
    spoken, transcribed = words(text), words(heard.replace("20", "twenty"))
    missing = [word for word in spoken if word not in transcribed]
    assert len(missing) <= 1, f"spoke {text!r}, heard {heard!r}"


def test_nano_has_a_default_voice_and_speaks_anything(speaker: Speaker) -> None:
    assert speaker.voices()
    speech = speaker.speak("Привет 😂, 3°C!")
    assert 0.5 < speech.seconds < 15 and np.isfinite(speech.waveform).all()
