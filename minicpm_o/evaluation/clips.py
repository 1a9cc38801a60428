"""Sounds that the evaluation makes itself: silence for blind runs, and noises in which nobody speaks."""

from __future__ import annotations

import io
import wave

import numpy as np

from minicpm_o.rates import AUDIO_RATE_HZ

SILENCE_S = 3.0
"""Length of the silence that stands for a removed sound."""

NOISE_S = 4.0


def wav_bytes(waveform: np.ndarray) -> bytes:
    """Waveform (N,) in [-1, 1] at 16 kHz to the bytes of a 16-bit wav file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AUDIO_RATE_HZ)
        file.writeframes((np.clip(waveform, -1.0, 1.0) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def silence() -> bytes:
    """Digital silence as a wav file."""
    return wav_bytes(np.zeros(round(SILENCE_S * AUDIO_RATE_HZ), dtype=np.float32))


def speechless_clips() -> dict[str, np.ndarray]:
    """Name -> waveform (N,) of silence and noises, always the same."""
    count = round(NOISE_S * AUDIO_RATE_HZ)
    seconds = np.arange(count) / AUDIO_RATE_HZ
    rng = np.random.default_rng(0)
    clips = {"silence": np.zeros(count), "silence_1s": np.zeros(AUDIO_RATE_HZ)}
    for level_db in (-60, -40, -20):
        clips[f"white_{level_db}dB"] = _at_level(rng.standard_normal(count), level_db)
    for name, slope in (("pink", 0.5), ("brown", 1.0)):
        for level_db in (-40, -20):
            clips[f"{name}_{level_db}dB"] = _at_level(_coloured(rng, count, slope), level_db)
    overtones = np.stack([np.sin(2 * np.pi * 50 * k * seconds) / k for k in range(1, 6)])
    clips["hum_50Hz"] = _at_level(overtones.sum(axis=0), -25)
    clips["tone_440Hz"] = _at_level(np.sin(2 * np.pi * 440 * seconds), -20)
    clips["clicks"] = np.where(np.arange(count) % 4_000 < 8, 0.5, 0.0)
    return clips


def _coloured(rng: np.random.Generator, count: int, slope: float) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power of slope (0.5 pink, 1 brown)."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    return np.fft.irfft(spectrum / np.maximum(np.arange(spectrum.size), 1) ** slope, count)


def _at_level(waveform: np.ndarray, level_db: float) -> np.ndarray:
    """The waveform scaled to this level (root mean square, dB below full scale)."""
    return waveform * (10 ** (level_db / 20) / max(float(np.sqrt(np.mean(waveform**2))), 1e-12))
