"""A clean voice to one as it may reach a microphone: another speed, a room, silence around it, loudness, noise.

Knows no files. Shapes: N samples at 16 kHz.
"""

from __future__ import annotations

import numpy as np

from ...rates import AUDIO_RATE_HZ

_SPEEDS = (1.0, 1.0, 0.9, 1.1, 0.95, 1.07)
_SMALLEST = 1e-6


def disturb(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """waveform (N,) -> (N',) float32 in [-1, 1]; what happens to it is drawn."""
    x = change_speed(waveform, _SPEEDS[rng.integers(len(_SPEEDS))])
    if rng.random() < 0.3:
        x = add_room(x, rng)
    x = surround(x, rng, before_s=(0.0, 0.4), after_s=(0.0, 0.3), peak=(0.15, 0.9))
    if rng.random() < 0.6:
        x = add_noise(x, rng)
    return np.clip(x, -1, 1).astype(np.float32)


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Faster and higher by the factor, as a tape would be: another speed is another speaker."""
    import soxr

    return waveform if factor == 1.0 else soxr.resample(waveform, AUDIO_RATE_HZ * factor, AUDIO_RATE_HZ)


def add_room(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An echo: decaying noise of 50 to 250 ms as the room's answer to a click; half of it is heard after the end."""
    length = int(AUDIO_RATE_HZ * rng.uniform(0.05, 0.25))
    room = rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 5))
    room[0] = 3.0 * rng.uniform(0.7, 1.5)  # the direct sound
    return np.convolve(waveform, room / np.abs(room).sum() * 2)[: len(waveform) + length // 2]


def surround(
    waveform: np.ndarray,
    rng: np.random.Generator,
    *,
    before_s: tuple[float, float] = (0.02, 0.25),
    after_s: tuple[float, float] = (0.02, 0.2),
    peak: tuple[float, float] = (0.2, 0.9),
) -> np.ndarray:
    """Silence before and after, and another loudness; lengths and the peak are drawn from the ranges."""
    before, after = (int(AUDIO_RATE_HZ * rng.uniform(*span)) for span in (before_s, after_s))
    x = np.pad(waveform, (before, after))
    return (x / (np.abs(x).max() + _SMALLEST) * rng.uniform(*peak)).astype(np.float32)


def add_noise(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White or rumbling noise, 8 to 35 dB below the voice."""
    noise = rng.standard_normal(len(waveform))
    if rng.random() < 0.5:
        walk = np.cumsum(noise)
        noise = walk - np.convolve(walk, np.ones(400) / 400, "same")  # without what is slower than 40 Hz
        noise /= noise.std() + _SMALLEST
    power = np.mean(waveform**2) / 10 ** (rng.uniform(8, 35) / 10)
    return waveform + noise * np.sqrt(power)
