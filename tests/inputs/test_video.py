"""Videos: frames and sound on one time axis, turned upright, and bad input."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicpm_o.errors import OptionError, VideoError
from minicpm_o.inputs.video import MAX_SIDE_PX, Frame, frame_times, load_video

RATE_HZ = 16_000

CODECS = [("v.mp4", "libx264", "aac"), ("v.mov", "libx264", "aac"), ("v.webm", "libvpx", "libopus"),
          ("v.webm", "libvpx-vp9", "libopus"), ("v.mkv", "libx264", "flac"), ("v.avi", "mpeg4", "libmp3lame"),
          ("v.ts", "libx264", "aac")]


def seconds_shown(frames: list[Frame]) -> list[int]:
    """Which second each frame shows, by its grey (`grey_at` in conftest.py)."""
    greys = [np.asarray(frame.image.convert("L"), np.float32)[-10:].mean() for frame in frames]
    return [round((grey - 20) / 20) for grey in greys]


def sound_start_s(waveform: np.ndarray) -> float:
    return float(np.flatnonzero(np.abs(waveform) > 0.2)[0]) / RATE_HZ


@pytest.mark.parametrize(("name", "video_codec", "audio_codec"), CODECS)
def test_containers(name: str, video_codec: str, audio_codec: str, encode_video: Callable) -> None:
    path = encode_video(name, video_codec, audio_codec, seconds=4)
    for source in (path, path.read_bytes()):
        video = load_video(source)
        assert abs(video.seconds - 4) < 0.15
        assert [frame.time_s for frame in video.frames][:4] == [0, 1, 2, 3]
        assert seconds_shown(video.frames)[:4] == [0, 1, 2, 3]
        assert all(frame.image.mode == "RGB" and frame.image.size == (64, 48) for frame in video.frames)
        assert video.waveform is not None and video.waveform.dtype == np.float32
        assert abs(len(video.waveform) / RATE_HZ - 4) < 0.15 and sound_start_s(video.waveform) < 0.1


def test_silent_video(encode_video: Callable) -> None:
    video = load_video(encode_video("v.mp4", "libx264", None, seconds=2))
    assert video.waveform is None and seconds_shown(video.frames) == [0, 1]


def test_gif(tmp_path: Path) -> None:
    frames = [Image.new("L", (32, 32), 20 + 20 * k) for k in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=1000)
    assert seconds_shown(load_video(tmp_path / "a.gif").frames) == [0, 1, 2]


@pytest.mark.parametrize(("name", "video_codec", "audio_codec"), [CODECS[0], CODECS[2], CODECS[4]])
def test_sound_that_starts_late_stays_in_its_place(name: str, video_codec: str, audio_codec: str,
                                                   encode_video: Callable) -> None:
    video = load_video(encode_video(name, video_codec, audio_codec, seconds=4, sound_from_s=1.5))
    assert video.waveform is not None
    assert abs(sound_start_s(video.waveform) - 1.5) < 0.06
    assert abs(len(video.waveform) / RATE_HZ - 4) < 0.15
    assert seconds_shown(video.frames)[:4] == [0, 1, 2, 3]


@pytest.mark.parametrize(("name", "video_codec", "audio_codec"), [CODECS[0], CODECS[2]])
def test_pictures_that_start_late_stay_in_their_place(name: str, video_codec: str, audio_codec: str,
                                                      encode_video: Callable) -> None:
    video = load_video(encode_video(name, video_codec, audio_codec, seconds=4, pictures_from_s=2))
    assert video.waveform is not None and sound_start_s(video.waveform) < 0.1
    assert abs(video.seconds - 6) < 0.15
    assert seconds_shown(video.frames)[:6] == [0, 0, 0, 1, 2, 3]            # before their start: the first frame


def test_frames_per_second(encode_video: Callable) -> None:
    path = encode_video("v.mp4", "libx264", None, seconds=3)
    assert seconds_shown(load_video(path, frames_per_second=2).frames) == [0, 1, 1, 2, 2, 3]
    assert seconds_shown(load_video(path, frames_per_second=0.5).frames) == [0, 2]
    assert len(load_video(path, frames_per_second=100, max_frames=400).frames) == 300


@pytest.mark.parametrize(("name", "video_codec"), [("v.mp4", "libx264"), ("v.webm", "libvpx"), ("v.avi", "mpeg4"),
                                                   ("v.ts", "libx264")])
def test_long_video_is_spread_over_max_frames(name: str, video_codec: str, encode_video: Callable) -> None:
    """Frames are 12 s apart, so that they are sought."""
    video = load_video(encode_video(name, video_codec, None, seconds=48, fps=4), max_frames=4)
    assert abs(video.seconds - 48) < 0.3
    assert [frame.time_s for frame in video.frames] == [k * video.seconds / 4 for k in range(4)]
    assert seconds_shown(video.frames) == [0, 1, 2, 3]                      # seconds 0, 12, 24, 36, of 11 greys


@pytest.mark.parametrize(("seconds", "rate", "most", "times"), [
    (3, 1, 32, [0, 1, 2]), (3.2, 1, 32, [0, 1, 2, 3]), (0.01, 1, 32, [0]), (0, 1, 32, [0]), (10, 1, 5, [0, 2, 4, 6, 8]),
    (10, 1, 1, [0]), (1, 4, 32, [0, 0.25, 0.5, 0.75])])
def test_frame_times(seconds: float, rate: float, most: int, times: list[float]) -> None:
    assert frame_times(seconds, rate, most) == times


@pytest.mark.parametrize(("turn", "corner"), [(0, (0, 0)), (90, (0, 1)), (180, (1, 1)), (-90, (1, 0)), (270, (1, 0))])
def test_turned_video_is_upright(turn: int, corner: tuple[int, int], encode_video: Callable) -> None:
    """The mark is stored in the upper left; turned counterclockwise by 90 degrees it is in the lower left."""
    image = load_video(encode_video("v.mp4", "libx264", None, seconds=1, turn=turn)).frames[0].image
    assert image.size == ((64, 48) if turn % 180 == 0 else (48, 64))
    right, low = corner
    assert image.convert("L").getpixel((right * (image.width - 1) or 2, low * (image.height - 1) or 2)) > 200


def test_large_frames_are_made_smaller(encode_video: Callable) -> None:
    image = load_video(encode_video("v.mp4", "libx264", None, seconds=0.2, size=(2048, 512))).frames[0].image
    assert image.size == (MAX_SIDE_PX, MAX_SIDE_PX // 4)


def test_oblong_pixels_are_made_square(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, width=64, height=48, pix_fmt="yuv420p")
        stream.codec_context.sample_aspect_ratio = 2
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert load_video(tmp_path / "v.mp4").frames[0].image.size == (128, 48)


def test_live_recording_without_a_length(encode_video: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    path = encode_video("v.webm", "libvpx", "libopus", seconds=3)
    live = path.with_name("live.webm")
    with av.open(str(path)) as source, av.open(str(live), "w", format="webm", options={"live": "1"}) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    with av.open(str(live)) as container:
        assert not container.duration
    video = load_video(live)
    assert abs(video.seconds - 3) < 0.15 and seconds_shown(video.frames)[:3] == [0, 1, 2]
    assert video.waveform is not None and abs(len(video.waveform) / RATE_HZ - 3) < 0.15


@pytest.mark.parametrize("options", [{"frames_per_second": 0}, {"frames_per_second": -1}, {"max_frames": 0},
                                     {"frames_per_second": float("nan")}, {"frames_per_second": float("inf")}])
def test_bad_options(options: dict, encode_video: Callable) -> None:
    with pytest.raises(OptionError, match="expected more than 0"):
        load_video(b"x", **options)


def test_too_long(encode_video: Callable) -> None:
    with pytest.raises(VideoError, match="lasts 3 s, more than the limit of 2 s"):
        load_video(encode_video("v.mp4", "libx264", None, seconds=3), max_seconds=2)


def test_sound_alone_is_not_a_video(encode_sound: Callable, tone: Callable) -> None:
    with pytest.raises(VideoError, match="no pictures in it, only sound; give it as audio"):
        load_video(encode_sound("a.m4a", "aac", tone(1, 48_000)))


def test_the_cover_of_a_song_is_not_a_video(tmp_path: Path, tone: Callable) -> None:
    import io
    import struct

    import soundfile

    cover, sound = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (32, 32)).save(cover, "JPEG")
    soundfile.write(sound, tone(1, 48_000), 48_000, format="MP3")
    body = b"\0image/jpeg\0\x03\0" + cover.getvalue()
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    (tmp_path / "song.mp3").write_bytes(b"ID3\x03\0\0" + size + frame + sound.getvalue())
    with pytest.raises(VideoError, match="only sound"):
        load_video(tmp_path / "song.mp3")


def test_missing_directory_empty_and_wrong_sources(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    for source, words in ((tmp_path / "no.mp4", "no video file"), (tmp_path, "directory"), (None, "NoneType"),
                          (tmp_path / "empty.mp4", "empty"), ("https://example.invalid/v.mp4", "allow_urls"),
                          (np.zeros(5), "ndarray"), (Image.new("RGB", (4, 4)), "of type Image")):
        with pytest.raises(VideoError, match=words):
            load_video(source)


@pytest.mark.parametrize(("content", "words"), [
    (b"only words " * 50, "is not a video"),
    (b"\x89PNG\r\n\x1a\n" + bytes(500), "looks like a PNG picture"),
    (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n", "is not a video"),
    (b"ffconcat version 1.0\nfile 'other.ts'\n", "is not a video"),
    (b"\0\0\0\x18ftypmp42" + bytes(500), "looks like an MP4 file"),
])
def test_wrong_types(content: bytes, words: str, tmp_path: Path, encode_video: Callable) -> None:
    encode_video("other.ts", "libx264", None, seconds=1)                    # play lists must not lead here
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=words):
        load_video(tmp_path / "v.mp4")


@pytest.mark.parametrize("keep", [0.005, 0.1, 0.5, 0.8])
@pytest.mark.parametrize(("name", "video_codec", "audio_codec"), [
    ("v.mp4", "libx264", "aac"), ("v.mp4", "libx264", None), ("v.webm", "libvpx", "libopus"),
    ("v.webm", "libvpx", None)])
def test_truncated_videos(name: str, video_codec: str, audio_codec: str, keep: float, encode_video: Callable) -> None:
    data = encode_video(name, video_codec, audio_codec, seconds=8).read_bytes()
    with pytest.raises(VideoError, match="truncated"):
        load_video(data[:int(len(data) * keep)])


def test_truncated_mp4_with_its_index_in_front(encode_video: Callable, tmp_path: Path) -> None:
    import av

    path = encode_video("v.mp4", "libx264", "aac", seconds=8)
    with av.open(str(path)) as source, \
            av.open(str(tmp_path / "f.mp4"), "w", options={"movflags": "faststart"}) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    data = (tmp_path / "f.mp4").read_bytes()
    assert seconds_shown(load_video(data).frames)[:3] == [0, 1, 2]
    with pytest.raises(VideoError, match="truncated"):
        load_video(data[:int(len(data) * 0.6)])


@pytest.mark.parametrize(("name", "video_codec", "audio_codec"), [CODECS[0], CODECS[2], CODECS[5]])
def test_scrambled_videos_raise_only_video_errors(name: str, video_codec: str, audio_codec: str,
                                                  encode_video: Callable) -> None:
    clean = encode_video(name, video_codec, audio_codec, seconds=1).read_bytes()
    rng = np.random.default_rng(2)
    for _ in range(10):
        data = np.frombuffer(clean, np.uint8).copy()
        where = rng.integers(0, len(data), 12)
        data[where] = rng.integers(0, 256, 12)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert load_video(data.tobytes()).frames
        except VideoError as error:
            assert len(str(error)) > 20
