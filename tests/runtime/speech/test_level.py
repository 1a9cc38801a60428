from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.runtime.speech.level import MARGIN_S, PEAK, TARGET_RMS, level, silence, trim, trimmed

RATE_HZ = 24_000


def tone(seconds: float, height: float) -> np.ndarray:
    return (height * np.sin(2 * np.pi * 220 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)).astype(np.float32)


def test_trim_keeps_the_sound_and_a_margin() -> None:
    quiet = np.zeros(RATE_HZ, np.float32)
    kept = trim(np.concatenate([quiet, tone(0.5, 0.3), quiet]), RATE_HZ)
    assert len(kept) == pytest.approx((0.5 + 2 * MARGIN_S) * RATE_HZ, abs=0.04 * RATE_HZ)
    assert kept[0] == 0 and kept[-1] == 0


def test_loud_and_soft_clauses_come_out_alike() -> None:
    loudness = [float(np.sqrt(np.mean(level(tone(1, height), RATE_HZ) ** 2))) for height in (0.07, 0.1, 0.2)]
    assert loudness == pytest.approx([TARGET_RMS] * 3, rel=0.02)


def test_level_never_clips_and_never_raises_noise_much() -> None:
    spiky = tone(1, 0.02)
    spiky[1000] = 0.9
    assert np.abs(level(spiky, RATE_HZ)).max() <= PEAK + 1e-6
    assert np.abs(level(tone(1, 0.01), RATE_HZ)).max() <= 0.0201


@pytest.mark.parametrize("size", [100, 777, 5000])
def test_trimming_whole_is_trimming_piece_by_piece(size: int) -> None:
    quiet = np.zeros(4000, np.float32)
    sound = np.concatenate([quiet, tone(0.3, 0.3), quiet, tone(0.2, 0.1), quiet])
    pieces = list(trimmed((sound[at : at + size] for at in range(0, len(sound), size)), RATE_HZ))
    assert len(pieces) > 1 and np.array_equal(np.concatenate(pieces), trim(sound, RATE_HZ))


@pytest.mark.parametrize("samples", [0, 1, 100])
def test_silence_and_tiny_sounds_pass(samples: int) -> None:
    nothing = np.zeros(samples, np.float32)
    assert len(level(nothing, RATE_HZ)) == samples
    assert len(trim(nothing, RATE_HZ)) == samples


def test_pauses_follow_marks_and_speed() -> None:
    assert len(silence(".", RATE_HZ, 1)) > len(silence(",", RATE_HZ, 1)) > len(silence("", RATE_HZ, 1)) > 0
    assert len(silence(".", RATE_HZ, 2)) == pytest.approx(len(silence(".", RATE_HZ, 1)) / 2, abs=1)
