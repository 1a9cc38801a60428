"""Log-mel to a 24 kHz waveform: Vocos, which predicts a spectrum and lets the inverse Fourier transform do the rest.

Knows no codes and no text. Letters: M mel bins, T mel frames, W width, S Fourier bins, N samples = hop * T.

Source: Vocos (arXiv:2306.00814); tensor names of PyPI vocos 0.1.0.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import VocosConfig

NORM_EPS = 1e-6
KERNEL = 7
MAX_MAGNITUDE = 1e2


class VocosBlock(nn.Module):
    """ConvNeXt block: x (B, W, T) plus a scaled change of it."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(config.width, config.width, KERNEL, padding=KERNEL // 2, groups=config.width)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.pwconv1 = nn.Linear(config.width, config.ffn)
        self.pwconv2 = nn.Linear(config.ffn, config.width)
        self.gamma = nn.Parameter(torch.full((config.width,), 1 / config.layers))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.dwconv(x).transpose(1, 2))  # (B, W, T) -> (B, T, W)
        h = self.gamma * self.pwconv2(F.gelu(self.pwconv1(h)))
        return x + h.transpose(1, 2)


class VocosBackbone(nn.Module):
    """mel (B, M, T) -> (B, T, W)."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.embed = nn.Conv1d(config.mel_bins, config.width, KERNEL, padding=KERNEL // 2)
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.convnext = nn.ModuleList([VocosBlock(config) for _ in range(config.layers)])
        self.final_layer_norm = nn.LayerNorm(config.width, eps=NORM_EPS)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.norm(self.embed(mel).transpose(1, 2)).transpose(1, 2)
        for block in self.convnext:
            x = block(x)
        return self.final_layer_norm(x.transpose(1, 2))  # (B, W, T) -> (B, T, W)


class InverseFourier(nn.Module):
    """Spectrum (B, S, T) -> waveform (B, hop * T). Holds the window, which the file stores too.

    A frame of mel stands for the hop in its middle ("same" padding), so what lies outside the T hops is cut off.
    """

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.hop = config.hop_samples
        self.register_buffer("window", torch.hann_window(config.fft_samples))

    def forward(self, spectrum: Tensor) -> Tensor:
        frames = torch.fft.irfft(spectrum, len(self.window), dim=1) * self.window[:, None]  # (B, fft, T)
        squares = self.window.square()[None, :, None].expand(1, -1, frames.shape[2])
        return self._overlap_add(frames) / self._overlap_add(squares)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        """(B, fft, T) -> (B, hop * T)."""
        fft, num_frames = frames.shape[1:]
        length, cut = fft + self.hop * (num_frames - 1), (fft - self.hop) // 2
        summed = F.fold(frames, (1, length), kernel_size=(1, fft), stride=(1, self.hop))
        return summed[:, 0, 0, cut : cut + self.hop * num_frames]


class FourierHead(nn.Module):
    """x (B, T, W) -> magnitude and phase -> waveform (B, N)."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.out = nn.Linear(config.width, config.fft_samples + 2)
        self.istft = InverseFourier(config)

    def forward(self, x: Tensor) -> Tensor:
        magnitude, phase = self.out(x).transpose(1, 2).chunk(2, dim=1)  # (B, T, 2 S) -> twice (B, S, T)
        magnitude = magnitude.exp().clamp(max=MAX_MAGNITUDE)
        return self.istft(torch.polar(magnitude, phase))


class Vocos(nn.Module):
    """mel (B, M, T) -> waveform (B, hop * T) at 24 kHz."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = VocosBackbone(config)
        self.head = FourierHead(config)

    def forward(self, mel: Tensor) -> Tensor:
        return self.head(self.backbone(mel))


class TorchVocos:
    """The vocoder with numpy in and out, on the module's device; always float32, as phases need it."""

    def __init__(self, module: Vocos) -> None:
        self.module = module.float().eval()

    @torch.inference_mode()
    def __call__(self, mel: np.ndarray) -> np.ndarray:
        """mel (M, T) -> waveform (N,) float32."""
        device = self.module.head.out.weight.device
        waveform = self.module(torch.from_numpy(np.ascontiguousarray(mel, np.float32))[None].to(device))
        return waveform[0].cpu().numpy()
