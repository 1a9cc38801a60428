"""A sound file or array to a 16 kHz mono waveform, and that to Whisper's log-mel frames; waveforms to files.

Knows nothing of tokens. Letters: N samples, F mel frames, M mel bins, C channels.
Log-mel follows Whisper (arXiv:2212.04356), section 2.2; its filters are the Slaney mel scale with area norm.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..errors import AudioError, DiskFullError, OptionError
from ..rates import AUDIO_RATE_HZ, HOP_SAMPLES
from .sources import Source, looks_like, name_of, open_source

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

FFT_SAMPLES = 400
"""Length of one analysis window: 25 ms."""

MEL_BINS = 80
MAX_CHANNELS = 64
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000

MAX_PEAK = 64.0
"""Floats above this are integers that somebody forgot to scale, not a loud sound."""

BLOCK_SAMPLES = 1 << 16
GAP_S = 0.05
"""Holes between packets longer than this are kept as silence, so that sound stays on the time axis."""

CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "wav", "w64",
              "aiff", "au", "caf", "mp3", "aac", "ac3", "eac3", "flac", "amr", "ape", "wv", "tta", "gif")
"""What PyAV may open. Play lists (hls, dash, concat) are not among them: they would open other files and URLs."""

EXACT_LENGTHS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi")
"""Containers whose header states the length. For the others FFmpeg estimates it, which proves nothing missing."""

UNSTATED_FRAMES = 1 << 60
"""libsndfile says more than this of a FLAC stream whose header leaves its length open, and cannot read it."""
_WRITE_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".ogg": ("OGG", "VORBIS"),
                  ".opus": ("OGG", "OPUS"), ".mp3": ("MP3", "MPEG_LAYER_III")}


def load_audio(source: Source, *, rate_hz: int | None = None, allow_urls: bool = False,
               max_seconds: float = 3600) -> np.ndarray:
    """Read any sound as (N,) float32, mono (channels averaged), 16 kHz, in [-1, 1].

    Reads wav, flac, mp3, ogg, opus, m4a, aac, and the sound of mp4, webm, mov, avi. An array is (N,), (N, C) or
    (C, N) (the shorter axis is channels) and needs its `rate_hz`; integers are scaled by their type's range. A
    sound above full scale is turned down to fit.
    Raises AudioError if it is missing, empty, truncated, not finite, longer than `max_seconds` or not a sound.
    (Ogg does not state its length: a cut one is heard as far as it goes.)
    """
    if isinstance(source, np.ndarray):
        blocks: Iterable[np.ndarray] = [_mono(_as_float(source))]
        return _finish(blocks, _array_rate(rate_hz), "the given array", max_seconds)
    if rate_hz is not None:
        raise AudioError(f"rate_hz={rate_hz} was given with {name_of(source)}, but a file knows its own rate; "
                         f"leave rate_hz out")
    with open_source(source, kind="audio", allow_urls=allow_urls) as file:
        waveform = _load_file(file, name_of(source), max_seconds)
    if not len(waveform):
        raise AudioError(f"{name_of(source)} holds no samples; give a sound with content")
    return waveform


def log_mel(waveform: np.ndarray, *, mel_bins: int = MEL_BINS) -> np.ndarray:
    """Whisper's log-mel frames: waveform (N,) float32 at 16 kHz to (M, F) float32, F = N // 160, about [-1, 1.5].

    Nothing is padded to 30 s. The loudest frame given sets the floor (8 decades below it), as in Whisper.
    Raises AudioError if the waveform is not one-dimensional or shorter than one hop (160 samples).
    """
    decades = mel_decades(waveform, mel_bins=mel_bins)
    log_mels: np.ndarray = (np.maximum(decades, decades.max() - 8.0) + 4.0) / 4.0
    return log_mels


def mel_decades(waveform: np.ndarray, *, mel_bins: int = MEL_BINS) -> np.ndarray:
    """Common logarithm of the power in each mel bin, at least -10: (N,) to (M, N // 160) float32, not yet scaled.

    The ends are mirrored. Raises AudioError as `log_mel` does.
    """
    num_frames = _check_waveform(waveform, at_least=HOP_SAMPLES).shape[0] // HOP_SAMPLES
    padded = np.pad(waveform.astype(np.float32, copy=False), FFT_SAMPLES // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES][:num_frames]
    filters, window = mel_filters(mel_bins), _hann_window()
    mel = np.empty((mel_bins, num_frames), dtype=np.float32)
    for start in range(0, num_frames, 1000):                                # 1000 frames: bounded memory
        power = np.abs(np.fft.rfft(frames[start:start + 1000] * window)) ** 2
        mel[:, start:start + 1000] = filters @ power.T                      # (M, 201) @ (201, f) -> (M, f)
    decades: np.ndarray = np.log10(np.maximum(mel, 1e-10))
    return decades


@lru_cache(maxsize=8)
def mel_filters(mel_bins: int = MEL_BINS, *, fft_samples: int = FFT_SAMPLES,
                rate_hz: int = AUDIO_RATE_HZ) -> np.ndarray:
    """Triangular filters (M, fft_samples // 2 + 1) float32 from FFT bins to mel bins: Slaney scale, each of unit area,
    0 to 8 kHz at any rate."""
    fft_hz = np.linspace(0, rate_hz / 2, fft_samples // 2 + 1)
    edges = _mel_to_hz(np.linspace(0, _hz_to_mel(AUDIO_RATE_HZ / 2), mel_bins + 2))
    widths = np.diff(edges)
    slopes = edges[:, None] - fft_hz[None, :]                               # (M + 2, bins)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles: np.ndarray = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return triangles.astype(np.float32)


def pad_to(waveform: np.ndarray, samples: int) -> np.ndarray:
    """Silence after (N,) until it is `samples` long. Raises AudioError if it is longer already: cut it first."""
    missing = samples - _check_waveform(waveform, at_least=0).shape[0]
    if missing < 0:
        raise AudioError(f"the waveform has {len(waveform)} samples, more than the {samples} to pad to; cut it first")
    return np.pad(waveform, (0, missing)) if missing else waveform


def write_wav(path: str | os.PathLike[str], waveform: np.ndarray, rate_hz: int) -> None:
    """Write (N,) or (N, C) floats as wav, flac (16 bit), ogg, opus or mp3, by the path's suffix.

    The file appears whole or not at all. Values outside [-1, 1] are cut.
    Raises OptionError for an unknown suffix, AudioError for a waveform or path that cannot be written,
    DiskFullError when there is no room.
    """
    target = check_sound_path(path)
    _write_whole(target, _encode(waveform, _array_rate(rate_hz), target))


def check_sound_path(path: str | os.PathLike[str]) -> Path:
    """The path, if its suffix is of a sound that can be written. Raises OptionError."""
    target = Path(path)
    if target.suffix.lower() not in _WRITE_FORMATS:
        raise OptionError(f"cannot write sound as {target.suffix or 'a file without suffix'}: {str(path)!r}; "
                          f"use one of {', '.join(_WRITE_FORMATS)}")
    return target


# Reading


def _load_file(file: BinaryIO, name: str, max_seconds: float) -> np.ndarray:
    """libsndfile first (it is the faster), PyAV for what it does not know."""
    import soundfile

    _check_wav_whole(file, name)
    states_length = _mp3_states_length(file)
    try:
        sound = soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError):                          # TypeError: a name ending in .raw
        file.seek(0)
        return _load_container(file, name, max_seconds)
    with sound:
        if sound.frames < UNSTATED_FRAMES:
            _check_seconds(sound.frames / sound.samplerate, name, max_seconds)
            is_exact = sound.format in ("FLAC", "WAV", "WAVEX") or states_length
            promised_s = sound.frames / sound.samplerate if is_exact else None
            return _finish(_sound_blocks(sound, name), sound.samplerate, name, max_seconds, promised_s)
    file.seek(0)
    return _load_container(file, name, max_seconds)


def _sound_blocks(sound: Any, name: str) -> Iterator[np.ndarray]:
    import soundfile

    num_read = 0
    try:
        while len(block := sound.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
            num_read += len(block)
            yield block.mean(axis=1)                                        # (n, C) -> (n,)
    except soundfile.LibsndfileError as cause:
        raise AudioError(f"{name} is truncated or broken after {num_read / sound.samplerate:.1f} s ({cause}); "
                         f"save or download it again") from cause


def _check_wav_whole(file: BinaryIO, name: str) -> None:
    """libsndfile reads a cut-off WAV as if nothing were missing, so the header's length is checked here.

    Lengths of 0 and of 2 GiB and more are what writers to a pipe leave in the header: they promise nothing.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    position = 12
    while head[:4] == b"RIFF" and head[8:] == b"WAVE" and position + 8 <= size:
        file.seek(position)
        chunk = file.read(8)
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            if 0 < length < 0x7FFFF000 and size - position - 8 < 0.99 * length:
                raise AudioError(f"{name} is truncated: {size - position - 8} of {length} bytes of sound are there; "
                                 f"save or download it again")
            break
        position += 8 + length + length % 2
    file.seek(0)


def _mp3_states_length(file: BinaryIO) -> bool:
    """Whether an MP3 begins with a Xing, Info or VBRI frame; without one its length is only estimated."""
    file.seek(0)
    head = file.read(10)
    if head[:3] == b"ID3":                                                  # its size has 7 bits a byte
        file.seek(10 + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10]))))
        head = file.read(2)
    frame = head + file.read(200)
    file.seek(0)
    is_mpeg = len(frame) > 1 and frame[0] == 0xFF and frame[1] & 0xE0 == 0xE0
    return is_mpeg and any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))


