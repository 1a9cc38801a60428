"""Log-mel frames of the official models: clips, counts of tokens, merged clips, and streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from minicpm_o.errors import AudioError, OptionError
from minicpm_o.inputs.audio import log_mel, pad_to
from minicpm_o.inputs.mel import (
    DUPLEX,
    LEAST_CLIP_SAMPLES,
    PIECE_SAMPLES,
    SIMPLEX,
    StreamingMel,
    StreamSettings,
    audio_group_lengths,
    clip_log_mel,
    merge_clips,
    num_audio_tokens,
    num_encoder_frames,
    num_mel_frames,
    scale_decades,
)

RATE_HZ = 16_000
COUNTS = [(1600, 10, 5, 2, 1), (8000, 50, 25, 12, 5), (16_000, 100, 50, 25, 10), (16_560, 104, 52, 26, 10),
          (32_000, 200, 100, 50, 20), (52_800, 330, 165, 82, 33), (80_000, 500, 250, 125, 50),
          (480_000, 3000, 1500, 750, 300), (507_200, 3170, 1585, 792, 317), (960_000, 6000, 3000, 1500, 600)]
"""Samples, mel frames, encoder frames, tokens of 2.6 and of 4.5."""


def noise(samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 0.1, samples) * np.linspace(0.05, 1, samples)).astype(np.float32)


def assert_close(got: np.ndarray, expected: np.ndarray, atol: float, what: str) -> None:
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    worst = float(np.abs(got - expected).max(initial=0))
    assert worst <= atol, f"{what}: differs by up to {worst:.2e}, allowed {atol:.0e}"


# Clips


def test_golden_numbers_of_two_tones() -> None:
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    got = clip_log_mel((0.3 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 1200 * t)).astype(np.float32))
    assert got.shape == (80, 200) and got.dtype == np.float32
    assert_close(got.mean(), np.array(-0.489455), 2e-4, "mean")
    assert_close(got[10, 50:54], np.full(4, 1.237813), 2e-4, "loudest bin")
    assert_close(got[0, 0], np.array(0.896645), 2e-4, "first bin")
    assert_close(got.min(), np.array(-0.672721), 2e-4, "floor")


@pytest.mark.parametrize("samples", [1, 100, 159, 160, 161, 400, 7000, 16_000, 33_333, 479_700, 480_000])
def test_a_clip_is_what_the_whole_padded_half_minute_gives(samples: int) -> None:
    waveform = noise(samples)
    whole = log_mel(pad_to(waveform, PIECE_SAMPLES))
    assert_close(clip_log_mel(waveform), whole[:, :num_mel_frames(samples)], 1e-5, f"{samples} samples")


def test_a_loud_last_sample_sets_the_floor() -> None:
    """Frames after the clip's own still hear its end, and count for what is loudest."""
    waveform = np.full(16_001, 1e-4, np.float32)
    waveform[-1] = 1
    whole = log_mel(pad_to(waveform, PIECE_SAMPLES))
    assert_close(clip_log_mel(waveform), whole[:, :101], 1e-5, "floor")


def test_whispers_extractor() -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    waveform = noise(50_123)
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    expected = extractor(waveform, sampling_rate=RATE_HZ, return_tensors="np").input_features[0]
    assert_close(clip_log_mel(waveform), expected[:, :314], 2e-4, "log-mel")


def test_the_two_norms() -> None:
    decades = np.array([[-10, -7, 0, 1]], np.float32)
    np.testing.assert_allclose(scale_decades(decades, "dynamic"), [[-0.75, -0.75, 1, 1.25]])
    np.testing.assert_allclose(scale_decades(decades, "fixed"), [[-1.5, -0.75, 1, 1.25]])
    waveform = np.concatenate([noise(8000), np.zeros(8000, np.float32)])
    assert clip_log_mel(waveform, norm="fixed").min() == -1.5
    assert clip_log_mel(waveform).min() > -1.5


