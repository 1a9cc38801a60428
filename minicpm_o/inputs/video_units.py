"""A video to what the official checkpoints take in second by second: a frame, the sound beside it, a composite.

Knows no tokens and no messages. How the frames are chosen is that of the published demos of 2.6 and of
`get_video_frame_audio_segments` of minicpmo-utils 1.0.7, which 4.5's documentation uses; two things differ on purpose,
see `_sampled_moments` and `_cut_between`. Letters: N samples at 16 kHz.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from ..errors import OptionError
from ..rates import AUDIO_RATE_HZ
from .sources import Source
from .video import Video, VideoLength, load_frames_at

MAX_FRAMES = 64
"""A longer video is not looked at every second but this often, evenly spread."""

MAX_SECONDS = {"2.6": 600.0, "4.5": 3600.0}
"""2.6 looks at every second of a video: more than this fit no context and few memories."""

LEAST_SAMPLES = AUDIO_RATE_HZ // 10
"""What makes one token of 4.5; a sound that is cut shorter is followed by silence up to here."""

LEAST_TAIL_S = 0.1
"""What a sound track is longer than its pictures by, for its coding's sake, makes no second of its own."""

STAMP_S = 0.1
"""Long videos are looked at at multiples of this."""

GAP_PX = 6
"""Black line between the frames of a composite."""


@dataclass(frozen=True)
class VideoUnit:
    """What is seen and heard together."""

    time_s: float
    """Where its sound begins."""
    frame: Image.Image
    audio: np.ndarray | None
    """(N,) float32; None if the video has no sound track."""
    stacked: Image.Image | None
    """Frames between this unit's and the next, side by side in one picture."""


@dataclass(frozen=True)
class _Moment:
    """When a unit's pictures are taken, in order."""

    start_s: float
    times_s: tuple[float, ...]
    """Of the frame, then of those that are stacked."""


def video_units(source: Source, *, version: Literal["2.6", "4.5"], stack_frames: int = 1, whole_seconds: bool = True,
                allow_urls: bool = False, max_seconds: float | None = None) -> list[VideoUnit]:
    """Cut a video into units.

    2.6: one a second, with the frame at its end. 4.5: one a second with the frame at its beginning, and for videos of
    more than MAX_FRAMES seconds as many units, spread evenly and as long as it is to the next; stack_frames > 1 puts
    that many frames less one from within each unit into its composite. whole_seconds (4.5, up to MAX_FRAMES seconds):
    silence makes the last unit a full second; else its sound ends with the pictures.
    Raises VideoError as `load_video`, above `max_seconds` (MAX_SECONDS by default) too; OptionError for stack_frames
    below 1, or other than 1 with 2.6.
    """
    if stack_frames < 1 or (version == "2.6" and stack_frames != 1):
        raise OptionError(f"stack_frames is {stack_frames} for {version}; it must be 1 or more, and 1 for 2.6, which "
                          f"knows no composites")
    lengths: list[VideoLength] = []
    plan: list[_Moment] = []

    def choose(length: VideoLength) -> list[float]:
        lengths.append(length)
        plan.extend(_moments_at_ends(length.seconds) if version == "2.6" else
                    _moments_at_starts(length.pictures_s, stack_frames))
        return [time_s for moment in plan for time_s in moment.times_s]

    video = load_frames_at(source, choose, allow_urls=allow_urls,
                           max_seconds=MAX_SECONDS[version] if max_seconds is None else max_seconds)
    end_s = min(lengths[0].seconds, len(plan)) if version == "2.6" else lengths[0].pictures_s
    fills = version == "4.5" and whole_seconds and end_s <= MAX_FRAMES
    return list(_make_units(video, plan, end_s, fills_seconds=fills))


def load_stills(source: Source, *, max_frames: int = MAX_FRAMES, allow_urls: bool = False,
                max_seconds: float = 3600) -> list[Image.Image]:
    """A video as pictures alone: one a second, or max_frames evenly spread ones. Errors as of `load_video`."""
    if max_frames < 1:
        raise OptionError(f"max_frames is {max_frames}; it must be 1 or more")
    video = load_frames_at(source, lambda length: still_times(length.pictures_s, max_frames), allow_urls=allow_urls,
                           max_seconds=max_seconds)
    return [frame.image for frame in video.frames]


def still_times(seconds: float, max_frames: int) -> list[float]:
    """Every full second from 0 on; if there are too many, those in the middle of max_frames equal parts."""
    count = _whole_seconds(seconds)
    if count <= max_frames:
        return [float(second) for second in range(count)]
    step = count / max_frames
    return [float(int(part * step + step / 2)) for part in range(max_frames)]