def _load_container(file: BinaryIO, name: str, max_seconds: float) -> np.ndarray:
    import av

    try:
        with open_container(file) as container:
            if not container.streams.audio:
                raise AudioError(f"{name} has no sound track; give a file with sound")
            return read_track(container, container.streams.audio[0], name=name, max_seconds=max_seconds)
    except (av.FFmpegError, ValueError) as cause:
        if isinstance(cause, AudioError):
            raise
        raise AudioError(f"{name} is not a sound that can be read{looks_like(file)}: truncated, broken or of another "
                         f"kind; give wav, mp3, flac, ogg, opus, m4a, mp4 or webm") from cause


def open_container(file: BinaryIO) -> InputContainer:
    """Open a media file with PyAV, from the file object alone: no play lists, no other files, no network.

    Raises av.FFmpegError; the caller says what was expected.
    """
    import av

    options = {"format_whitelist": ",".join(CONTAINERS)}
    return av.open(file, mode="r", options=options, metadata_errors="replace")


def read_track(container: InputContainer, stream: AudioStream, *, name: str, max_seconds: float = 3600,
               origin_s: float | None = None) -> np.ndarray:
    """Decode one sound track to (N,) float32, mono, 16 kHz.

    Sample 0 lies at `origin_s` of the container's time axis (default: the track's first sample); holes and late
    starts are silence, what lies before the origin is dropped. Raises AudioError as `load_audio` does.
    """
    if stream.codec_context is None or not stream.rate or not stream.channels:   # no codec: FFmpeg does not know it
        raise AudioError(f"{name} has a sound track that cannot be decoded; convert it to wav or mp3")
    blocks = _track_blocks(container, stream, origin_s, name)
    return _finish(blocks, stream.rate, name, max_seconds, promised_s=_promised_seconds(container, stream))


