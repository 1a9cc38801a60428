"""A waveform that is still being made to the bytes of a sound file, piece by piece.

PyAV encodes; `pcm` are bare samples. Letters: N samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ..errors import OptionError
from .media import pcm16


@dataclass(frozen=True)
class SoundFormat:
    """How a format is written."""

    mime: str
    container: str
    codec: str
    rates_hz: tuple[int, ...] = ()
    """Rates that the codec knows; empty: any."""
    bit_rate: int = 0


FORMATS: dict[str, SoundFormat] = {
    "wav": SoundFormat("audio/wav", "wav", "pcm_s16le"),
    "mp3": SoundFormat("audio/mpeg", "mp3", "libmp3lame", bit_rate=96_000),
    "flac": SoundFormat("audio/flac", "flac", "flac"),
    "opus": SoundFormat("audio/ogg", "ogg", "libopus", (48_000, 24_000, 16_000), 48_000),
    "aac": SoundFormat("audio/aac", "adts", "aac", bit_rate=96_000),
    "pcm": SoundFormat("audio/pcm", "", ""),
    "pcm16": SoundFormat("audio/pcm", "", ""),
}


def format_of(name: str) -> SoundFormat:
    """Raises OptionError for a format that is not known."""
    if name not in FORMATS:
        raise OptionError(f"the sound format {name!r} is not known; expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


class _Drain:
    """A file that hands out what was written to it; it cannot go back, so that headers are written for streams."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        data, self.pieces = b"".join(self.pieces), []
        return data


class SoundWriter:
    """Encodes one sound: `write` as it comes, then `close` once; both return the bytes that are ready."""

    def __init__(self, name: str, rate_hz: int) -> None:
        self.format = format_of(name)
        self.rate_hz = rate_hz
        self._drain = _Drain()
        self._container: Any = None
        if self.format.container:
            self._open()

    def _open(self) -> None:
        import av

        self._container = av.open(cast(Any, self._drain), mode="w", format=self.format.container)
        rates = self.format.rates_hz
        rate_hz = self.rate_hz if not rates or self.rate_hz in rates else max(rates)
        self._stream = self._container.add_stream(self.format.codec, rate=rate_hz)
        self._stream.layout = "mono"
        if self.format.bit_rate:
            self._stream.bit_rate = self.format.bit_rate

    def write(self, waveform: np.ndarray) -> bytes:
        """More of the sound, (N,) float32."""
        if self._container is None:
            return pcm16(waveform)
        import av

        samples = np.frombuffer(pcm16(waveform), "<i2")[None]
        if samples.shape[1]:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="s16", layout="mono")
            frame.sample_rate = self.rate_hz
            self._encode(frame)
        return self._drain.take()

    def close(self) -> bytes:
        """The end of the file."""
        if self._container is None:
            return b""
        self._encode(None)
        self._container.close()
        return self._drain.take()

    def _encode(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


def whole(name: str, waveform: np.ndarray, rate_hz: int) -> bytes:
    """A finished sound, (N,) float32."""
    writer = SoundWriter(name, rate_hz)
    return writer.write(waveform) + writer.close()
