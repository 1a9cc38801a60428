"""A video file to upright RGB frames and its sound, both on one time axis that starts with the earlier of the two.

A stretch of it can also be cut out, to a file of its own.

Knows nothing of tokens or of how frames are described. Seconds come from the container's time stamps, never from
counting frames.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from ..errors import AudioError, OptionError, VideoError
from ..rates import AUDIO_RATE_HZ
from .audio import EXACT_LENGTHS, open_container, read_track
from .image import MAX_PIXELS
from .sources import Source, looks_like, name_of, open_source

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_SIDE_PX = 1024
"""Frames come with their long side at most this: no encoder sees more, and 32 frames of 4K would fill a gigabyte."""

SEEK_S = 5.0
"""Frames wanted further apart than this are sought; nearer ones are cheaper to reach by decoding on."""

CUT_FPS = 10
"""Pictures a second of a stretch that is cut out: more than any model here looks at."""

_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class Frame:
    """One picture of a video and the moment it stands for."""

    time_s: float
    image: Image.Image


@dataclass(frozen=True)
class Video:
    """Frames in order of time, and the sound (N,) float32 at 16 kHz; sample n is heard at n / 16000 s.

    `waveform` is None when the video has no sound track; it may end before or after the pictures do.
    """

    frames: list[Frame]
    waveform: np.ndarray | None
    seconds: float


def load_video(source: Source, *, frames_per_second: float = 1.0, max_frames: int = 32, allow_urls: bool = False,
               max_seconds: float = 3600) -> Video:
    """Read mp4, webm, mov, avi, mkv and gif as frames and sound.

    The frame at time t is the one on screen then. Times are 0, 1/frames_per_second, ...; a video too long for
    `max_frames` of them gets `max_frames` evenly spread ones. Frames are upright, at most MAX_SIDE_PX long.
    Raises VideoError if the video is missing, empty, truncated, longer than `max_seconds` or not a video;
    OptionError if an option is out of range.
    """
    if not (0 < frames_per_second <= 1000 and max_frames >= 1):
        raise OptionError(f"frames_per_second={frames_per_second} and max_frames={max_frames}; expected more than 0 "
                          f"(at most 1000) and 1 or more")
    return load_frames_at(source, lambda length: frame_times(length.seconds, frames_per_second, max_frames),
                          allow_urls=allow_urls, max_seconds=max_seconds)


@dataclass(frozen=True)
class VideoLength:
    """Seconds from the start of the earlier track to where the whole and where its pictures alone end, as the file
    says; a file that does not say of its pictures has them last as long as the whole."""

    seconds: float
    pictures_s: float


def load_frames_at(source: Source, choose_times: Callable[[VideoLength], Sequence[float]], *, allow_urls: bool = False,
                   max_seconds: float = 3600) -> Video:
    """As `load_video`, with the frames on screen at the times, not falling, that are chosen knowing the length."""
    if isinstance(source, np.ndarray | Image.Image):
        raise VideoError(f"cannot read a video from a value of type {type(source).__name__}; "
                         f"give a path, bytes or a file object")
    with open_source(source, kind="video", allow_urls=allow_urls) as file:
        return _load_file(file, name_of(source), choose_times, max_seconds)


def cut_video(source: Source, start_s: float, end_s: float, *, max_seconds: float = 3600) -> bytes:
    """The stretch [start_s, end_s) of a video as an mp4 (H.264, AAC), its pictures and its sound, which begins at 0.

    CUT_FPS pictures a second, at most MAX_SIDE_PX long. A stretch that goes on after the video's end is as long as the
    video lasts. Raises VideoError as `load_video`, and where the stretch begins after the end; OptionError for times
    that are no stretch.
    """
    if not 0 <= start_s < end_s:
        raise OptionError(f"the stretch from {start_s:g} to {end_s:g} s is empty or begins before the video; expected "
                          f"0 <= start < end")
    with open_source(source, kind="video") as file, _video_errors(file, name := name_of(source)):
        axis = _time_axis(file, name)
        stop_s = min(end_s, axis.seconds, start_s + max_seconds)
        if start_s >= stop_s:
            raise VideoError(f"{name} lasts {axis.seconds:.1f} s; nothing of it lies between {start_s:g} and "
                             f"{end_s:g} s; check the times or the file")
        waveform = _read_sound(file, name, axis.origin_s, max_seconds)
        begin, stop = round(start_s * AUDIO_RATE_HZ), round(stop_s * AUDIO_RATE_HZ)
        times = [start_s + number / CUT_FPS for number in range(math.ceil((stop_s - start_s) * CUT_FPS - 1e-6))]
        pictures = (frame.image for frame in _each_frame(file, name, axis.origin_s, times))
        return _encode_mp4(pictures, None if waveform is None else waveform[begin:stop])


def _load_file(file: BinaryIO, name: str, choose_times: Callable[[VideoLength], Sequence[float]],
               max_seconds: float) -> Video:
    with _video_errors(file, name):
        axis = _time_axis(file, name)
        if axis.seconds > max_seconds:
            raise VideoError(f"{name} lasts {axis.seconds:.0f} s, more than the limit of {max_seconds:.0f} s; "
                             f"cut it into pieces")
        times = choose_times(VideoLength(axis.seconds, axis.pictures_s))
        frames, pictures_end_s = _read_frames(file, name, axis.origin_s, times)
        waveform = _read_sound(file, name, axis.origin_s, max_seconds)
        _check_whole(axis, pictures_end_s, waveform, name)
        return Video(frames, waveform, axis.seconds)


@contextmanager
def _video_errors(file: BinaryIO, name: str) -> Iterator[None]:
    """What the libraries raise while a video is read, as VideoError."""
    import av

    try:
        yield
    except AudioError as cause:
        raise VideoError(str(cause)) from cause
    except (av.FFmpegError, ValueError) as cause:
        if isinstance(cause, VideoError):
            raise
        raise VideoError(f"{name} is not a video that can be read{looks_like(file)}: truncated, broken or of another "
                         f"kind; give mp4, webm, mov, avi or mkv") from cause


def frame_times(seconds: float, frames_per_second: float, max_frames: int) -> list[float]:
    """Moments at which frames are taken: from 0 on, every 1/frames_per_second or, for long videos, every
    seconds/max_frames; at least one."""
    step_s = max(1 / frames_per_second, seconds / max_frames)
    return [k * step_s for k in range(max_frames) if k == 0 or k * step_s < seconds - 1e-3]


# The time axis


@dataclass(frozen=True)
class _Axis:
    """Where the earliest track starts, in the container's seconds, and how long until the latest ends."""

    origin_s: float
    seconds: float
    pictures_s: float
    """How long until the pictures end, as far as the file says."""
    is_exact: bool
    """Whether the header states the length, so that less is a truncated file."""


