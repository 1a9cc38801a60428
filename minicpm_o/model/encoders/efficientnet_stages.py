"""The layer table of EfficientNet-Lite: which blocks there are, for the network and for its device graph alike.

Numbers only. Source: arXiv:1905.11946 table 1 and the published scaling of the Lite variants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

NORM_EPS = 1e-3
STEM_CHANNELS = 32

_STAGES = (  # kernel, stride, expansion, channels, repeats at depth 1.0
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_SCALES = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}  # width, depth


@dataclass(frozen=True)
class BlockSpec:
    """One inverted residual block."""

    kernel: int
    stride: int
    channels_in: int
    hidden: int
    channels_out: int

    @property
    def is_residual(self) -> bool:
        return self.stride == 1 and self.channels_in == self.channels_out


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels to add before and after a side of `size`, as TensorFlow's SAME does."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _round_channels(channels: float) -> int:
    """To the nearest multiple of 8, never more than a tenth below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def block_specs(variant: str) -> list[BlockSpec]:
    """The blocks of "lite0" or "lite2", in order."""
    width, depth = _SCALES[variant]
    specs: list[BlockSpec] = []
    channels_in = STEM_CHANNELS
    for index, (kernel, stride, expansion, channels, repeats) in enumerate(_STAGES):
        is_edge = index in (0, len(_STAGES) - 1)  # Lite keeps the first and the last stage's depth
        channels_out = _round_channels(channels * width)
        for repeat in range(repeats if is_edge else math.ceil(repeats * depth)):
            specs.append(
                BlockSpec(kernel, stride if repeat == 0 else 1, channels_in, channels_in * expansion, channels_out)
            )
            channels_in = channels_out
    return specs
