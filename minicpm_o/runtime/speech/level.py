"""Even loudness and pauses: a clause's waveform is trimmed, brought to one loudness and followed by a set silence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
    return np.concatenate([*trimmed([waveform], rate_hz)])


def trimmed(pieces: Iterable[NDArray[np.float32]], rate_hz: int) -> Iterator[NDArray[np.float32]]:
    """`trim`, piece by piece: quiet is held back until something audible follows. All that is inaudible passes whole.
    """
    frame, margin, fade = (round(seconds * rate_hz) for seconds in (FRAME_S, MARGIN_S, FADE_S))
    sound, given, start = np.zeros(0, np.float32), 0, -1  # of `sound`, so many samples were given; where it begins
    for piece in pieces:
        sound = np.concatenate([sound, piece])
        audible = np.flatnonzero(_frame_rms(sound[: len(sound) // frame * frame], rate_hz) > SILENCE_RMS)
        if not len(audible):
            continue
        if start < 0:
            given = start = max(0, int(audible[0]) * frame - margin)
        stop = (int(audible[-1]) + 1) * frame - 2 * fade  # what the end fades out of
        if stop > max(given, start + fade):
            yield _faded_in(sound[given:stop], fade if given == start else 0)
            given = stop
    audible = np.flatnonzero(_frame_rms(sound, rate_hz) > SILENCE_RMS)
    if not len(audible):
        yield sound
        return
    start = max(0, int(audible[0]) * frame - margin) if start < 0 else start
    stop = min(len(sound), (int(audible[-1]) + 1) * frame + margin)
    rest = sound[max(given, start) : stop]
    yield _faded_in(_faded_in(rest, min(fade, len(rest) // 2) if given <= start else 0)[::-1],
                    min(fade, len(rest) // 2))[::-1]


def level(waveform: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """The sound at the common loudness, never clipped; short or quiet ones are raised at most twofold."""
    peak = float(np.abs(waveform).max(initial=0.0))
    return (waveform * min(gain(waveform, rate_hz), PEAK / peak)).astype(np.float32) if peak else waveform


def gain(waveform: NDArray[np.float32], rate_hz: int) -> float:
    """What brings the audible part of a sound to the common loudness; 1 where nothing is audible."""
    frames = _frame_rms(waveform, rate_hz)
    loud = frames[frames > SILENCE_RMS]
    return float(np.clip(TARGET_RMS / np.sqrt(np.mean(loud**2)), 1 / MAX_GAIN, MAX_GAIN)) if len(loud) else 1.0


def silence(mark: str, rate_hz: int, speed: float) -> NDArray[np.float32]:
    """The pause behind a mark (empty text = no mark); faster speech pauses less."""
    seconds = PAUSES_S.get(mark, PAUSE_WITHOUT_MARK_S) / speed
    return np.zeros(round(seconds * rate_hz), dtype=np.float32)


def _frame_rms(waveform: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """RMS of each 20 ms frame; a rest shorter than that is padded with zeros."""
    frame = round(FRAME_S * rate_hz)
    padded = np.pad(waveform, (0, -len(waveform) % frame))
    return np.asarray(np.sqrt(np.mean(padded.reshape(-1, frame) ** 2, axis=1)), dtype=np.float32)


def _faded_in(waveform: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """The first samples rising from silence."""
    faded = waveform.copy()
    faded[:samples] *= np.linspace(0, 1, samples, dtype=np.float32)
    return np.asarray(faded, dtype=np.float32)
