"""Waveforms to the log-mel frames of MiniCPM-o 2.6 and 4.5, whole or as a stream, and how many tokens they become.

Knows the counts of the encoder's outputs, not the encoder. Letters: N samples, M mel bins, F mel frames (100 a second),
L encoder frames (50 a second), A audio tokens. A whole clip is heard as Whisper hears it (arXiv:2212.04356): followed
by silence up to 30 s. A stream has no such end: its frames come from what has been heard so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ..errors import AudioError, OptionError
from ..rates import AUDIO_RATE_HZ, HOP_SAMPLES, MEL_RATE_HZ, WINDOW_S
from .audio import FFT_SAMPLES, MEL_BINS, mel_decades, pad_to

Norm = Literal["dynamic", "fixed"]
"""What is too quiet to be told apart: 8 decades below the loudest bin (dynamic) or a power of 1e-10 (fixed)."""

DYNAMIC_DECADES = 8.0
FIXED_FLOOR = -10.0

PIECE_SAMPLES = WINDOW_S * AUDIO_RATE_HZ
"""The encoder has positions for 30 s."""

LEAST_CLIP_SAMPLES = 1600
"""A clip of 0.1 s has a token at every pooling in use; shorter ones may have none."""

HALF_WINDOW = FFT_SAMPLES // 2


def clip_log_mel(waveform: np.ndarray, *, mel_bins: int = MEL_BINS, norm: Norm = "dynamic") -> np.ndarray:
    """A clip of at most 30 s, (N,) float32 at 16 kHz, to (M, ceil(N / 160)) float32, as if silence followed to 30 s.

    Only as much silence is worked on as a frame of sound reaches into: further frames cannot be the loudest.
    Raises AudioError if the clip is empty, longer, not finite or not one-dimensional.
    """
    samples = check_sound(waveform).shape[0]
    if not 0 < samples <= PIECE_SAMPLES:
        raise AudioError(f"a clip of {samples} samples was given; expected 1 to {PIECE_SAMPLES} (30 s): cut longer "
                         f"ones with merge_clips")
    num_frames = num_mel_frames(samples)
    reach = -(-HALF_WINDOW // HOP_SAMPLES)                                  # frames after the clip that overlap it
    padded = pad_to(waveform, min(PIECE_SAMPLES, (num_frames + 2 * reach) * HOP_SAMPLES))
    return scale_decades(mel_decades(padded, mel_bins=mel_bins), norm)[:, :num_frames]


def scale_decades(decades: np.ndarray, norm: Norm) -> np.ndarray:
    """Cut off what is too quiet, then Whisper's scale: 4 decades are 1, and a power of 1e-4 is 0."""
    floor = decades.max() - np.float32(DYNAMIC_DECADES) if norm == "dynamic" else np.float32(FIXED_FLOOR)
    scaled: np.ndarray = (np.maximum(decades, floor) + np.float32(4)) / np.float32(4)
    return scaled