def _time_axis(file: BinaryIO, name: str) -> _Axis:
    """Raises VideoError if there is no picture track or it is too large."""
    with _reopen(file) as container:
        pictures = _picture_track(container, name)
        _check_pictures(pictures, name)
        if container.start_time is not None and container.duration:
            is_exact = container.format.name in EXACT_LENGTHS
            origin_s, seconds = container.start_time / 1e6, container.duration / 1e6
            return _Axis(origin_s, seconds, _pictures_end(pictures, origin_s, seconds), is_exact)
    return _scan_time_axis(file, name)


def _pictures_end(stream: VideoStream, origin_s: float, seconds: float) -> float:
    if stream.duration is None or stream.time_base is None:
        return seconds
    return min(seconds, float(((stream.start_time or 0) + stream.duration) * stream.time_base) - origin_s)


def _scan_time_axis(file: BinaryIO, name: str) -> _Axis:
    """Read all packets' time stamps: files recorded live do not know how long they became."""
    start_s, end_s = math.inf, -math.inf
    with _reopen(file) as container:
        for packet in container.demux(_tracks(container, name)):
            if packet.pts is not None and packet.time_base is not None:
                start_s = min(start_s, float(packet.pts * packet.time_base))
                end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    if end_s < start_s:
        raise VideoError(f"{name} holds no pictures; it is empty or truncated, save or download it again")
    return _Axis(start_s, end_s - start_s, end_s - start_s, is_exact=False)


