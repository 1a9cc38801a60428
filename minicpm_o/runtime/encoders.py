"""Pixels and waveforms to tokens of the language model's width, through the encoders' graphs.

Knows no prompt. Letters: B pictures and slices, S picture side, Q tokens per picture, N samples, M mel bins, F mel
frames (100 a second), E encoder width, D language width. Sound is encoded in windows of 30 s; within a window a block
of 1 s hears itself, all that came before and one mel frame of what follows, so that a stream can be heard block by
block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import AudioError
from ..inputs.audio import log_mel
from ..rates import AUDIO_RATE_HZ, UNIT_ENCODER_FRAMES, UNIT_SAMPLES, WINDOW_S
from .conversation import content_digest
from .device import DevicePlan, make_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ..checkpoints.bundle import Bundle

WINDOW_SAMPLES = WINDOW_S * AUDIO_RATE_HZ

UNHEARD = -1e9
"""Added to an attention score, leaves nothing of it; finite, as infinity minus infinity is not a number."""


class VisionEncoder:
    """Pictures to tokens."""

    def __init__(self, session: InferenceSession) -> None:
        self.session = session

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan) -> VisionEncoder:
        return cls(make_session(bundle.path("vision.onnx"), plan, kind="vision"))

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """pixels (B, 3, S, S) float32 -> tokens (B, Q, D) float32; one by one, so that memory does not grow with B."""
        return np.concatenate([self.session.run(["tokens"], {"pixels": one[None]})[0] for one in pixels])


@dataclass(frozen=True)
class EncoderOut:
    """What the hearing encoder made of a sound."""

    frames: np.ndarray
    """(1, F/2, E) float32, 50 a second."""


class HearingEncoder:
    """Sound to encoder frames and to tokens."""

    def __init__(self, encoder: InferenceSession, projector: InferenceSession) -> None:
        self.encoder = encoder
        self.projector = projector
        self._last: tuple[bytes, EncoderOut] | None = None
        """The newest sound: its words and its tokens are asked for one after the other."""

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan) -> HearingEncoder:
        return cls(make_session(bundle.path("hearing_encoder.onnx"), plan, kind="hearing"),
                   make_session(bundle.path("hearing_projector.onnx"), plan, kind="hearing"))

    def encode(self, waveform: np.ndarray) -> EncoderOut:
        """waveform (N,) float32, N >= 1 -> 50 frames for every second begun, block-causal, window by window.

        Raises AudioError when there is nothing to hear.
        """
        if not len(waveform):
            raise AudioError("the sound has no samples; nothing can be heard in it")
        key, last = content_digest(waveform), self._last
        if last is None or last[0] != key:
            self._last = last = key, self._encode(waveform)
        return last[1]

    def _encode(self, waveform: np.ndarray) -> EncoderOut:
        windows = (whole_seconds(waveform[start : start + WINDOW_SAMPLES])
                   for start in range(0, len(waveform), WINDOW_SAMPLES))
        return EncoderOut(np.concatenate([self._window(window) for window in windows], axis=1))

    def tokens(self, sound: np.ndarray | EncoderOut) -> np.ndarray:
        """A waveform (N,) or what `encode` made of it -> (10 for every second begun, D) float32."""
        encoded = sound if isinstance(sound, EncoderOut) else self.encode(sound)
        return np.asarray(self.projector.run(["tokens"], {"encoder_out": encoded.frames})[0][0])

    def _window(self, waveform: np.ndarray) -> np.ndarray:
        """At most 30 s, whole seconds, to (1, F/2, E)."""
        mel = log_mel(waveform)
        return run_encoder(self.encoder, mel, block_causal_bias(mel.shape[1] // 2))


def whole_seconds(waveform: np.ndarray) -> np.ndarray:
    """Silence added up to a whole number of units."""
    return np.pad(waveform, (0, -len(waveform) % UNIT_SAMPLES))


def run_encoder(encoder: InferenceSession, mel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """mel (M, F), F even; bias (F/2, F/2), zeros to hear all -> (1, F/2, E)."""
    return np.asarray(encoder.run(["encoder_out"], {"log_mel": mel[None], "attention_bias": bias})[0])


def block_causal_bias(num_frames: int, block_frames: int = UNIT_ENCODER_FRAMES) -> np.ndarray:
    """(num_frames, num_frames) float32: 0 where a frame (row) may hear another (column), UNHEARD in later blocks."""
    blocks = np.arange(num_frames) // block_frames
    return np.where(blocks[:, None] >= blocks[None, :], 0.0, UNHEARD).astype(np.float32)