def _track_blocks(container: InputContainer, stream: AudioStream, origin_s: float | None,
                  name: str) -> Iterator[np.ndarray]:
    """Mono blocks at the stream's rate, each where its time stamp puts it."""
    import av

    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    position = 0                                                            # samples given out so far
    try:
        for frame in container.decode(stream):
            start_s = frame.time
            origin_s = start_s if origin_s is None else origin_s
            for part in resampler.resample(frame):
                block = part.to_ndarray().mean(axis=0)                      # (C, n) -> (n,)
                offset = 0 if start_s is None or origin_s is None else (start_s - origin_s) * stream.rate - position
                placed = _place(block, round(offset), round(GAP_S * stream.rate))
                start_s = None                                              # later parts of a frame follow on
                position += len(placed)
                yield placed
    except av.FFmpegError as cause:
        raise AudioError(f"the sound of {name} is truncated or broken after {position / stream.rate:.1f} s "
                         f"({cause.strerror}); save or download it again") from cause


def _place(block: np.ndarray, offset: int, tolerance: int) -> np.ndarray:
    """Silence before a block that comes late, a cut at the head of one that comes early; small jitter is left."""
    if offset > tolerance:
        return np.pad(block, (offset, 0))
    return block[-offset:] if offset < -tolerance else block


def _promised_seconds(container: InputContainer, stream: AudioStream) -> float | None:
    """Length of a track as its header states it, None where it does not."""
    if container.format.name not in EXACT_LENGTHS:
        return None
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    is_alone = len(container.streams) == 1
    return container.duration / 1e6 if container.duration and is_alone else None


def _truncated(name: str, got_s: float, promised_s: float) -> AudioError:
    return AudioError(f"{name} is truncated: it breaks off after {got_s:.1f} of {promised_s:.1f} s; "
                      f"save or download it again")


# Waveforms


def _finish(blocks: Iterable[np.ndarray], rate_hz: int, name: str, max_seconds: float,
            promised_s: float | None = None) -> np.ndarray:
    """Mono blocks at `rate_hz` to the finished waveform; block by block, so that an hour needs little memory."""
    num_in = 0

    def checked() -> Iterator[np.ndarray]:
        nonlocal num_in
        for block in blocks:
            _check_finite(block, num_in / rate_hz, name)
            num_in += len(block)
            _check_seconds(num_in / rate_hz, name, max_seconds)
            yield block

    pieces = list(_resample(checked(), rate_hz))
    if promised_s is not None and num_in / rate_hz < 0.95 * promised_s - 0.5:
        raise _truncated(name, num_in / rate_hz, promised_s)
    return _fit(np.concatenate([np.zeros(0, np.float32), *pieces]), name)


def _resample(blocks: Iterable[np.ndarray], rate_hz: int) -> Iterator[np.ndarray]:
    if rate_hz == AUDIO_RATE_HZ:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate_hz, AUDIO_RATE_HZ, num_channels=1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


