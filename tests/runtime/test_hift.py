"""The harmonic source, and a vocoder made of scripted networks."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.model.config import HiftConfig
from minicpm_o.runtime.hift import Vocoder, frame_samples, harmonics, phases, stretch
from oracle import assert_close

CONFIG = HiftConfig()


class Echo:
    """The pitch stands in the first mel row; the source is the fundamental; the waveform is the source."""

    def pitch(self, mel: np.ndarray) -> np.ndarray:
        return mel[0]

    def excite(self, harmonics: np.ndarray) -> np.ndarray:
        return harmonics[:, 0]

    def decode(self, mel: np.ndarray, source: np.ndarray) -> np.ndarray:
        return source


def test_a_frame_is_480_samples() -> None:
    assert frame_samples(CONFIG) == Vocoder(Echo(), CONFIG).frame_samples == 480


@pytest.mark.parametrize("hz", [55.0, 220.0])
def test_a_steady_pitch_gives_sines_at_its_multiples(hz: float) -> None:
    sines = harmonics(np.full(25, hz, np.float32), CONFIG)                  # half a second
    assert sines.shape == (12_000, 9)
    power = np.abs(np.fft.rfft(sines[480:-480] * np.hanning(11_040)[:, None], n=24_000, axis=0))
    assert_close(power.argmax(0), hz * np.arange(1, 10), 1, "loudest frequency in Hz")
    assert_close(np.abs(sines).max(0), np.full(9, 0.1), 1e-3, "gain")


def test_phase_is_the_integral_of_the_pitch() -> None:
    """Exact turns in float64, at the middles of the frames where the reference sums."""
    hz = np.array([100, 150, 210, 90], np.float32)
    turns = np.cumsum(hz.astype(np.float64) * 480 / 24_000)
    got = phases(hz, CONFIG)[:, 0].astype(np.float64) / (2 * np.pi)
    between = (np.arange(4 * 480) + 0.5) / 480 - 0.5
    assert_close(got, np.interp(between, np.arange(4), turns), 1e-5, "turns")


def test_stretch_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32) * 1000
    expected = torch.nn.functional.interpolate(torch.from_numpy(values.T)[None], scale_factor=480.0, mode="linear")
    assert_close(stretch(values, 480), expected[0].T.numpy(), 2e-4, "stretched")


def test_noise_is_loud_only_without_a_voice() -> None:
    hz = np.repeat(np.array([5, 200], np.float32), 20)
    quiet = harmonics(hz, CONFIG)
    noise = harmonics(hz, CONFIG, np.random.default_rng(0)) - quiet
    assert not quiet[:20 * 480].any()
    assert_close(noise[:20 * 480].std(), 0.1 / 3, 1e-3, "noise without a voice")
    assert_close(noise[20 * 480:].std(), 0.003, 1e-4, "noise under a voice")


def test_the_same_seed_is_the_same_sound() -> None:
    vocoder, mel = Vocoder(Echo(), CONFIG), np.full((80, 5), 120, np.float32)
    first, _ = vocoder.vocode(mel, rng=np.random.default_rng(3))
    again, _ = vocoder.vocode(mel, rng=np.random.default_rng(3))
    other, _ = vocoder.vocode(mel, rng=np.random.default_rng(4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_kept_source_replaces_the_beginning() -> None:
    vocoder, mel = Vocoder(Echo(), CONFIG), np.full((80, 5), 120, np.float32)
    own, _ = vocoder.vocode(mel)
    kept = np.linspace(-1, 1, 960, dtype=np.float32)
    waveform, source = vocoder.vocode(mel, kept_source=kept)
    np.testing.assert_array_equal(waveform, source)
    np.testing.assert_array_equal(source[:960], kept)
    np.testing.assert_array_equal(source[960:], own[960:])