# When to look


def _whole_seconds(seconds: float) -> int:
    """Seconds begun; the thousandth is what time stamps are rounded by."""
    return max(1, math.ceil(seconds - 1e-3))


def _moments_at_ends(seconds: float) -> list[_Moment]:
    """A second's frame is the one that is on screen when its sound has been heard."""
    count = max(1, math.ceil(seconds - LEAST_TAIL_S))
    return [_Moment(float(second), (float(second + 1),)) for second in range(count)]


def _moments_at_starts(seconds: float, stack_frames: int) -> list[_Moment]:
    if seconds > MAX_FRAMES:
        return _sampled_moments(seconds, stack_frames)
    return [_Moment(float(second), (float(second), *_within(second, second + 1, seconds, stack_frames)))
            for second in range(_whole_seconds(seconds))]


def _sampled_moments(seconds: float, stack_frames: int) -> list[_Moment]:
    """MAX_FRAMES multiples of STAMP_S, evenly spread. The stacked frames lie between a moment and the next: the
    published function takes those of the seconds 0, 1, 2, ... instead, which are other scenes."""
    count = int(seconds / STAMP_S)
    starts = [round(index * STAMP_S, 1) for index in np.linspace(0, count - 1, MAX_FRAMES, dtype=int).tolist()]
    return [_Moment(start, (start, *_within(start, end, seconds, stack_frames)))
            for start, end in zip(starts, [*starts[1:], seconds], strict=True)]


def _within(start_s: float, end_s: float, seconds: float, stack_frames: int) -> Iterator[float]:
    """The times that cut a unit into stack_frames equal parts, as far as the pictures go."""
    times = (start_s + (end_s - start_s) * part / stack_frames for part in range(1, stack_frames))
    return (time_s for time_s in times if time_s < seconds)


# Putting together


def _make_units(video: Video, plan: Sequence[_Moment], end_s: float, *, fills_seconds: bool) -> Iterator[VideoUnit]:
    sounds = _cut_between([moment.start_s for moment in plan], end_s, video.waveform, fills_seconds=fills_seconds)
    images = iter([frame.image for frame in video.frames])
    for moment, audio in zip(plan, sounds, strict=True):
        frame, *between = [next(images) for _ in moment.times_s]
        yield VideoUnit(moment.start_s, frame, audio, tile_frames(between) if between else None)


def _cut_between(starts_s: Sequence[float], end_s: float, waveform: np.ndarray | None, *,
                 fills_seconds: bool) -> list[np.ndarray] | list[None]:
    """Each unit's sound lasts until the next begins, in long videos too: the published function gives those the first
    seconds, one each, which belong to other frames. Every one has LEAST_SAMPLES at least."""
    if waveform is None:
        return [None] * len(starts_s)
    ends_s = [*starts_s[1:], starts_s[-1] + 1 if fills_seconds else end_s]
    starts, ends = ([int(time_s * AUDIO_RATE_HZ) for time_s in times] for times in (starts_s, ends_s))
    return [_filled(waveform[start:end], end - start if fills_seconds else LEAST_SAMPLES)
            for start, end in zip(starts, ends, strict=True)]


def _filled(waveform: np.ndarray, least: int) -> np.ndarray:
    return np.pad(waveform, (0, max(0, least - len(waveform)))).astype(np.float32, copy=False)


def tile_frames(frames: Sequence[Image.Image]) -> Image.Image:
    """Frames as one picture with lines between them: four in a square, two or three the way that makes it squarer, any
    other number in a row. A smaller frame is fitted into its cell on white."""
    width, height = max(frame.width for frame in frames), max(frame.height for frame in frames)
    columns, rows = _layout(len(frames), width, height)
    canvas = Image.new("RGB", _canvas(columns, rows, width, height))
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        cell = ImageOps.pad(frame, (width, height), Image.Resampling.BICUBIC, color=(255, 255, 255))
        canvas.paste(cell, (column * (width + GAP_PX), row * (height + GAP_PX)))
    return canvas


def _layout(count: int, width: int, height: int) -> tuple[int, int]:
    """Columns and rows."""
    if count == 4:
        return 2, 2
    if count not in (2, 3):
        return count, 1

    def lopsidedness(layout: tuple[int, int]) -> float:
        across, down = _canvas(*layout, width, height)
        return abs(across / down - 1)

    return min(((count, 1), (1, count)), key=lopsidedness)


def _canvas(columns: int, rows: int, width: int, height: int) -> tuple[int, int]:
    return columns * width + (columns - 1) * GAP_PX, rows * height + (rows - 1) * GAP_PX
