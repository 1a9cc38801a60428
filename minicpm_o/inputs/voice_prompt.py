"""A reference clip to what voice cloning hears: the flow's mel, the speaker net's and the tokenizer's frames.

Knows nothing of networks. Letters: N samples, F frames, M mel bins.
Source: the mel of HiFi-GAN (arXiv:2010.05646) at 24 kHz, Kaldi's fbank (compute-fbank-feats) at 16 kHz and Whisper's
log-mel (arXiv:2212.04356) at 16 kHz, each with the settings of token2wav.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..errors import AudioError
from ..rates import AUDIO_RATE_HZ, SPEECH_RATE_HZ
from .audio import log_mel, mel_filters

PROMPT_MEL_BINS = 80
PROMPT_FFT_SAMPLES = 1920
PROMPT_HOP_SAMPLES = 480
"""50 frames a second at 24 kHz."""

PROMPT_MARGIN = (PROMPT_FFT_SAMPLES - PROMPT_HOP_SAMPLES) // 2
"""Samples mirrored at either end, so that N samples make N // 480 frames."""

MEL_FLOOR = 1e-5

SPEAKER_MEL_BINS = 80
SPEAKER_WINDOW_SAMPLES = 400
SPEAKER_HOP_SAMPLES = 160
SPEAKER_FFT_SAMPLES = 512
SPEAKER_LOW_HZ = 20.0
PREEMPHASIS = 0.97
POVEY_POWER = 0.85
LEAST_ENERGY = float(np.finfo(np.float32).eps)

TOKENIZER_MEL_BINS = 128

BLOCK_FRAMES = 1000
"""Frames that are transformed at once: bounded memory."""


def resample(waveform: np.ndarray, rate_hz: int, target_hz: int) -> np.ndarray:
    """(N,) float32 at another rate."""
    import soxr

    if rate_hz == target_hz:
        return waveform.astype(np.float32, copy=False)
    resampled: np.ndarray = soxr.resample(waveform.astype(np.float32, copy=False), rate_hz, target_hz)
    return resampled


def prompt_mel(waveform: np.ndarray) -> np.ndarray:
    """The flow's mel of a sound at 24 kHz: natural logarithm of magnitudes, (N,) to (N // 480, 80) float32.

    Raises AudioError if the sound is not (N,) with N of 721 or more, which mirroring its ends needs.
    """
    _check(waveform, PROMPT_MARGIN + 1, SPEECH_RATE_HZ)
    padded = np.pad(waveform.astype(np.float32, copy=False), PROMPT_MARGIN, mode="reflect")
    frames = _frames(padded, PROMPT_FFT_SAMPLES, PROMPT_HOP_SAMPLES)        # (F, 1920)
    filters = mel_filters(PROMPT_MEL_BINS, fft_samples=PROMPT_FFT_SAMPLES, rate_hz=SPEECH_RATE_HZ)
    window = hann(PROMPT_FFT_SAMPLES, PROMPT_FFT_SAMPLES)
    mel = np.empty((len(frames), PROMPT_MEL_BINS), dtype=np.float32)
    for start in range(0, len(frames), BLOCK_FRAMES):
        spectrum = np.fft.rfft(frames[start:start + BLOCK_FRAMES] * window)
        magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
        mel[start:start + BLOCK_FRAMES] = magnitude @ filters.T             # (f, 961) -> (f, 80)
    log_mels: np.ndarray = np.log(np.maximum(mel, np.float32(MEL_FLOOR)))
    return log_mels


def kaldi_fbank(waveform: np.ndarray) -> np.ndarray:
    """Kaldi's log energies of 80 filters of a sound at 16 kHz, (N,) to (F, 80) float32; F counts whole windows only.

    No dither, so that the same sound is the same voice; samples are in [-1, 1], not 16-bit numbers as Kaldi has them.
    Raises AudioError if the sound is not (N,) with N of 400 or more, one window.
    """
    _check(waveform, SPEAKER_WINDOW_SAMPLES, AUDIO_RATE_HZ)
    frames = _frames(waveform.astype(np.float64), SPEAKER_WINDOW_SAMPLES, SPEAKER_HOP_SAMPLES)
    window, filters = hann(SPEAKER_WINDOW_SAMPLES, SPEAKER_WINDOW_SAMPLES - 1) ** POVEY_POWER, kaldi_filters()
    energy = np.empty((len(frames), SPEAKER_MEL_BINS))
    for start in range(0, len(frames), BLOCK_FRAMES):
        block = frames[start:start + BLOCK_FRAMES]
        block = block - block.mean(axis=1, keepdims=True)
        before = np.concatenate([block[:, :1], block[:, :-1]], axis=1)      # the first sample stands before itself
        spectrum = np.fft.rfft((block - PREEMPHASIS * before) * window, SPEAKER_FFT_SAMPLES)
        energy[start:start + BLOCK_FRAMES] = np.abs(spectrum) ** 2 @ filters.T   # (f, 257) -> (f, 80)
    return np.log(np.maximum(energy, LEAST_ENERGY)).astype(np.float32)


def speaker_frames(waveform: np.ndarray) -> np.ndarray:
    """What the speaker network hears of a sound at 16 kHz: `kaldi_fbank` less the mean of each filter, (F, 80)."""
    energies = kaldi_fbank(waveform)
    centred: np.ndarray = energies - energies.mean(axis=0, keepdims=True)
    return centred


def tokenizer_mel(waveform: np.ndarray) -> np.ndarray:
    """What the speech tokenizer hears of a sound at 16 kHz: Whisper's log-mel, (N,) to (128, N // 160)."""
    return log_mel(waveform, mel_bins=TOKENIZER_MEL_BINS)


@lru_cache(maxsize=1)
def kaldi_filters() -> np.ndarray:
    """Triangles (80, 257) over HTK's mel scale from 20 Hz to 8 kHz, each of height 1; the last FFT bin is in none."""
    fft_mel = _htk_mel(np.arange(SPEAKER_FFT_SAMPLES // 2 + 1) * (AUDIO_RATE_HZ / SPEAKER_FFT_SAMPLES))
    low, high = _htk_mel(np.array([SPEAKER_LOW_HZ, AUDIO_RATE_HZ / 2]))
    edges = np.linspace(low, high, SPEAKER_MEL_BINS + 2)[:, None]
    rising = (fft_mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - fft_mel) / (edges[2:] - edges[1:-1])
    filters: np.ndarray = np.maximum(0, np.minimum(rising, falling))
    filters[:, -1] = 0
    return filters


def hann(samples: int, period: int) -> np.ndarray:
    """Hann's window (samples,); a period of the same length is the periodic kind, of one less the symmetric one."""
    window: np.ndarray = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(samples) / period)
    return window


def _htk_mel(hz: np.ndarray) -> np.ndarray:
    mel: np.ndarray = 1127 * np.log1p(hz / 700)
    return mel


def _frames(waveform: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Overlapping windows (F, window), a view; a rest that fills none is left out."""
    return np.lib.stride_tricks.sliding_window_view(waveform, window)[::hop]


def _check(waveform: np.ndarray, at_least: int, rate_hz: int) -> None:
    if waveform.ndim != 1 or len(waveform) < at_least:
        raise AudioError(f"the voice's sound has shape {waveform.shape}, expected (N,) with N of {at_least} or more at "
                         f"{rate_hz} Hz; use a longer sound, mono")
