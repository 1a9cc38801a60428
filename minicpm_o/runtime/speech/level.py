"""Even loudness and pauses: a clause's waveform is trimmed, brought to one loudness and followed by a set silence."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRAME_S = 0.02
TARGET_RMS = 10 ** (-22 / 20)
"""Loudness of the voiced frames, -22 dB of full scale."""

MAX_GAIN = 2.0
PEAK = 0.97
SILENCE_RMS = 10 ** (-46 / 20)
MARGIN_S = 0.04
FADE_S = 0.005

PAUSES_S = {",": 0.12, ";": 0.22, ":": 0.22, "—": 0.20, ".": 0.32, "!": 0.32, "?": 0.34, "…": 0.42}
PAUSE_WITHOUT_MARK_S = 0.06


def trim(waveform: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """The sound between its first and last audible frames, with a short margin and faded edges."""
    audible = np.flatnonzero(_frame_rms(waveform, rate_hz) > SILENCE_RMS)
    if not len(audible):
        return waveform
    frame, margin = round(FRAME_S * rate_hz), round(MARGIN_S * rate_hz)
    start = max(0, int(audible[0]) * frame - margin)
    stop = min(len(waveform), (int(audible[-1]) + 1) * frame + margin)
    return _faded(waveform[start:stop], round(FADE_S * rate_hz))


def level(waveform: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """The sound at the common loudness, never clipped; short or quiet ones are raised at most twofold."""
    frames = _frame_rms(waveform, rate_hz)
    loud = frames[frames > SILENCE_RMS]
    if not len(loud):
        return waveform
    gain = float(np.clip(TARGET_RMS / np.sqrt(np.mean(loud**2)), 1 / MAX_GAIN, MAX_GAIN))
    peak = float(np.abs(waveform).max())
    return (waveform * min(gain, PEAK / peak)).astype(np.float32)


def silence(mark: str, rate_hz: int, speed: float) -> NDArray[np.float32]:
    """The pause behind a mark (empty text = no mark); faster speech pauses less."""
    seconds = PAUSES_S.get(mark, PAUSE_WITHOUT_MARK_S) / speed
    return np.zeros(round(seconds * rate_hz), dtype=np.float32)


def _frame_rms(waveform: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """RMS of each 20 ms frame; a rest shorter than that is padded with zeros."""
    frame = round(FRAME_S * rate_hz)
    padded = np.pad(waveform, (0, -len(waveform) % frame))
    return np.asarray(np.sqrt(np.mean(padded.reshape(-1, frame) ** 2, axis=1)), dtype=np.float32)


def _faded(waveform: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    samples = min(samples, len(waveform) // 2)
    faded, ramp = waveform.copy(), np.linspace(0, 1, samples, dtype=np.float32)
    faded[:samples] *= ramp
    faded[len(faded) - samples :] *= ramp[::-1]
    return np.asarray(faded, dtype=np.float32)