def _check_whole(axis: _Axis, pictures_end_s: float, waveform: np.ndarray | None, name: str) -> None:
    """A file that promises more than its tracks hold was cut off on its way."""
    sound_end_s = 0.0 if waveform is None else len(waveform) / AUDIO_RATE_HZ
    end_s = max(pictures_end_s, sound_end_s)
    if axis.is_exact and end_s < 0.95 * axis.seconds - 0.5:
        raise VideoError(f"{name} is truncated: it breaks off after {end_s:.1f} of {axis.seconds:.1f} s; "
                         f"save or download it again")


def _reopen(file: BinaryIO) -> InputContainer:
    file.seek(0)
    return open_container(file)


def _tracks(container: InputContainer, name: str) -> list[VideoStream | AudioStream]:
    return [_picture_track(container, name), *container.streams.audio[:1]]


def _picture_track(container: InputContainer, name: str) -> VideoStream:
    """The first track of moving pictures; the cover of a song is none."""
    from av.stream import Disposition

    tracks = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not tracks:
        raise VideoError(f"{name} has no pictures in it, only sound; give it as audio")
    return tracks[0]


def _check_pictures(stream: VideoStream, name: str) -> None:
    if stream.codec_context is None:
        raise VideoError(f"{name} has pictures in a coding that is not known; convert it to mp4 (H.264)")
    width, height = stream.width, stream.height
    if not 0 < width * height <= MAX_PIXELS:
        raise VideoError(f"{name} has frames of {width} x {height} pixels; expected at least 1 and at most "
                         f"{MAX_PIXELS / 1e6:.0f} megapixels")


# Pictures


def _read_frames(file: BinaryIO, name: str, origin_s: float, times: Sequence[float]) -> tuple[list[Frame], float]:
    """The frame on screen at each time, and where the pictures end (infinity if that was not reached)."""
    with _reader(file, name, origin_s) as reader:
        return [reader.frame(time_s) for time_s in times], reader.end_s


def _each_frame(file: BinaryIO, name: str, origin_s: float, times: Sequence[float]) -> Iterator[Frame]:
    """The frame on screen at each time, one held at a time."""
    with _reader(file, name, origin_s) as reader:
        for time_s in times:
            yield reader.frame(time_s)


@contextmanager
def _reader(file: BinaryIO, name: str, origin_s: float) -> Iterator[_Reader]:
    with _reopen(file) as container:
        stream = _picture_track(container, name)
        stream.thread_type = "AUTO"
        yield _Reader(container, stream, origin_s, name)