def merge_clips(clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Clips that belong together, end to end and cut every 30 s; the last piece may be short, and is never empty.

    Raises AudioError if there is no sample in them.
    """
    sound = np.concatenate([np.zeros(0, np.float32), *(check_sound(clip) for clip in clips)]).astype(np.float32)
    if not len(sound):
        raise AudioError(f"{len(clips)} clips were given with no samples in them; give a sound with content")
    return [sound[start:start + PIECE_SAMPLES] for start in range(0, len(sound), PIECE_SAMPLES)]


def check_sound(waveform: np.ndarray) -> np.ndarray:
    """The waveform itself. Raises AudioError if it is not (N,) of floats or holds a sample that is not finite."""
    if waveform.ndim != 1 or waveform.dtype.kind != "f":
        raise AudioError(f"the waveform is {waveform.dtype} of shape {waveform.shape}, expected floats (N,); pass it "
                         f"through load_audio")
    finite = np.isfinite(waveform)
    if not finite.all():
        first_s = int(finite.argmin()) / AUDIO_RATE_HZ
        raise AudioError(f"the waveform holds NaN or infinite samples, the first at {first_s:.2f} s; clean it first")
    return waveform


# Counts


def num_mel_frames(num_samples: int) -> int:
    """Mel frames of a clip."""
    return -(-num_samples // HOP_SAMPLES)


def num_encoder_frames(mel_frames: int) -> int:
    """What the encoder's second convolution makes of them, going two at a time."""
    return (mel_frames - 1) // 2 + 1


def num_pooled(mel_frames: int, pool_step: int) -> int:
    """Tokens of so many mel frames: whole groups of pool_step encoder frames; the rest is dropped."""
    return num_encoder_frames(mel_frames) // pool_step


def num_audio_tokens(num_samples: int, pool_step: int) -> int:
    """Tokens of a clip. A clip of less than 0.1 s may have none; see LEAST_CLIP_SAMPLES."""
    return num_pooled(num_mel_frames(num_samples), pool_step)


def audio_group_lengths(num_samples: int, pool_step: int, *, chunk_s: int = 1) -> list[int]:
    """Tokens of a clip in groups of `chunk_s`, each of which a prompt puts between its own start and end."""
    total, group = num_audio_tokens(num_samples, pool_step), num_pooled(chunk_s * MEL_RATE_HZ, pool_step)
    return [min(group, total - start) for start in range(0, total, group)]


# Streams


@dataclass(frozen=True)
class StreamSettings:
    """How a stream is cut into chunks of frames."""

    chunk_ms: int = 1000
    first_chunk_ms: int = 1035
    """Sound that the first chunk waits for: a chunk, and what its last frames look ahead."""
    context_frames: int = 2
    """Frames given out again before and ahead after each chunk, for the convolutions to look at."""
    slide_at_s: int = 30
    """Sound that is remembered before the oldest part is dropped."""
    slide_by_s: int = 10
    fixed_below_s: int = 5
    """Less sound than this says little about how loud the loudest will be, so the floor is fixed."""

    def __post_init__(self) -> None:
        """Raises OptionError for chunks that are not whole frames."""
        if self.chunk_ms < 1 or self.chunk_ms * AUDIO_RATE_HZ % (1000 * HOP_SAMPLES):
            raise OptionError(f"a chunk is {self.chunk_ms} ms; expected a multiple of 10 ms, one mel frame")

    @property
    def chunk_frames(self) -> int:
        return self.chunk_ms * AUDIO_RATE_HZ // 1000 // HOP_SAMPLES

    @property
    def first_samples(self) -> int:
        """What the first chunk takes, in whole frames."""
        return max(1, self.first_chunk_ms * AUDIO_RATE_HZ // 1000 // HOP_SAMPLES) * HOP_SAMPLES

    @property
    def chunk_samples(self) -> int:
        return self.chunk_ms * AUDIO_RATE_HZ // 1000


DUPLEX = StreamSettings()
"""Full duplex of 4.5: 102 frames first, then 104, of which the encoder drops the context."""

SIMPLEX = StreamSettings(context_frames=0)
"""Half duplex of 4.5: 100 frames a chunk."""


@dataclass(frozen=True, eq=False)
class StreamingMel:
    """What a stream has heard so far. A value: `process` returns the next one and leaves this one as it was."""

    settings: StreamSettings = DUPLEX
    mel_bins: int = MEL_BINS
    sound: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Remembered samples."""
    dropped_frames: int = 0
    """Frames that lie before the remembered samples."""
    emitted_frames: int = 0
    """Where the next chunk begins, counted from the stream's start."""

    def process(self, chunk: np.ndarray, *, is_last: bool = False) -> tuple[np.ndarray | None, StreamingMel]:
        """Hear (N,) more samples -> the next chunk's frames (M, F), or None while they are not final, and the state.

        At most one chunk is given out: when more has been heard, an empty `chunk` brings the next. `is_last` gives
        out what there is, final or not; of a last chunk that ends early there are as many frames as were heard.
        Raises AudioError if the samples are not finite or not one-dimensional.
        """
        heard = self._remember(np.concatenate([self.sound, check_sound(chunk).astype(np.float32)]))
        end = self.emitted_frames + self.settings.chunk_frames
        is_ready = heard.final_frames >= end + self.settings.context_frames
        if len(heard.sound) < FFT_SAMPLES or not (is_ready or is_last):
            return None, heard
        log_mel = heard._log_mel()
        start = max(0, self.emitted_frames - self.settings.context_frames - heard.dropped_frames)
        stop = end + self.settings.context_frames - heard.dropped_frames
        frames = log_mel[:, start:stop]
        return frames if frames.shape[1] else None, replace(heard, emitted_frames=end)

    @property
    def final_frames(self) -> int:
        """Frames since the stream's start whose window lies within what has been heard."""
        seen = (len(self.sound) - HALF_WINDOW) // HOP_SAMPLES + 1 if len(self.sound) >= HALF_WINDOW else 0
        return min(len(self.sound) // HOP_SAMPLES, seen) + self.dropped_frames

    @property
    def wanted_samples(self) -> int:
        """Samples that make up the next chunk when each call brings one."""
        return self.settings.chunk_samples if self.emitted_frames else self.settings.first_samples

    def _remember(self, sound: np.ndarray) -> StreamingMel:
        """Drop the oldest part of a long memory, but nothing that has still to be given out."""
        if len(sound) < self.settings.slide_at_s * AUDIO_RATE_HZ:
            return replace(self, sound=sound)
        waiting = max(0, self.emitted_frames - self.settings.context_frames - self.dropped_frames)
        frames = min(self.settings.slide_by_s * MEL_RATE_HZ, waiting)
        return replace(self, sound=sound[frames * HOP_SAMPLES:], dropped_frames=self.dropped_frames + frames)

    def _log_mel(self) -> np.ndarray:
        """(M, F) of all that is remembered."""
        norm: Norm = "fixed" if len(self.sound) < self.settings.fixed_below_s * AUDIO_RATE_HZ else "dynamic"
        return scale_decades(mel_decades(self.sound, mel_bins=self.mel_bins), norm)
