"""Units of a video: which frame and which sound belong together, for both versions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from minicpm_o.errors import OptionError, VideoError
from minicpm_o.inputs import video_units as module
from minicpm_o.inputs.video import VideoLength, load_frames_at
from minicpm_o.inputs.video_units import GAP_PX, MAX_FRAMES, load_stills, still_times, tile_frames, video_units
from minicpm_o.rates import AUDIO_RATE_HZ

MP4 = ("v.mp4", "libx264", "aac")


def second_shown(image: Image.Image) -> int:
    """By the grey of its lower right corner (`grey_at` in conftest.py); it changes half a second before a full one."""
    return round((float(np.asarray(image.convert("L"), np.float32)[-10:, -10:].mean()) - 20) / 20)


def grey_frame(grey: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, (grey, grey, grey))


def test_2_6_sees_the_end_of_each_second(encode_video: Callable) -> None:
    units = video_units(encode_video(*MP4, seconds=3), version="2.6")
    assert [unit.time_s for unit in units] == [0, 1, 2]
    assert [second_shown(unit.frame) for unit in units] == [1, 2, 3]
    assert [len(unit.audio) for unit in units] == [AUDIO_RATE_HZ] * 3
    assert all(unit.stacked is None for unit in units)


def test_2_6_shows_the_last_frame_when_the_last_second_is_short(encode_video: Callable) -> None:
    units = video_units(encode_video(*MP4, seconds=2.4), version="2.6")
    assert [second_shown(unit.frame) for unit in units] == [1, 2, 2]
    assert 0.3 < len(units[2].audio) / AUDIO_RATE_HZ < 0.5


def test_4_5_sees_the_beginning_of_each_second(encode_video: Callable) -> None:
    units = video_units(encode_video(*MP4, seconds=2.4), version="4.5")
    assert [unit.time_s for unit in units] == [0, 1, 2]
    assert [second_shown(unit.frame) for unit in units] == [0, 1, 2]
    assert [len(unit.audio) for unit in units] == [AUDIO_RATE_HZ] * 3
    assert np.abs(units[2].audio[: AUDIO_RATE_HZ // 3]).max() > 0.2
    assert not units[2].audio[AUDIO_RATE_HZ // 2 + 1600 :].any(), "what makes the second full is silence"


def test_4_5_can_leave_the_last_second_as_it_is(encode_video: Callable) -> None:
    units = video_units(encode_video(*MP4, seconds=2.4), version="4.5", whole_seconds=False)
    assert [len(unit.audio) for unit in units] == [AUDIO_RATE_HZ, AUDIO_RATE_HZ, 0.4 * AUDIO_RATE_HZ]


def test_sound_is_the_sound_of_its_second(encode_video: Callable) -> None:
    path = encode_video(*MP4, seconds=4, sound_from_s=1.5)
    for version in ("2.6", "4.5"):
        heard = [float(np.abs(unit.audio).max()) > 0.2 for unit in video_units(path, version=version)]
        assert heard == [False, True, True, True]
        first = video_units(path, version=version)[1].audio
        assert abs(int(np.flatnonzero(np.abs(first) > 0.2)[0]) / AUDIO_RATE_HZ - 0.5) < 0.06


def test_a_short_end_is_at_least_one_token_long(encode_video: Callable) -> None:
    path = encode_video("v.webm", "libvpx", "libopus", seconds=1.05, fps=20)
    units = video_units(path, version="4.5", whole_seconds=False)
    assert len(units) == 2 and len(units[1].audio) >= 1600


def test_without_sound(encode_video: Callable) -> None:
    path = encode_video("v.mp4", "libx264", None, seconds=2)
    for version in ("2.6", "4.5"):
        units = video_units(path, version=version)
        assert len(units) == 2 and all(unit.audio is None for unit in units)


def test_frames_between_are_stacked(encode_video: Callable) -> None:
    units = video_units(encode_video(*MP4, seconds=2), version="4.5", stack_frames=5)
    assert [unit.stacked.size for unit in units] == [(2 * 64 + GAP_PX, 2 * 48 + GAP_PX)] * 2
    cells = [units[0].stacked.crop((x, y, x + 64, y + 48)) for y in (0, 48 + GAP_PX) for x in (0, 64 + GAP_PX)]
    assert [second_shown(cell) for cell in cells] == [0, 0, 1, 1], "at 0.2, 0.4, 0.6 and 0.8 s; it changes at 0.5 s"
    assert [second_shown(unit.frame) for unit in units] == [0, 1]


def test_no_frame_is_stacked_from_after_the_end(encode_video: Callable) -> None:
    units = video_units(encode_video("v.mp4", "libx264", None, seconds=1.1), version="4.5", stack_frames=3)
    assert units[0].stacked.size in {(2 * 64 + GAP_PX, 48), (64, 2 * 48 + GAP_PX)}
    assert units[1].stacked is None


def test_long_videos_are_sampled(encode_video: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FRAMES", 4)
    units = video_units(encode_video(*MP4, seconds=6), version="4.5", stack_frames=2)
    stamps = [round(index * 0.1, 1) for index in np.linspace(0, 59, 4, dtype=int).tolist()]
    assert [unit.time_s for unit in units] == stamps == [0.0, 1.9, 3.9, 5.9]
    assert [second_shown(unit.frame) for unit in units] == [int(time_s + 0.5) for time_s in stamps]
    assert [second_shown(unit.stacked) for unit in units] == [1, 3, 5, 6], "at 0.95, 2.9, 4.9 and 5.95 s"
    lengths = [len(unit.audio) / AUDIO_RATE_HZ for unit in units]
    assert lengths == pytest.approx([1.9, 2.0, 2.0, 0.1], abs=1e-3)


def test_moments_of_a_long_video() -> None:
    moments = module._moments_at_starts(200.0, 1)
    starts = [moment.start_s for moment in moments]
    assert len(starts) == MAX_FRAMES and starts[0] == 0 and starts[-1] == 199.9
    assert starts == sorted(set(starts)) and all(start == round(start, 1) for start in starts)
    assert len(module._moments_at_starts(64.0, 1)) == 64
    assert [moment.times_s for moment in module._moments_at_starts(1.5, 4)] == [(0, 0.25, 0.5, 0.75), (1, 1.25)]


def test_a_coding_tail_is_no_second() -> None:
    assert len(module._moments_at_ends(4.02)) == 4
    assert len(module._moments_at_ends(4.2)) == 5
    assert len(module._moments_at_ends(0.02)) == 1


def test_stills(encode_video: Callable) -> None:
    path = encode_video(*MP4, seconds=5)
    assert [second_shown(image) for image in load_stills(path)] == [0, 1, 2, 3, 4]
    assert [second_shown(image) for image in load_stills(path, max_frames=2)] == [1, 3]
    assert still_times(64.0, 64) == [float(second) for second in range(64)]
    assert still_times(128.0, 64) == [2.0 * part + 1 for part in range(64)]
    assert len(still_times(65.0, 64)) == 64 and len(set(still_times(65.0, 64))) == 64


def test_where_the_pictures_end(encode_video: Callable) -> None:
    lengths: list[VideoLength] = []

    def choose(length: VideoLength) -> list[float]:
        lengths.append(length)
        return [0.0]

    load_frames_at(encode_video(*MP4, seconds=2, pictures_from_s=1), choose)
    load_frames_at(encode_video("v.mkv", "libx264", "flac", seconds=2), choose)
    assert [(round(length.seconds, 1), round(length.pictures_s, 1)) for length in lengths] == [(3, 3), (2, 2)]


@pytest.mark.parametrize(("count", "size", "layout"), [
    (1, (40, 30), (1, 1)), (2, (40, 30), (1, 2)), (2, (30, 40), (2, 1)), (3, (90, 30), (1, 3)), (3, (30, 90), (3, 1)),
    (4, (40, 30), (2, 2)), (5, (40, 30), (5, 1)), (9, (40, 30), (9, 1))])
def test_layout_of_a_composite(count: int, size: tuple[int, int], layout: tuple[int, int]) -> None:
    """layout: columns and rows."""
    image = np.asarray(tile_frames([grey_frame(100 + 10 * index, size) for index in range(count)]))
    (width, height), (columns, rows) = size, layout
    assert image.shape == (rows * height + (rows - 1) * GAP_PX, columns * width + (columns - 1) * GAP_PX, 3)
    for index in range(count):
        y, x = index // columns * (height + GAP_PX), index % columns * (width + GAP_PX)
        assert (image[y : y + height, x : x + width] == 100 + 10 * index).all(), f"frame {index}"
    assert (image == 0).any() == (count > 1), "black lines, and none around"


def test_a_smaller_frame_is_fitted_into_its_cell() -> None:
    image = np.asarray(tile_frames([grey_frame(100, (40, 40)), grey_frame(50, (20, 10))]))
    second = image[:, 40 + GAP_PX :] if image.shape[1] > image.shape[0] else image[40 + GAP_PX :]
    assert (second[10:30] == 50).all() and (second[:10] == 255).all() and (second[30:] == 255).all()


def test_wrong_options(encode_video: Callable) -> None:
    path = encode_video("v.mp4", "libx264", None, seconds=2)
    with pytest.raises(OptionError, match="stack_frames is 0"):
        video_units(path, version="4.5", stack_frames=0)
    with pytest.raises(OptionError, match="stack_frames is 2 for 2.6"):
        video_units(path, version="2.6", stack_frames=2)
    with pytest.raises(OptionError, match="max_frames is 0"):
        load_stills(path, max_frames=0)
    with pytest.raises(VideoError, match="lasts 2 s, more than the limit of 1 s"):
        video_units(path, version="2.6", max_seconds=1)