@pytest.mark.parametrize(("waveform", "words"), [
    (np.zeros(0, np.float32), "0 samples"),
    (np.zeros(PIECE_SAMPLES + 1, np.float32), "merge_clips"),
    (np.array([0, np.nan], np.float32), "NaN or infinite"),
    (np.array([0, np.inf], np.float32), "NaN or infinite"),
    (np.zeros((2, 100), np.float32), r"shape \(2, 100\)"),
    (np.zeros(100, np.int16), "int16"),
])
def test_what_is_no_clip(waveform: np.ndarray, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        clip_log_mel(waveform)


# Counts


@pytest.mark.parametrize(("samples", "mel", "frames", "tokens_26", "tokens_45"), COUNTS)
def test_counts(samples: int, mel: int, frames: int, tokens_26: int, tokens_45: int) -> None:
    assert num_mel_frames(samples) == mel
    assert num_encoder_frames(mel) == frames
    assert (num_audio_tokens(samples, 2), num_audio_tokens(samples, 5)) == (tokens_26, tokens_45)


@pytest.mark.parametrize("pool_step", [2, 5])
@pytest.mark.parametrize("samples", [0, 1, 500, *(count[0] for count in COUNTS)])
def test_groups_of_a_second(samples: int, pool_step: int) -> None:
    groups, whole = audio_group_lengths(samples, pool_step), 50 // pool_step
    assert sum(groups) == num_audio_tokens(samples, pool_step)
    assert all(group == whole for group in groups[:-1]) and all(0 < group <= whole for group in groups[-1:])


def test_the_last_group_is_the_rest() -> None:
    assert audio_group_lengths(52_800, 5) == [10, 10, 10, 3]
    assert audio_group_lengths(16_560, 5) == [10]
    assert audio_group_lengths(16_560, 2) == [25, 1]


def test_short_clips_may_have_no_token() -> None:
    assert num_audio_tokens(500, 5) == 0
    assert num_audio_tokens(LEAST_CLIP_SAMPLES, 5) == 1


# Merged clips


def test_clips_are_joined_and_cut_every_half_minute() -> None:
    clips = [noise(300_000, 1), noise(200_000, 2), noise(480_000, 3)]
    pieces = merge_clips(clips)
    assert [len(piece) for piece in pieces] == [480_000, 480_000, 20_000]
    np.testing.assert_array_equal(np.concatenate(pieces), np.concatenate(clips))
    assert [len(piece) for piece in merge_clips([noise(480_000)])] == [480_000]


@pytest.mark.parametrize("clips", [[], [np.zeros(0, np.float32)]])
def test_nothing_to_merge(clips: list[np.ndarray]) -> None:
    with pytest.raises(AudioError, match="no samples"):
        merge_clips(clips)


# Streams


def run(mel: StreamingMel, waveform: np.ndarray, sizes: Sequence[int]) -> tuple[list[np.ndarray | None], StreamingMel]:
    given = []
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        frames, mel = mel.process(waveform[start:start + size])
        given.append(frames)
    return given, mel


@pytest.mark.parametrize(("settings", "first", "counts", "final"), [
    (DUPLEX, 16_480, [102, *[104] * 6], [102, 202, 302, 402, 502, 602, 702]),
    (SIMPLEX, 16_560, [100] * 5, [103, 203, 303, 403, 503]),
])
def test_golden_counts(settings: StreamSettings, first: int, counts: list[int], final: list[int]) -> None:
    mel = StreamingMel(settings)
    waveform = noise(8 * RATE_HZ)
    for index, (count, stable) in enumerate(zip(counts, final, strict=True)):
        chunk, waveform = np.split(waveform, [16_000 if index else first])
        frames, mel = mel.process(chunk)
        assert (frames.shape, mel.final_frames, mel.emitted_frames) == ((80, count), stable, 100 * (index + 1))


def test_a_stream_is_the_whole_under_a_fixed_floor() -> None:
    """Whatever the sizes of its pieces: the frames that are given out are those of the whole sound."""
    waveform = noise(4 * RATE_HZ)
    whole = clip_log_mel(waveform, norm="fixed")
    for sizes in ([16_480, 16_000, 16_000], [1000] * 48, [100, 47_900]):
        given, mel = run(StreamingMel(DUPLEX), waveform, sizes)
        while mel.final_frames >= mel.emitted_frames + 102:
            frames, mel = mel.process(np.zeros(0, np.float32))
            given.append(frames)
        first, *others = [frames for frames in given if frames is not None]
        assert_close(first, whole[:, :102], 1e-5, f"first chunk of {sizes[0]} samples")
        for index, frames in enumerate(others, 1):
            assert_close(frames, whole[:, 100 * index - 2:][:, :104], 1e-5, f"chunk {index} of {sizes[0]} samples")
        assert len(others) >= 1


def test_no_frames_before_they_are_final() -> None:
    given, _ = run(StreamingMel(DUPLEX), noise(RATE_HZ * 2), [100, 200, 16_019, 1])
    assert [frames is None for frames in given] == [True, True, True, True]
    frames, _ = run(StreamingMel(DUPLEX), noise(RATE_HZ * 2), [16_359, 1])
    assert [f is None for f in frames] == [True, False]


def test_the_floor_follows_the_loudest_from_five_seconds_on() -> None:
    waveform = noise(7 * RATE_HZ)
    waveform[:3 * RATE_HZ] *= 1e-6
    given, _ = run(StreamingMel(SIMPLEX), waveform, [16_560, *[16_000] * 5])
    assert given[0].min() == -1.5                                           # floor of 1e-10
    assert given[4].min() > -1.0                                            # 8 decades below the loudest so far
    assert_close(given[4], log_mel(waveform[:80_560])[:, 400:500], 1e-5, "fifth second")


def test_old_sound_is_dropped_and_what_follows_stays_in_place() -> None:
    waveform = noise(34 * RATE_HZ)
    given, mel = run(StreamingMel(DUPLEX), waveform, [16_480, *[16_000] * 32])
    assert [frames.shape[1] for frames in given] == [102, *[104] * 32]
    assert mel.dropped_frames == 1000 and len(mel.sound) == 16_480 + 32 * 16_000 - 160_000
    expected = log_mel(mel.sound)[:, 2198:2302]
    assert_close(given[32], expected, 1e-5, "the chunk after the memory was cut")


def test_nothing_that_waits_is_dropped() -> None:
    """Half a minute at once: the frames that nobody has taken yet are still there."""
    waveform = noise(31 * RATE_HZ)
    frames, mel = StreamingMel(DUPLEX).process(waveform)
    assert mel.dropped_frames == 0
    assert_close(frames, log_mel(waveform)[:, :102], 1e-5, "first chunk")


def test_the_last_chunk_gives_what_there_is() -> None:
    _, mel = StreamingMel(DUPLEX).process(noise(16_480))
    frames, last = mel.process(noise(8000, 1), is_last=True)
    assert frames.shape == (80, 153 - 98) and last.emitted_frames == 200
    assert last.process(np.zeros(0, np.float32), is_last=True)[0] is None
    assert StreamingMel().process(np.zeros(100, np.float32), is_last=True)[0] is None


def test_a_state_can_be_gone_back_to() -> None:
    _, before = StreamingMel(DUPLEX).process(noise(16_480))
    first, _ = before.process(noise(16_000, 1))
    before.process(noise(16_000, 2))
    again, _ = before.process(noise(16_000, 1))
    np.testing.assert_array_equal(first, again)


def test_wanted_samples() -> None:
    mel = StreamingMel(DUPLEX)
    assert mel.wanted_samples == 16_480                                     # 1035 ms in whole frames
    assert mel.process(noise(16_480))[1].wanted_samples == 16_000


def test_what_is_no_stream() -> None:
    with pytest.raises(AudioError, match="NaN or infinite samples, the first at 0.01 s"):
        StreamingMel().process(np.array([0] * 160 + [np.nan], np.float32))
    with pytest.raises(OptionError, match="multiple of 10 ms"):
        replace(DUPLEX, chunk_ms=1005)
