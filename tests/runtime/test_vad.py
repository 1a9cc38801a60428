"""Speech or not: hysteresis on made-up probabilities, and the real detector on sounds that nobody speaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.bundle import Bundle
from minicpm_o.inputs.audio import load_audio
from minicpm_o.rates import AUDIO_RATE_HZ
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.vad import (
    WINDOW_S,
    DetectorConfig,
    Segment,
    SpeechDetector,
    _padded,
    _windows,
    level,
    speech_runs,
)

CONFIG = DetectorConfig(min_speech_ms=96, min_silence_ms=160)


def runs(*probabilities: tuple[float, int]) -> list[tuple[int, int]]:
    """Runs in windows of 32 ms for (probability, how many windows) in a row."""
    found = speech_runs(np.repeat([p for p, _ in probabilities], [n for _, n in probabilities]), CONFIG)
    return [(round(run.start_s / WINDOW_S), round(run.stop_s / WINDOW_S)) for run in found]


def test_speech_between_silences() -> None:
    assert runs((0.0, 10), (0.9, 20), (0.0, 10)) == [(10, 30)]


def test_speech_to_the_very_end() -> None:
    assert runs((0.9, 20)) == [(0, 20)]


def test_a_wavering_voice_stays_in_one_piece() -> None:
    assert runs((0.9, 5), (0.4, 20), (0.9, 5), (0.0, 9)) == [(0, 30)]


def test_doubt_alone_does_not_begin_speech() -> None:
    assert runs((0.45, 50)) == []


def test_short_pauses_are_bridged_and_long_ones_not() -> None:
    assert runs((0.9, 10), (0.0, 3), (0.9, 10), (0.0, 8), (0.9, 10)) == [(0, 23), (31, 41)]


def test_clicks_are_no_speech() -> None:
    assert runs((0.0, 5), (0.9, 2), (0.0, 20)) == []


def test_no_sound_no_speech() -> None:
    assert runs() == []


def test_padding_meets_in_the_middle_and_stays_inside() -> None:
    padded = _padded([Segment(0.1, 1.0), Segment(1.2, 2.0)], 0.2, 2.1)
    assert [(round(p.start_s, 6), round(p.stop_s, 6)) for p in padded] == [(0.0, 1.1), (1.1, 2.1)]


@pytest.mark.parametrize(("samples", "windows"), [(0, 0), (1, 1), (512, 1), (513, 2)])
def test_windows_cover_the_sound(samples: int, windows: int) -> None:
    waveform = np.arange(1, samples + 1, dtype=np.float32)
    cut = _windows(waveform)
    assert cut.shape == (windows, 576)
    np.testing.assert_array_equal(cut[:, 64:].reshape(-1)[:samples], waveform)
    if windows == 2:
        np.testing.assert_array_equal(cut[1, :64], waveform[448:512])


@pytest.mark.parametrize(("peak", "expected"), [(1.0, 0.5), (0.01, 0.5), (1e-4, 0.05), (0.0, 0.0)])
def test_level(peak: float, expected: float) -> None:
    assert np.abs(level(np.array([0.0, -peak, peak / 2], np.float32))).max() == pytest.approx(expected)


@pytest.fixture(scope="module")
def detector(nano: Path) -> SpeechDetector:
    return SpeechDetector.from_bundle(Bundle.open(nano), plan_device(threads=1))


def quiet_sounds() -> dict[str, np.ndarray]:
    rng, time_s = np.random.default_rng(0), np.arange(4 * AUDIO_RATE_HZ) / AUDIO_RATE_HZ
    white = rng.normal(size=len(time_s))
    spectrum = np.fft.rfft(rng.normal(size=len(time_s)))
    pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))))
    hum = sum(np.sin(2 * np.pi * 50 * k * time_s) / k for k in range(1, 8))
    sounds = {"silence": np.zeros(len(time_s)), "white noise": white, "pink noise": pink / pink.std(), "hum": hum,
              "tone": np.sin(2 * np.pi * 440 * time_s), "sweep": np.sin(2 * np.pi * (100 + 400 * time_s) * time_s),
              "clicks": (np.arange(len(time_s)) % 8000 == 0).astype(float)}
    return {name: (0.1 * sound).astype(np.float32) for name, sound in sounds.items()}


@pytest.mark.parametrize("name", quiet_sounds())
def test_nobody_speaks(detector: SpeechDetector, name: str) -> None:
    assert detector.segments(quiet_sounds()[name]) == []


def test_somebody_speaks(detector: SpeechDetector, samples: Path) -> None:
    speech = load_audio(samples / "speech.wav")
    pause = np.zeros(2 * AUDIO_RATE_HZ, np.float32)
    found = detector.segments(np.concatenate([pause, speech, pause]))
    assert found
    assert 1.5 < found[0].start_s < 3.5
    assert found[-1].stop_s < 2 + len(speech) / AUDIO_RATE_HZ + 0.5
    assert detector.segments(np.zeros(0, np.float32)) == []
