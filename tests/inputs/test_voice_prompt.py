"""Features of a reference clip against slow transforms in float64 and a few numbers of other implementations."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.errors import AudioError
from minicpm_o.inputs.voice_prompt import (
    hann,
    kaldi_fbank,
    kaldi_filters,
    prompt_mel,
    resample,
    speaker_frames,
    tokenizer_mel,
)
from oracle import assert_close

LIBROSA = [[1.0094, 0.0281, -3.5394], [-9.2000, -4.5613, -1.6779], [-1.1355, 0.0029, -4.2012]]
KALDI = [[-3.0107, -5.7881, -15.0278], [-10.0700, -5.8469, -8.4085], [-10.0516, -5.7713, -10.8859]]

@pytest.fixture(scope="module")
def sweep() -> np.ndarray:
    """A tone and a rising one, 24000 samples."""
    places = np.arange(24_000)
    return (0.3 * np.sin(0.13 * places) + 0.2 * np.sin(0.00002 * places**2)).astype(np.float32)


def slow_power(frame: np.ndarray, fft_samples: int) -> np.ndarray:
    """Power of the first fft_samples // 2 + 1 frequencies, by the definition of the transform."""
    bins = np.arange(fft_samples // 2 + 1)
    angles = 2 * np.pi * np.outer(bins, np.arange(len(frame))) / fft_samples
    return (np.cos(angles) @ frame) ** 2 + (np.sin(angles) @ frame) ** 2


def slaney_mel(hz: float) -> float:
    return hz / (200 / 3) if hz < 1000 else 15 + np.log(hz / 1000) / (np.log(6.4) / 27)


def slaney_hz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * np.exp((mel - 15) * np.log(6.4) / 27)


def test_prompt_mel_by_its_definition(sweep: np.ndarray) -> None:
    got = prompt_mel(sweep)
    assert got.shape == (50, 80) and got.dtype == np.float32
    mirrored = np.concatenate([sweep[720:0:-1], sweep, sweep[-2:-722:-1]]).astype(np.float64)
    window = np.sin(np.pi * np.arange(1920) / 1920) ** 2
    edges = [slaney_hz(mel) for mel in np.linspace(0, slaney_mel(8000), 82)]
    for frame in (0, 20, 49):
        magnitude = np.sqrt(slow_power(mirrored[480 * frame:480 * frame + 1920] * window, 1920) + 1e-9)
        for bin_ in (0, 17, 40, 79):
            low, centre, high = edges[bin_:bin_ + 3]
            shares = [max(0.0, min((hz - low) / (centre - low), (high - hz) / (high - centre))) * 2 / (high - low)
                      for hz in np.arange(961) * 12.5]
            assert_close(got[frame, bin_], np.log(max(1e-5, float(shares @ magnitude))), 1e-4, f"{frame}, {bin_}")


def test_prompt_mel_equals_librosa(sweep: np.ndarray) -> None:
    """Numbers made once with librosa 0.11."""
    assert_close(prompt_mel(sweep)[[0, 25, 49]][:, [1, 10, 40]], LIBROSA, 1e-3, "mel")


def test_fbank_by_its_definition(sweep: np.ndarray) -> None:
    got = kaldi_fbank(sweep[:16_000])
    assert got.shape == (98, 80) and got.dtype == np.float32
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    mels = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 82)
    for frame in (0, 40, 97):
        samples = sweep[160 * frame:160 * frame + 400].astype(np.float64)
        samples = samples - samples.mean()
        emphasised = np.array([now - 0.97 * before for now, before in zip(samples, [samples[0], *samples[:-1]],
                                                                            strict=True)])
        power = slow_power(emphasised * window, 512)[:256]
        at = 1127 * np.log(1 + np.arange(256) * 31.25 / 700)
        for bin_ in (0, 14, 28, 79):
            low, centre, high = mels[bin_:bin_ + 3]
            shares = np.clip(np.minimum((at - low) / (centre - low), (high - at) / (high - centre)), 0, None)
            expected = np.log(max(np.finfo(np.float32).eps, shares @ power))
            assert_close(got[frame, bin_], expected, 1e-4, f"frame {frame}, filter {bin_}")


def test_fbank_equals_kaldi(sweep: np.ndarray) -> None:
    """Numbers made once with kaldi-native-fbank 1.23, which computes in float32."""
    assert_close(kaldi_fbank(sweep[:16_000])[[0, 50, 97]][:, [1, 14, 28]], KALDI, 1e-2, "log energies")


def test_fbank_of_silence_and_of_a_constant_is_the_floor() -> None:
    floor = np.log(np.finfo(np.float32).eps)
    assert_close(kaldi_fbank(np.zeros(800, np.float32)), np.full((3, 80), floor), 1e-6, "silence")
    assert_close(kaldi_fbank(np.full(800, 0.5, np.float32)), np.full((3, 80), floor), 1e-6, "a constant")


def test_fbank_filters_overlap_to_one() -> None:
    filters = kaldi_filters()
    assert filters.shape == (80, 257) and not filters[:, -1].any()
    inner = np.flatnonzero((np.arange(257) * 31.25 > 60) & (np.arange(257) * 31.25 < 7700))
    assert_close(filters[:, inner].sum(0), np.ones(len(inner)), 1e-9, "sum of the filters")


def test_louder_is_higher_by_its_logarithm(sweep: np.ndarray) -> None:
    """Magnitudes for the flow, powers for the speaker."""
    loud = 4 * sweep
    assert_close((prompt_mel(loud) - prompt_mel(sweep))[10:40, :20], np.full((30, 20), np.log(4)), 2e-2, "mel")
    rise = kaldi_fbank(loud)[:, :60] - kaldi_fbank(sweep)[:, :60]
    assert_close(np.median(rise), 2 * np.log(4), 1e-3, "energies")


def test_speaker_frames_are_centred(sweep: np.ndarray) -> None:
    frames = speaker_frames(sweep[:16_000])
    assert_close(frames.mean(0), np.zeros(80), 1e-4, "mean of every filter")
    assert_close(np.diff(frames, axis=0), np.diff(kaldi_fbank(sweep[:16_000]), axis=0), 1e-5, "shape")


def test_tokenizer_hears_128_bins_at_100_hz(sweep: np.ndarray) -> None:
    mel = tokenizer_mel(sweep[:16_000])
    assert mel.shape == (128, 100) and mel.dtype == np.float32
    assert mel.max() - mel.min() <= 2.0001


def test_windows() -> None:
    assert_close(hann(4, 4), [0, 0.5, 1, 0.5], 1e-12, "periodic")
    assert_close(hann(5, 4), [0, 0.5, 1, 0.5, 0], 1e-12, "symmetric")


def test_resample_keeps_a_tone() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    got = resample(tone, 16_000, 24_000)
    assert got.shape == (24_000,) and got.dtype == np.float32
    expected = np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)
    assert_close(got[1000:-1000], expected[1000:-1000], 1e-3, "440 Hz at 24 kHz")
    assert resample(tone, 16_000, 16_000) is tone


@pytest.mark.parametrize("features", [prompt_mel, kaldi_fbank])
def test_too_short_or_not_mono(features) -> None:
    for sound in (np.zeros(300, np.float32), np.zeros((2, 4000), np.float32)):
        with pytest.raises(AudioError, match="longer sound, mono"):
            features(sound)