class _Reader:
    """Walks through a picture track; a moment before its first frame or after its last shows that one."""

    def __init__(self, container: InputContainer, stream: VideoStream, origin_s: float, name: str):
        self.container, self.stream, self.origin_s, self.name = container, stream, origin_s, name
        self.frames = self._decode()
        first = next(self.frames, None)
        if first is None:
            raise VideoError(f"{name} holds no pictures that can be decoded; it is truncated or broken")
        self.shown: VideoFrame = first
        self.next: VideoFrame | None = next(self.frames, None)
        self.end_s = math.inf
        self.can_seek = True

    def frame(self, time_s: float) -> Frame:
        """The picture on screen at a time, upright; times must not go back."""
        return Frame(time_s, _to_image(self.at(time_s), self.stream))

    def at(self, time_s: float) -> VideoFrame:
        """The frame on screen at a time; times must not go back."""
        if self.can_seek and self.next is not None and time_s - self._time(self.next) > SEEK_S:
            self._seek(time_s)
        while self.next is not None and self._time(self.next) <= time_s + 1e-3:
            gap_s = self._time(self.next) - self._time(self.shown)
            self.shown, self.next = self.next, next(self.frames, None)
            if self.next is None:
                self.end_s = self._time(self.shown) + max(gap_s, 0)
        return self.shown

    def _seek(self, time_s: float) -> None:
        """Jump to the key frame before a time. Files without a good index land after it or nowhere: they are
        decoded from their start instead, now and from then on."""
        if self._jump(time_s) and self.next is not None and self._time(self.next) <= time_s:
            return
        self.can_seek = False
        if not self._jump(0.0):
            raise VideoError(f"{self.name} cannot be read from {self._time(self.shown):.1f} s on; it is truncated or "
                             f"broken, save or download it again")

    def _jump(self, time_s: float) -> bool:
        import av

        try:
            self.container.seek(int((time_s + self.origin_s) * 1e6))
        except av.FFmpegError:
            return False
        self.frames = self._decode()
        self.next = next(self.frames, None)
        return self.next is not None

    def _decode(self) -> Iterator[VideoFrame]:
        import av

        try:
            yield from (frame for frame in self.container.decode(self.stream) if frame.pts is not None)
        except av.FFmpegError as cause:
            raise VideoError(f"{self.name} is truncated or broken ({cause.strerror}); "
                             f"save or download it again") from cause

    def _time(self, frame: VideoFrame) -> float:
        return (frame.time or 0.0) - self.origin_s


def _to_image(frame: VideoFrame, stream: VideoStream) -> Image.Image:
    """A decoded frame to RGB: pixels made square, long side limited, turned as the camera was held."""
    width, height = _display_size(frame, stream)
    image = Image.fromarray(frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray())
    turn = _TURNS.get(round(frame.rotation / 90) * 90 % 360)
    return image if turn is None else image.transpose(turn)


def _display_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    aspect = float(stream.sample_aspect_ratio or 1)
    width, height = frame.width * aspect, float(frame.height)
    scale = min(1.0, MAX_SIDE_PX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


# Sound


def _read_sound(file: BinaryIO, name: str, origin_s: float, max_seconds: float) -> np.ndarray | None:
    with _reopen(file) as container:
        if not container.streams.audio:
            return None
        waveform = read_track(container, container.streams.audio[0], name=name, origin_s=origin_s,
                              max_seconds=max_seconds)
        return waveform if len(waveform) else None                          # recorders leave tracks empty when muted


# A stretch as a file


def _encode_mp4(pictures: Iterator[Image.Image], waveform: np.ndarray | None) -> bytes:
    """Pictures, CUT_FPS a second, and waveform (N,) at 16 kHz to a file; on one thread, which makes the same file
    everywhere."""
    import av

    first = next(pictures)
    size = max(2, first.width // 2 * 2), max(2, first.height // 2 * 2)        # the coding wants even sides
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=CUT_FPS, width=size[0], height=size[1], pix_fmt="yuv420p",
                                      options={"preset": "ultrafast", "crf": "18", "threads": "1"})
        sound = container.add_stream("aac", rate=AUDIO_RATE_HZ, layout="mono") if waveform is not None else None
        for number, picture in enumerate(chain([first], pictures)):
            _mux_picture(container, stream, picture.resize(size), number)
        container.mux(stream.encode())
        if sound is not None and waveform is not None:
            _mux_sound(container, sound, waveform)
    return target.getvalue()


def _mux_picture(container: OutputContainer, stream: VideoStream, picture: Image.Image, number: int) -> None:
    import av

    frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
    frame.pts, frame.time_base = number, Fraction(1, CUT_FPS)
    container.mux(stream.encode(frame))


def _mux_sound(container: OutputContainer, stream: AudioStream, waveform: np.ndarray) -> None:
    import av

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform[None], np.float32), format="fltp", layout="mono")
    frame.rate, frame.pts = AUDIO_RATE_HZ, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
