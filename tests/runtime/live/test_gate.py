"""A stream of samples to turns: whole is chunked, bursts are ignored, pauses are told early."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.api import MiniCPMO
from minicpm_o.errors import OptionError
from minicpm_o.rates import AUDIO_RATE_HZ
from minicpm_o.runtime.live.gate import (
    WINDOW_MS,
    Gate,
    GateConfig,
    SpeechBegan,
    SpeechEnded,
    SpeechPaused,
    SpeechWentOn,
    listen,
)
from minicpm_o.runtime.vad import STATE_SHAPE, WINDOW_SAMPLES


class Loudness:
    """A detector for which a window is speech as far as it is loud."""

    def look(self, window: np.ndarray, state: np.ndarray) -> tuple[float, np.ndarray]:
        return float(np.abs(window[-WINDOW_SAMPLES:]).max() > 0.2), state


def windows(*runs: tuple[int, float]) -> np.ndarray:
    """So many windows of so loud a sound, one run after the other."""
    return np.concatenate([np.full(count * WINDOW_SAMPLES, level, np.float32) for count, level in runs])


def hear(waveform: np.ndarray, config: GateConfig | None = None, size: int | None = None) -> list:
    gate, events = Gate(), []
    for start in range(0, len(waveform), size or len(waveform)):
        piece = waveform[start : start + (size or len(waveform))]
        happened, gate = listen(Loudness(), gate, piece, config or GateConfig())
        events += happened
    return events


def test_a_turn_begins_pauses_and_ends() -> None:
    events = hear(windows((10, 0.0), (10, 0.5), (20, 0.0)), GateConfig(early_ms=160, silence_ms=480))
    assert events == [SpeechBegan(10 * WINDOW_MS), SpeechPaused(20 * WINDOW_MS), SpeechEnded(20 * WINDOW_MS)]


def test_a_burst_is_no_speech() -> None:
    assert hear(windows((5, 0.0), (2, 0.5), (30, 0.0)), GateConfig(min_speech_ms=96)) == []


def test_a_pause_within_a_turn_is_taken_back() -> None:
    events = hear(windows((10, 0.5), (6, 0.0), (10, 0.5), (30, 0.0)), GateConfig(early_ms=160, silence_ms=480))
    assert [type(event) for event in events] == [SpeechBegan, SpeechPaused, SpeechWentOn, SpeechPaused, SpeechEnded]


def test_a_faint_end_is_a_pause_before_the_network_says_so() -> None:
    class Late(Loudness):
        """Still hears speech in what is faint."""

        def look(self, window: np.ndarray, state: np.ndarray) -> tuple[float, np.ndarray]:
            return float(np.abs(window[-WINDOW_SAMPLES:]).max() > 0), state

    def found(*runs: tuple[int, float], **options: float) -> list:
        sound = windows(*runs) + np.float32(1e-9)
        return listen(Late(), Gate(), sound, GateConfig(silence_ms=480, **options))[0]

    end = (10 + 9) * WINDOW_MS
    faint = found((10, 0.5), (9, 0.005), faint_ms=64)
    assert faint == [SpeechBegan(0.0), SpeechPaused(10 * WINDOW_MS)]
    assert found((10, 0.5), (9, 0.005), faint_ms=0) == [SpeechBegan(0.0)]
    assert found((10, 0.5), (9, 0.05), faint_ms=64) == [SpeechBegan(0.0)]  # 20 dB down is speech still
    assert found((10, 0.5), (9, 0.005), (1, 0.5), faint_ms=64)[2:] == [SpeechWentOn(end + WINDOW_MS)]
    assert found((10, 0.5), (1, 0.005), (10, 0.5), faint_ms=64) == [SpeechBegan(0.0)]


def test_without_early_answers_only_the_end_is_told() -> None:
    events = hear(windows((10, 0.5), (30, 0.0)), GateConfig(early_ms=0, faint_ms=0))
    assert [type(event) for event in events] == [SpeechBegan, SpeechEnded]


@pytest.mark.parametrize("size", [1, 160, 511, 513, 4000])
def test_whole_is_chunked(size: int) -> None:
    waveform = windows((4, 0.0), (9, 0.4), (7, 0.0), (9, 0.6), (25, 0.0))[: -100]
    assert hear(waveform, size=size) == hear(waveform)


def test_the_real_network_hears_a_real_sentence(model: MiniCPMO) -> None:
    import soxr

    speech = soxr.resample(model.speak("What is the capital of France?").waveform, 24_000, AUDIO_RATE_HZ)
    quiet = np.random.default_rng(0).normal(0, 1e-3, AUDIO_RATE_HZ).astype(np.float32)
    whole = np.concatenate([quiet, 0.5 * speech, quiet]).astype(np.float32)
    events, gate = listen(model.parts.recogniser.detector, Gate(), whole)
    began = next(event for event in events if isinstance(event, SpeechBegan))
    ended = next(event for event in events if isinstance(event, SpeechEnded))
    speech_ms = 1000 * len(speech) / AUDIO_RATE_HZ
    assert 900 <= began.at_ms <= 1250 and abs(ended.at_ms - 1000 - speech_ms) < 500  # the voice ends with a breath
    assert gate.state.shape == STATE_SHAPE


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"silence_ms": -1.0}, {"prefix_ms": 1e6}])
def test_settings_out_of_range_are_named(wrong: dict) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        GateConfig(**wrong)
