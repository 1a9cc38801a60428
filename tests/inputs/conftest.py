"""Media made for the tests of this folder; nothing is read from outside."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

RATE_HZ = 48_000
FPS = 10


def sine(seconds: float, rate_hz: int, hz: float = 440.0) -> np.ndarray:
    """(N,) float32 at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def grey_at(time_s: float) -> int:
    """The grey of a test video: it changes half a second before every full one, so that frames tell their time."""
    return 20 + 20 * (int(time_s + 0.5) % 11)


@pytest.fixture
def tone() -> Callable[..., np.ndarray]:
    return sine


@pytest.fixture
def encode_sound(tmp_path: Path) -> Callable[..., Path]:
    """A sound track alone in a container that PyAV writes, such as m4a."""

    def encode(name: str, codec: str, waveform: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
        import av

        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=rate_hz, layout="mono" if waveform.ndim == 1 else "stereo")
            _mux_sound(container, stream, waveform)
        return path

    return encode


@pytest.fixture(scope="session")
def encode_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A video of grey frames (see `grey_at`) with a tone from `sound_from_s` on; encoded once per kind."""

    @functools.cache
    def encode(name: str, video_codec: str, audio_codec: str | None, *, seconds: float = 5, sound_from_s: float = 0,
               size: tuple[int, int] = (64, 48), turn: int | None = None, pictures_from_s: float = 0,
               fps: int = FPS) -> Path:
        import av

        path = tmp_path_factory.mktemp("video") / name
        fast = {"libx264": {"preset": "ultrafast"}}.get(video_codec, {"deadline": "realtime", "cpu-used": "8"})
        with av.open(str(path), "w") as container:
            pictures = container.add_stream(video_codec, rate=fps, width=size[0], height=size[1], pix_fmt="yuv420p",
                                            options=fast if video_codec.startswith("lib") else {})
            if turn is not None:
                pictures.set_display_rotation(turn)
            sound = container.add_stream(audio_codec, rate=RATE_HZ, layout="mono") if audio_codec else None
            _mux_pictures(container, pictures, seconds, size, pictures_from_s, fps)
            if sound:
                _mux_sound(container, sound, sine(seconds - sound_from_s, RATE_HZ), start_s=sound_from_s)
        return path

    return encode


def _mux_pictures(container, stream, seconds: float, size: tuple[int, int], start_s: float, fps: int) -> None:
    import av

    for k in range(round(seconds * fps)):
        pixels = np.full((size[1], size[0], 3), grey_at(k / fps), dtype=np.uint8)
        pixels[:size[1] // 4, :size[0] // 4] = 255                          # a mark in the upper left corner
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = k + round(start_s * fps), Fraction(1, fps)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _mux_sound(container, stream, waveform: np.ndarray, start_s: float = 0) -> None:
    import av

    rate_hz = stream.codec_context.rate
    stream.bit_rate = 128_000                                               # less makes a tone dirty in AAC
    resampler = av.AudioResampler(format=stream.codec_context.format, layout=stream.codec_context.layout,
                                  rate=rate_hz, frame_size=stream.codec_context.frame_size or 960)
    samples = np.atleast_2d(waveform.T).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp",
                                       layout="mono" if len(samples) == 1 else "stereo")
    frame.rate, frame.pts = rate_hz, round(start_s * rate_hz)
    for part in (*resampler.resample(frame), *resampler.resample(None)):
        container.mux(stream.encode(part))
    container.mux(stream.encode())


@pytest.fixture
def png_header() -> Callable[[int, int], bytes]:
    """The first bytes of a PNG that claims a size, with no pixels behind them."""

    def make(width: int, height: int) -> bytes:
        import struct
        import zlib

        def chunk(name: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))

    return make


@pytest.fixture
def wav_bytes() -> Callable[..., bytes]:
    def make(waveform: np.ndarray, rate_hz: int = 16_000, **kwargs: str) -> bytes:
        import soundfile

        buffer = io.BytesIO()
        soundfile.write(buffer, waveform, rate_hz, format=kwargs.pop("format", "WAV"), **kwargs)
        return buffer.getvalue()

    return make