def _fit(waveform: np.ndarray, name: str) -> np.ndarray:
    """Turn a sound above full scale down; refuse one that is no float sound at all."""
    peak = float(np.abs(waveform).max(initial=0))
    if peak > MAX_PEAK:
        raise AudioError(f"{name} holds values up to {peak:.0f}, expected floats in [-1, 1]; divide by the full scale "
                         f"(32768 for 16 bit) or pass integers")
    return waveform / np.float32(peak) if peak > 1 else waveform


def _as_float(array: np.ndarray) -> np.ndarray:
    """An array of any sample type to float32; integers are divided by their type's range."""
    if array.size == 0:
        raise AudioError(f"the given array has shape {array.shape} and holds no samples; give a sound with content")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):                                    # infinities are reported later
            return array.astype(np.float32)
    if array.dtype in (np.int8, np.int16, np.int32):
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    raise AudioError(f"the given array has type {array.dtype}, which has no full scale; "
                     f"give float32 in [-1, 1], int16, int32 or uint8")


def _mono(waveform: np.ndarray) -> np.ndarray:
    """(N,), (N, C) or (C, N) to (N,): the shorter axis is channels, and they are averaged."""
    if waveform.ndim == 1:
        return waveform
    if waveform.ndim != 2 or min(waveform.shape) > MAX_CHANNELS:
        raise AudioError(f"the given array has shape {waveform.shape}; expected (N,), (N, C) or (C, N) with at most "
                         f"{MAX_CHANNELS} channels")
    mono: np.ndarray = waveform.mean(axis=int(waveform.shape[1] < waveform.shape[0]), dtype=np.float32)
    return mono


def _array_rate(rate_hz: int | None) -> int:
    if rate_hz is None:
        raise AudioError("an array does not tell its rate; pass rate_hz, the samples per second (such as 16000)")
    if not isinstance(rate_hz, int | np.integer) or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(f"rate_hz={rate_hz!r} is not a rate; expected a whole number from {MIN_RATE_HZ} to "
                         f"{MAX_RATE_HZ}")
    return int(rate_hz)


def _check_waveform(waveform: np.ndarray, *, at_least: int) -> np.ndarray:
    if waveform.ndim != 1 or waveform.shape[0] < at_least:
        raise AudioError(f"the waveform has shape {waveform.shape}, expected (N,) with N of {at_least} or more; "
                         f"pass it through load_audio, or pad_to")
    return waveform


def _check_finite(block: np.ndarray, start_s: float, name: str) -> None:
    if not np.isfinite(block).all():
        raise AudioError(f"{name} holds NaN or infinite samples from about {start_s:.1f} s on; clean the sound first")


def _check_seconds(seconds: float, name: str, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise AudioError(f"{name} is longer than the limit of {max_seconds:.0f} s; cut it into pieces")


# Log-mel


@lru_cache(maxsize=1)
def _hann_window() -> np.ndarray:
    """The periodic Hann window of 400 samples."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SAMPLES) / FFT_SAMPLES)).astype(np.float32)


def _hz_to_mel(hz: float) -> float:
    """Slaney's scale: linear to 1 kHz (15 mel), then 27 mel to every factor of 6.4."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


# Writing


def _encode(waveform: np.ndarray, rate_hz: int, target: Path) -> bytes:
    """Encode in memory: libsndfile swallows what a file object raises, a full disk for example."""
    import soundfile

    if waveform.size == 0 or waveform.ndim > 2 or not np.isfinite(waveform).all():
        raise AudioError(f"a waveform of shape {waveform.shape} cannot be written to {str(target)!r}; expected finite "
                         f"samples (N,) or (N, C)")
    container, subtype = _WRITE_FORMATS[target.suffix.lower()]
    channels = 1 if waveform.ndim == 1 else waveform.shape[1]
    buffer = io.BytesIO()
    try:
        with soundfile.SoundFile(buffer, "w", rate_hz, channels, subtype, format=container) as sound:
            for start in range(0, len(waveform), BLOCK_SAMPLES):            # Vorbis: one long write overflows its stack
                sound.write(np.clip(waveform[start:start + BLOCK_SAMPLES], -1, 1))
    except soundfile.LibsndfileError as cause:
        raise AudioError(f"cannot write {channels} channels at {rate_hz} Hz as {target.suffix} ({cause}); "
                         f"use .wav") from cause
    return buffer.getvalue()


def _write_whole(target: Path, data: bytes) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(data)
        os.replace(partial, target)
    except OSError as cause:
        partial.unlink(missing_ok=True)
        if cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no room to write {str(target)!r} ({len(data)} bytes); free some space") from cause
        raise AudioError(f"cannot write {str(target)!r}: {cause.strerror}; choose a path in a folder that exists and "
                         f"can be written") from cause
