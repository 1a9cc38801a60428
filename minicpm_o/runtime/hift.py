"""Mel frames to 24 kHz samples: the harmonic source between the vocoder's networks, and the networks' sessions.

The three raw calls are a Protocol with two implementations, HiftSession here (onnxruntime) and TorchHift in the torch
network; the sines between them are made in numpy for both. Letters: M mel bins, T mel frames, N = 480 T samples,
H harmonics above the fundamental.

Source: the neural source filter of HiFTNet (arXiv:2309.09493) as CosyVoice 2 shaped it, with the order of its float32
roundings. Its initial phases are added to a sample that it never reads again, so they are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..checkpoints.graphs.hift import DECODE_FILE, EXCITE_FILE, PITCH_FILE
from ..model.config import HiftConfig
from .device import DevicePlan, make_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class HiftNetwork(Protocol):
    """The raw calls; float32 arrays in and out."""

    def pitch(self, mel: np.ndarray) -> np.ndarray:
        """(M, T) to Hz (T,)."""

    def excite(self, harmonics: np.ndarray) -> np.ndarray:
        """(N, H + 1) to a source (N,)."""

    def decode(self, mel: np.ndarray, source: np.ndarray) -> np.ndarray:
        """(M, T) and (N,) to a waveform (N,)."""


@dataclass(frozen=True)
class Vocoder:
    """A network and its shape, as one call."""

    network: HiftNetwork
    config: HiftConfig

    @property
    def frame_samples(self) -> int:
        """Samples that one mel frame becomes."""
        return frame_samples(self.config)

    def vocode(self, mel: np.ndarray, *, rng: np.random.Generator | None = None,
               kept_source: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mel (M, T) to a waveform (N,) and the source (N,) that it was made of.

        rng: draws the noise of the source; without it there is none. kept_source (n,) replaces the first n samples of
        the source, so that a piece of a stream goes on with the phase in which the piece before it ended.
        """
        pitch_hz = self.network.pitch(mel)                                  # (M, T) -> (T,)
        source = self.network.excite(harmonics(pitch_hz, self.config, rng))  # (T,) -> (N, H + 1) -> (N,)
        if kept_source is not None:
            source = np.concatenate([kept_source, source[len(kept_source):]])
        return self.network.decode(mel, source), source


def frame_samples(config: HiftConfig) -> int:
    """Samples that one mel frame becomes: the product of all rates."""
    return math.prod(config.up_rates) * config.hop_samples


def harmonics(pitch_hz: np.ndarray, config: HiftConfig, rng: np.random.Generator | None = None) -> np.ndarray:
    """Sines at the pitch and its multiples, (T,) to (N, H + 1) float32; noise alone where there is no pitch.

    rng: draws the noise, quiet under a voice and louder without one; None adds none.
    """
    samples = frame_samples(config)
    sines: np.ndarray = np.sin(phases(pitch_hz, config)) * np.float32(config.source_gain)
    is_voiced = np.repeat(pitch_hz > config.voiced_hz, samples)[:, None]    # (T,) -> (N, 1)
    sines *= is_voiced
    if rng is not None:
        level = np.where(is_voiced, config.source_sigma, config.source_gain / 3).astype(np.float32)
        sines += level * rng.standard_normal(sines.shape, dtype=np.float32)
    return sines


def phases(pitch_hz: np.ndarray, config: HiftConfig) -> np.ndarray:
    """Radians of every harmonic at every sample, (T,) to (N, H + 1) float32.

    Turns are summed once per frame and drawn out between the frames' middles. After some seconds the sum has lost so
    many bits that its roundings are heard, hence float32 in the reference's order: float64 would be another sound.
    """
    samples = frame_samples(config)
    multiples = np.arange(1, config.harmonics + 2, dtype=np.float32)
    turns = pitch_hz.astype(np.float32)[:, None] * multiples / np.float32(config.rate_hz) % np.float32(1)
    summed = np.cumsum(turns, axis=0, dtype=np.float64).astype(np.float32)
    at_frames = summed * np.float32(2) * np.float32(np.pi) * np.float32(samples)  # (T, H + 1)
    return stretch(at_frames, samples)


def stretch(values: np.ndarray, factor: int) -> np.ndarray:
    """Linear interpolation of (T, C) to (factor T, C): each value stands in the middle of its stretch.

    Rounded as a machine with fused multiply-add does it, where the reference runs: products and the sums they go into
    round once. Thousands of radians are so coarse in float32 that one rounding more is a hundredfold in the waveform.
    """
    last = len(values) - 1
    middles = np.arange(len(values) * factor) + 0.5                         # float64: it holds the products exactly
    places = np.maximum((middles * np.float64(np.float32(1 / factor)) - 0.5).astype(np.float32), np.float32(0))
    before = np.minimum(places.astype(np.int64), last)
    after = np.minimum(before + 1, last)
    share = (places - before).astype(np.float32)
    stretched = np.empty((len(before), values.shape[1]), dtype=np.float32)
    for channel, column in enumerate(values.T):                             # one at a time: bounded memory
        rest = column[after] * share
        stretched[:, channel] = column[before].astype(np.float64) * (np.float32(1) - share) + rest
    return stretched


class HiftSession:
    """The raw calls on onnxruntime."""

    def __init__(self, folder: Path, plan: DevicePlan) -> None:
        """Raises CheckpointError when a graph is missing or cannot be loaded."""
        self._pitch = make_session(folder / PITCH_FILE, plan, kind="speech")
        self._excite = make_session(folder / EXCITE_FILE, plan, kind="speech")
        self._decode = make_session(folder / DECODE_FILE, plan, kind="speech")

    def pitch(self, mel: np.ndarray) -> np.ndarray:
        """(M, T) to Hz (T,)."""
        return _run(self._pitch, mel=mel)

    def excite(self, harmonics: np.ndarray) -> np.ndarray:
        """(N, H + 1) to a source (N,)."""
        return _run(self._excite, harmonics=harmonics)

    def decode(self, mel: np.ndarray, source: np.ndarray) -> np.ndarray:
        """(M, T) and (N,) to a waveform (N,)."""
        return _run(self._decode, mel=mel, source=source)


def _run(session: InferenceSession, **inputs: np.ndarray) -> np.ndarray:
    """One utterance through a graph that has a batch axis."""
    feeds = {name: np.ascontiguousarray(array, dtype=np.float32)[None] for name, array in inputs.items()}
    output: np.ndarray = session.run(None, feeds)[0][0]
    return output
