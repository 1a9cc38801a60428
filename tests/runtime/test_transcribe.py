"""Windows, loops and beliefs on made-up readings; the real recogniser on speech and on no speech."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.bundle import Bundle
from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.inputs.audio import load_audio
from minicpm_o.rates import AUDIO_RATE_HZ
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.transcribe import (
    Reading,
    Recogniser,
    RecogniserConfig,
    Vocabulary,
    compression,
    cut_long,
    is_doubled,
    loop_length,
    padded_speech,
    speech_windows,
)
from minicpm_o.runtime.vad import Segment

CONFIG = RecogniserConfig()


def spans(windows: list[Segment]) -> list[tuple[float, float]]:
    return [(round(window.start_s, 2), round(window.stop_s, 2)) for window in windows]


def test_neighbours_are_heard_together() -> None:
    speech = [Segment(0.0, 2.0), Segment(2.5, 5.0), Segment(20.0, 22.0), Segment(23.0, 24.0)]
    assert spans(speech_windows(np.zeros(0), speech, CONFIG)) == [(0.0, 5.0), (20.0, 24.0)]


def test_no_window_is_longer_than_whisper_hears() -> None:
    speech = [Segment(float(i), i + 0.9) for i in range(95)]
    windows = speech_windows(np.zeros(96 * AUDIO_RATE_HZ, np.float32), speech, CONFIG)
    assert all(window.seconds <= CONFIG.window_s for window in windows)
    assert len(windows) == 4


def test_long_speech_is_cut_where_it_is_quiet() -> None:
    waveform = np.random.default_rng(0).normal(size=70 * AUDIO_RATE_HZ).astype(np.float32)
    for quiet_s in (25.0, 51.0):
        waveform[round(quiet_s * AUDIO_RATE_HZ) : round((quiet_s + 0.2) * AUDIO_RATE_HZ)] = 0
    pieces = list(cut_long(waveform, Segment(0.0, 70.0), 30.0))
    assert len(pieces) == 3
    assert all(25.0 <= pieces[0].stop_s <= 25.2 for _ in pieces)
    assert 51.0 <= pieces[1].stop_s <= 51.2
    assert [p.start_s for p in pieces[1:]] == [p.stop_s for p in pieces[:-1]]


def test_padding_is_even_frames_within_a_window() -> None:
    for seconds in (0.3, 4.99, 29.9, 30.0):
        speech = np.ones(round(seconds * AUDIO_RATE_HZ), np.float32)
        padded = padded_speech(speech, 4.0, 10.0)
        assert len(padded) % 320 == 0
        assert len(padded) / AUDIO_RATE_HZ == pytest.approx(min(30, max(10, seconds + 4)), abs=0.02)
        np.testing.assert_array_equal(padded[: len(speech)], speech)
        assert not padded[len(speech) :].any()


@pytest.mark.parametrize(("ids", "length"), [
    ([1, 2, 3] * 6, 3), ([7] * 16, 1), ([9, 8, 7, *[1, 2, 3, 4] * 4], 4), ([5] * 15, 0),
    (list(range(40)), 0), ([1, 2, 3] * 3, 0), ([], 0), ([*[1, 2] * 8, 3], 0),
])
def test_loops_are_noticed(ids: list[int], length: int) -> None:
    assert loop_length(ids) == length


@pytest.mark.parametrize(("text", "expected"), [
    ("Turn on the light. Turn on the light.", True),
    ("What is it, really? What is it really?", True),
    ("请把灯打开。请把灯打开", False),
    ("今天天气怎么样？今天天气怎么样", True),
    ("No, no.", False),
    ("Turn on the light. Turn on the radio.", False),
    ("", False),
])
def test_saying_everything_twice_is_noticed(text: str, expected: bool) -> None:
    assert is_doubled(text) == expected


def test_compression_tells_loops_from_sentences() -> None:
    assert compression("He might even have been made amiable himself, had he married a more amiable woman.") < 1.5
    assert compression("Thank you very much. " * 12) > CONFIG.max_compression
    assert compression("") == 0


@pytest.mark.parametrize(("readings", "no_speech", "expected"), [
    ([Reading((1,), -0.3, False)], 0.9, "1"),
    ([Reading((1,), -0.9, False)] * 4, 0.1, "1"),
    ([Reading((1,), -0.9, False)] * 4, 0.6, ""),
    ([Reading((1,), -1.2, False), Reading((2,), -0.5, False)], 0.1, "2"),
    ([Reading((1,), -0.2, True), Reading((2,), -0.5, False)], 0.1, "2"),
    ([Reading((1,), -1.3, False), Reading((2,), -1.2, False), Reading((3,), -1.4, False)], 0.1, "2"),
    ([Reading((1,), -1.3, False), Reading((2,), -1.2, False), Reading((3,), -1.4, False)], 0.7, ""),
    ([Reading((1,), -2.0, False)] * 3, 0.1, ""),
    ([Reading((1,), -0.2, True)] * 3, 0.1, ""),
])
def test_what_is_believed(readings: list[Reading], no_speech: float, expected: str) -> None:
    class Words:
        def text(self, ids: tuple[int, ...]) -> str:
            return "".join(map(str, ids))

    recogniser = Recogniser(None, Words(), None, None)  # type: ignore[arg-type]
    assert recogniser._believed(readings, no_speech)[0] == expected


def test_damaged_lists(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Vocabulary.from_files(tmp_path / "tokenizer.json", tmp_path / "config.json")


@pytest.fixture(scope="module")
def recogniser(nano: Path) -> Recogniser:
    return Recogniser.from_bundle(Bundle.open(nano), plan_device(threads=2))


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_speech_is_written_down(recogniser: Recogniser, samples: Path) -> None:
    transcript = recogniser.transcribe(load_audio(samples / "speech.wav"))
    assert transcript.language == "en"
    assert len(words(transcript.text)) >= 3
    assert transcript.segments[0].avg_logprob > -1


def test_silence_around_and_level_change_no_word(recogniser: Recogniser, samples: Path) -> None:
    speech = load_audio(samples / "speech.wav")
    expected = words(recogniser.transcribe(speech).text)
    pause = np.zeros(5 * AUDIO_RATE_HZ, np.float32)
    transcript = recogniser.transcribe(np.concatenate([pause, 0.3 * speech, pause]))
    assert words(transcript.text) == expected
    assert transcript.segments[0].start_s > 4


def test_two_windows_are_joined(recogniser: Recogniser, samples: Path) -> None:
    speech, pause = load_audio(samples / "speech.wav"), np.zeros(4 * AUDIO_RATE_HZ, np.float32)
    once = words(recogniser.transcribe(speech).text)
    twice = recogniser.transcribe(np.concatenate([speech, pause, speech]))
    assert words(twice.text) == once + once
    assert len(twice.segments) == 2


@pytest.mark.parametrize("sound", ["silence", "white", "pink", "hum", "sudden hum", "tones", "one sample"])
def test_no_words_where_nobody_speaks(recogniser: Recogniser, sound: str) -> None:
    rng, time_s = np.random.default_rng(1), np.arange(5 * AUDIO_RATE_HZ) / AUDIO_RATE_HZ
    spectrum = np.fft.rfft(rng.normal(size=len(time_s)))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))))
    waveform = {
        "silence": np.zeros(len(time_s)), "white": 0.1 * rng.normal(size=len(time_s)),
        "pink": 0.2 * pink / pink.std(), "hum": sum(0.1 * np.sin(2 * np.pi * 60 * k * time_s) / k for k in (1, 2, 3)),
        "sudden hum": (time_s > 1) * sum(0.1 * np.sin(2 * np.pi * 60 * k * time_s) / k for k in range(1, 8)),
        "tones": 0.3 * np.sin(2 * np.pi * np.repeat(rng.choice([262, 330, 392, 523], 20), len(time_s) // 20) * time_s),
        "one sample": np.ones(1),
    }[sound]
    transcript = recogniser.transcribe(waveform.astype(np.float32))
    assert (transcript.text, transcript.language, transcript.segments) == ("", None, ())


def test_unknown_language(recogniser: Recogniser) -> None:
    with pytest.raises(OptionError, match="'klingon'"):
        recogniser.transcribe(np.zeros(AUDIO_RATE_HZ, np.float32), "klingon")
