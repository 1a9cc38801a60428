"""A stream of samples to the moments where speech begins and ends.

The same network and rules as `vad`, sample by sample: what was heard so far is a value that is passed in and returned.
N waveform samples at 16 kHz; times in ms from the stream's first sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from ...errors import OptionError
from ...rates import AUDIO_RATE_HZ
from ..vad import CONTEXT_SAMPLES, LEAST_PEAK, PEAK, STATE_SHAPE, WINDOW_SAMPLES, SpeechDetector

WINDOW_MS = 1000 * WINDOW_SAMPLES // AUDIO_RATE_HZ
PEAK_HALF_LIFE_MS = 3000.0
"""How long a loud moment makes the gate expect loud speech."""
FADING = 0.5 ** (WINDOW_MS / PEAK_HALF_LIFE_MS)


@dataclass(frozen=True)
class GateConfig:
    """When a turn begins and ends. The names in brackets are those of OpenAI's `server_vad`."""

    threshold: float = 0.5
    """Probability at which speech begins; it may end 0.15 below."""
    min_speech_ms: float = 96.0
    """Shorter bursts are no speech."""
    silence_ms: float = 500.0
    """[silence_duration_ms] Silence after which a turn has ended."""
    early_ms: float = 64.0
    """Silence after which the answer is begun, in case that the turn has ended; 0 never."""
    faint_ms: float = 64.0
    """The same for sound that the network still takes for speech but that is `faint_db` below the loudest of the last
    seconds: the network notices an end a tenth of a second late. 0 never."""
    faint_db: float = 32.0
    prefix_ms: float = 300.0
    """[prefix_padding_ms] What is kept from before speech was noticed."""

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise OptionError(f"threshold is {self.threshold}; it must lie between 0 and 1")
        if self.faint_db < 0:
            raise OptionError(f"faint_db is {self.faint_db}; it must be 0 or more")
        for name in ("min_speech_ms", "silence_ms", "early_ms", "faint_ms", "prefix_ms"):
            if not 0.0 <= getattr(self, name) <= 10_000.0:
                raise OptionError(f"{name} is {getattr(self, name)}; it must lie between 0 and 10000")


@dataclass(frozen=True)
class SpeechBegan:
    """Somebody began to speak."""

    at_ms: float


@dataclass(frozen=True)
class SpeechPaused:
    """Quiet for `early_ms`, or faint for `faint_ms`: the turn may have ended."""

    at_ms: float
    """Where speech was last heard."""


@dataclass(frozen=True)
class SpeechWentOn:
    """The pause was none: speech went on within the turn."""

    at_ms: float


@dataclass(frozen=True)
class SpeechEnded:
    """Quiet for `silence_ms`: the turn has ended."""

    at_ms: float
    """Where speech was last heard."""


GateEvent: TypeAlias = "SpeechBegan | SpeechPaused | SpeechWentOn | SpeechEnded"
Phase = Literal["quiet", "speech", "pause"]


@dataclass(frozen=True, eq=False)
class Gate:
    """What was heard so far."""

    waiting: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Samples that wait for the rest of their window."""
    context: np.ndarray = field(default_factory=lambda: np.zeros(CONTEXT_SAMPLES, np.float32))
    state: np.ndarray = field(default_factory=lambda: np.zeros(STATE_SHAPE, np.float32))
    peak: float = LEAST_PEAK
    windows: int = 0
    """Windows looked at."""
    phase: Phase = "quiet"
    loud_windows: int = 0
    """Windows of speech in a row, while quiet."""
    last_loud: int = -1
    """The last window with speech."""
    loudest: float = 0.0
    """RMS of the loudest window; fades as `peak` does."""
    faint_windows: int = 0
    """Windows in a row that are far below it."""

    @property
    def now_ms(self) -> float:
        return self.windows * WINDOW_MS


def listen(detector: SpeechDetector, gate: Gate, waveform: np.ndarray,
           config: GateConfig = GateConfig()) -> tuple[list[GateEvent], Gate]:
    """Look at waveform (N,) float32, any N; returns what happened in it and the gate for what comes next."""
    sound = np.concatenate([gate.waiting, np.asarray(waveform, np.float32)])
    events: list[GateEvent] = []
    whole = len(sound) // WINDOW_SAMPLES * WINDOW_SAMPLES
    for start in range(0, whole, WINDOW_SAMPLES):
        probability, gate = _look(detector, gate, sound[start : start + WINDOW_SAMPLES])
        happened, gate = _judge(_weigh(gate, sound[start : start + WINDOW_SAMPLES], config), probability, config)
        events += happened
    return events, replace(gate, waiting=sound[whole:].copy())


def _look(detector: SpeechDetector, gate: Gate, window: np.ndarray) -> tuple[float, Gate]:
    """Probability of speech in one window of 512 samples, brought to the level that the network knows."""
    peak = max(float(np.abs(window).max()), gate.peak * FADING, LEAST_PEAK)
    seen = np.concatenate([gate.context, window])
    probability, state = detector.look(seen * (PEAK / peak), gate.state)
    return probability, replace(gate, context=window[-CONTEXT_SAMPLES:].copy(), state=state, peak=peak,
                                windows=gate.windows + 1)


def _weigh(gate: Gate, window: np.ndarray, config: GateConfig) -> Gate:
    """How loud a window is, beside those before it."""
    rms = float(np.sqrt(np.mean(np.square(window))))
    loudest = max(rms, gate.loudest * FADING)
    is_faint = rms < loudest * 10 ** (-config.faint_db / 20)
    return replace(gate, loudest=loudest, faint_windows=gate.faint_windows + 1 if is_faint else 0)


def _judge(gate: Gate, probability: float, config: GateConfig) -> tuple[list[GateEvent], Gate]:
    """One window further: hysteresis, bursts ignored, pauses told early."""
    is_loud = probability >= (config.threshold if gate.phase == "quiet" else config.threshold - 0.15)
    if is_loud:
        return _loud(gate, config)
    quiet_ms = (gate.windows - 1 - gate.last_loud) * WINDOW_MS
    gate = replace(gate, loud_windows=0)
    return _quiet(gate, quiet_ms, config)


def _loud(gate: Gate, config: GateConfig) -> tuple[list[GateEvent], Gate]:
    gate = replace(gate, loud_windows=gate.loud_windows + 1, last_loud=gate.windows - 1)
    if gate.phase == "quiet":
        if gate.loud_windows * WINDOW_MS < config.min_speech_ms:
            return [], gate
        began_ms = (gate.windows - gate.loud_windows) * WINDOW_MS
        return [SpeechBegan(float(began_ms))], replace(gate, phase="speech")
    if gate.phase == "pause" and not gate.faint_windows:
        return [SpeechWentOn(gate.now_ms)], replace(gate, phase="speech")
    if gate.phase == "speech" and config.faint_ms and gate.faint_windows * WINDOW_MS >= config.faint_ms:
        return [SpeechPaused(gate.now_ms - gate.faint_windows * WINDOW_MS)], replace(gate, phase="pause")
    return [], gate


def _quiet(gate: Gate, quiet_ms: float, config: GateConfig) -> tuple[list[GateEvent], Gate]:
    if gate.phase == "quiet":
        return [], gate
    events: list[GateEvent] = []
    at_ms = float((gate.last_loud + 1) * WINDOW_MS)
    if gate.phase == "speech" and config.early_ms and quiet_ms >= config.early_ms:
        events.append(SpeechPaused(at_ms))
        gate = replace(gate, phase="pause")
    if quiet_ms >= config.silence_ms:
        events.append(SpeechEnded(at_ms))
        gate = replace(gate, phase="quiet")
    return events, gate
