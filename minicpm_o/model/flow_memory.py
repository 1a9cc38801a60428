"""What token2wav's flow remembers between pieces of a stream, and what its two networks give back.

Plain containers for arrays of any library, so that torch and onnxruntime stand behind one protocol. Letters: W width,
H heads, K head width, L layers, U layers after the doubling, C tokens heard so far, F mel frames of a call, M mel bins,
S frames remembered, B batch (with and without the condition: 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .config import FlowConfig

Array = TypeVar("Array")

LOOKAHEAD_PAST = 2
"""Frames that the second convolution of the look-ahead wants from before."""

CONV_PAST = 2
"""Frames that each of a decoder block's two convolutions wants from before."""


@dataclass(frozen=True)
class EncoderMemory(Generic[Array]):
    """The encoder's past."""

    lookahead: Array
    """(1, 2, W): last frames between the two convolutions of the look-ahead."""
    upsampled: Array
    """(1, 2 * up_factor, W): last frames before the convolution that follows the doubling."""
    token_kv: Array
    """(L, H, C, 2K): keys and values side by side, oldest token first."""
    frame_kv: Array
    """(U, H, up_factor * C, 2K)."""


@dataclass(frozen=True)
class DecoderMemory(Generic[Array]):
    """The decoder's past at one Euler step."""

    conv: Array
    """(L, 2 convolutions, B, 2, W): last frames before each convolution."""
    kv: Array
    """(L, B, H, S, 2K): keys and values side by side, newest piece first."""


@dataclass(frozen=True)
class Encoded(Generic[Array]):
    """What the encoder made of a piece."""

    mu: Array
    """(F, M)."""
    voice: Array
    """(M,): the speaker's vector, projected."""
    new: EncoderMemory[Array]
    """Convolutions' past after the piece, but keys and values of the piece alone."""


@dataclass(frozen=True)
class Estimated(Generic[Array]):
    """What the decoder made of a piece at one moment of the flow."""

    velocity: Array
    """(B, M, F)."""
    new: DecoderMemory[Array]
    """Convolutions' past after the piece, but keys and values of the piece alone."""


def empty_encoder_memory(config: FlowConfig, zeros: Callable[[tuple[int, ...]], Array]) -> EncoderMemory[Array]:
    """The encoder's memory before the first token; `zeros` makes an array of a shape."""
    shape = config.encoder
    packed = (shape.heads, 0, 2 * (shape.width // shape.heads))
    return EncoderMemory(zeros((1, LOOKAHEAD_PAST, shape.width)), zeros((1, 2 * shape.up_factor, shape.width)),
                         zeros((shape.layers, *packed)), zeros((shape.up_layers, *packed)))


def empty_decoder_memory(config: FlowConfig, zeros: Callable[[tuple[int, ...]], Array],
                         batch: int = 2) -> DecoderMemory[Array]:
    """The decoder's memory before the first frame."""
    shape = config.decoder
    return DecoderMemory(zeros((shape.layers, 2, batch, CONV_PAST, shape.width)),
                         zeros((shape.layers, batch, shape.heads, 0, 2 * shape.head_width)))
