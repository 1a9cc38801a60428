"""Codes of 2.6's voice (four a step, 46.9 steps a second) to the log-mel that Vocos turns into sound.

Knows no text and no sampling. Letters: T steps, q codes per step (groups x residuals), L latent width, W width, M mel
bins. A step becomes one frame per group. The checkpoints also hold the way from mel to codes, which nothing that
speaks needs: those modules stand here for their tensors and are never called.

Source: ChatTTS (github.com/2noise/ChatTTS), ConvNeXt (arXiv:2201.03545), FSQ (arXiv:2309.15505).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DvaeConfig

KERNEL = 7
DILATION = 2
NORM_EPS = 1e-6
FFN_RATIO = 4


class DvaeBlock(nn.Module):
    """ConvNeXt block with a wide view: x (B, W, T) plus a scaled change of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.coef = nn.Parameter(torch.full((width,), 1e-6))
        self.dwconv = nn.Conv1d(width, width, KERNEL, dilation=DILATION, padding=DILATION * (KERNEL // 2), groups=width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(width, FFN_RATIO * width)
        self.pwconv2 = nn.Linear(FFN_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.dwconv(x).transpose(1, 2))  # (B, W, T) -> (B, T, W)
        h = self.coef * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + h.transpose(1, 2)


class DvaeStack(nn.Module):
    """(B, in, T) to (B, out, T) through a bottleneck and the blocks. Official name of the blocks: decoder_block."""

    def __init__(self, config: DvaeConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv_in = nn.Sequential(nn.Conv1d(in_width, config.bottleneck, 3, padding=1), nn.GELU(),
                                     nn.Conv1d(config.bottleneck, config.width, 3, padding=1))
        self.decoder_block = nn.ModuleList([DvaeBlock(config.width) for _ in range(config.layers)])
        self.conv_out = nn.Conv1d(config.width, out_width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.decoder_block:
            x = block(x)
        return self.conv_out(x)


class ResidualFsq(nn.Module):
    """Codes of one group to its features: each level refines the one before by a quarter (levels - 1) of its step."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        self.project_in = nn.Linear(config.latent_width, len(config.levels))
        self.project_out = nn.Linear(len(config.levels), config.latent_width)
        levels = torch.tensor(config.levels)
        basis = torch.tensor([math.prod(config.levels[:i]) for i in range(len(config.levels))])
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("basis", basis, persistent=False)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, T, residuals) int64 -> (B, T, L)."""
        half = self.levels // 2
        steps = (codes[..., None] // self.basis) % self.levels  # (B, T, r) -> (B, T, r, numbers)
        values = (steps - half).to(self.project_out.weight.dtype) / half
        fineness = torch.arange(codes.shape[-1], device=codes.device)[:, None]
        scales = (self.levels - 1).to(values.dtype) ** -fineness
        return self.project_out((values * scales).sum(dim=-2))


class GroupedFsq(nn.Module):
    """One residual quantiser per group. Official names: quantizer.rvqs."""

    def __init__(self, config: DvaeConfig) -> None:
        super().__init__()
        self.quantizer = nn.Module()
        self.quantizer.rvqs = nn.ModuleList([ResidualFsq(config) for _ in range(config.groups)])

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, T, q) -> (B, groups, T, L); codes of a group stand side by side."""
        groups = codes.chunk(len(self.quantizer.rvqs), dim=-1)
        return torch.stack([rvq.decode(part) for rvq, part in zip(self.quantizer.rvqs, groups, strict=True)], dim=1)


class Dvae(nn.Module):
    """codes (B, T, q) int64 -> mel (B, M, groups * T). Names are the official ones after `tts.dvae.`."""

    def __init__(self, config: DvaeConfig, mel_bins: int) -> None:
        super().__init__()
        self.coef = nn.Parameter(torch.ones(1, mel_bins, 1))
        latent = config.latent_width
        self.downsample_conv = nn.Sequential(nn.Conv1d(mel_bins, latent, 3, padding=1), nn.GELU(),
                                             nn.Conv1d(latent, latent, 4, stride=config.groups, padding=1), nn.GELU())
        self.encoder = DvaeStack(config, latent, config.groups * latent)
        self.decoder = DvaeStack(config, latent, latent)
        self.out_conv = nn.Conv1d(latent, mel_bins, 3, padding=1, bias=False)
        self.vq_layer = GroupedFsq(config)

    def forward(self, codes: Tensor) -> Tensor:
        features = self.vq_layer.decode(codes)
        features = features.permute(0, 3, 2, 1).flatten(2)  # (B, G, T, L) -> (B, L, T, G) -> (B, L, T * G)
        return self.out_conv(self.decoder(features)) * self.coef
