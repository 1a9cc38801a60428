"""Waveform to the stretches that hold speech, with Silero's voice activity detector.

Knows nothing of words. N waveform samples at 16 kHz. Source: Silero VAD 5 and later (MIT): windows of 512 samples, each
with the 64 samples before it, and a state that the network hands on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..rates import AUDIO_RATE_HZ
from .device import DevicePlan, make_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ..checkpoints.bundle import Bundle

WINDOW_SAMPLES = 512
CONTEXT_SAMPLES = 64
PEAK = 0.5
"""The loudest sample is brought here: at other levels the network misses short words and takes more hum for voice."""
LEAST_PEAK = 1e-3
"""What is quieter is raised no further."""
STATE_SHAPE = (2, 1, 128)
WINDOW_S = WINDOW_SAMPLES / AUDIO_RATE_HZ


@dataclass(frozen=True)
class Segment:
    """A stretch of the waveform."""

    start_s: float
    stop_s: float

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s


@dataclass(frozen=True)
class DetectorConfig:
    """When speech begins and ends."""

    begin: float = 0.5
    """Probability at which speech begins."""
    end: float = 0.35
    """Probability below which it may end: a gap between the two keeps a wavering voice in one piece."""
    min_speech_ms: float = 96.0
    """Shorter bursts are no speech."""
    min_silence_ms: float = 300.0
    """Shorter pauses do not end it."""
    pad_ms: float = 200.0
    """Added on both sides: the first consonant is softer than the vowel that the network hears."""


class SpeechDetector:
    """Finds speech. Holds no state between calls."""

    def __init__(self, session: InferenceSession, config: DetectorConfig | None = None) -> None:
        self.session = session
        self.config = config or DetectorConfig()

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan) -> SpeechDetector:
        return cls(make_session(bundle.path("vad.onnx"), plan, kind="vad"))

    def probabilities(self, waveform: np.ndarray) -> np.ndarray:
        """waveform (N,) float32 -> probability of speech (ceil(N / 512),), one for every 32 ms."""
        windows = _windows(level(waveform))
        state = np.zeros(STATE_SHAPE, np.float32)
        found = np.zeros(len(windows), np.float32)
        for i, window in enumerate(windows):
            found[i], state = self.look(window, state)
        return found

    def look(self, window: np.ndarray, state: np.ndarray) -> tuple[float, np.ndarray]:
        """window (576,): 512 samples after the 64 before them -> probability of speech, and the state to go on with."""
        rate = np.array(AUDIO_RATE_HZ, np.int64)
        output, state = self.session.run(None, {"input": window[None], "state": state, "sr": rate})
        return float(output[0, 0]), state

    def segments(self, waveform: np.ndarray) -> list[Segment]:
        """Stretches of speech in waveform (N,) float32, in order, none touching the next; [] where nobody speaks."""
        runs = speech_runs(self.probabilities(waveform), self.config)
        return _padded(runs, self.config.pad_ms / 1000, len(waveform) / AUDIO_RATE_HZ)


def level(waveform: np.ndarray) -> np.ndarray:
    """(N,) with its loudest sample at PEAK."""
    loudest = float(np.abs(waveform).max(initial=LEAST_PEAK))
    return np.asarray(waveform * (PEAK / loudest), np.float32)


def _windows(waveform: np.ndarray) -> np.ndarray:
    """(N,) to (ceil(N / 512), 576): each window after the end of the one before; zeros around the sound."""
    padded = np.pad(np.asarray(waveform, np.float32), (CONTEXT_SAMPLES, -len(waveform) % WINDOW_SAMPLES))
    if len(padded) < CONTEXT_SAMPLES + WINDOW_SAMPLES:
        return np.zeros((0, CONTEXT_SAMPLES + WINDOW_SAMPLES), np.float32)
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT_SAMPLES + WINDOW_SAMPLES)[::WINDOW_SAMPLES]


def speech_runs(probabilities: np.ndarray, config: DetectorConfig) -> list[Segment]:
    """Probability per window to stretches of speech: hysteresis, short pauses bridged, short bursts dropped."""
    runs: list[Segment] = []
    start: int | None = None
    last_loud = 0
    for i, probability in enumerate([*probabilities.tolist(), *[0.0] * _num_windows(config.min_silence_ms)]):
        if probability >= config.begin or (start is not None and probability >= config.end):
            start, last_loud = (i if start is None else start), i
        elif start is not None and i - last_loud >= _num_windows(config.min_silence_ms):
            runs.append(Segment(start * WINDOW_S, (last_loud + 1) * WINDOW_S))
            start = None
    return [run for run in runs if run.seconds * 1000 >= config.min_speech_ms]


def _num_windows(milliseconds: float) -> int:
    return max(1, round(milliseconds / 1000 / WINDOW_S))


def _padded(runs: list[Segment], pad_s: float, end_s: float) -> list[Segment]:
    """Longer by pad_s on both sides, within the sound; where two would overlap, they meet in the middle."""
    starts = [max(0.0, run.start_s - pad_s) for run in runs]
    stops = [min(end_s, run.stop_s + pad_s) for run in runs]
    for i in range(len(runs) - 1):
        if stops[i] > starts[i + 1]:
            stops[i] = starts[i + 1] = (runs[i].stop_s + runs[i + 1].start_s) / 2
    return [Segment(start, stop) for start, stop in zip(starts, stops, strict=True)]
