"""Mel frames to a 24 kHz waveform: the vocoder of token2wav, with a pitch predictor and a harmonic source.

The network is three calls: mel to pitch, harmonics to a source, mel and source to a waveform. The sines between the
first two, and every random number, are made outside (runtime/hift.py). Tensor names are those of hift_original.pt.

Letters: B batch, M mel bins, T mel frames, N = 480 T waveform samples, S = 120 T + 1 frames of the short Fourier
transform, W width, C = fft_samples + 2 channels (real parts, then imaginary; or magnitudes, then phases).
Source: HiFTNet (arXiv:2309.09493) as CosyVoice 2 shaped it; Snake is arXiv:2006.08195.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import mul

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from ..config import HiftConfig

MAX_MAGNITUDE = 100.0
"""Louder frequencies than this are cut before the inverse transform."""

LAST_LEAK = 0.01
"""Slope of the last activation below zero; the ones before it have the config's."""


class Snake(nn.Module):
    """x + sin²(αx) / α, with one α per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


class ResBlock(nn.Module):
    """Pairs of convolutions, a dilated and a plain one, each pair beside a residual."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(same_conv(channels, channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(same_conv(channels, channels, kernel) for _ in dilations)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for bend1, conv1, bend2, conv2 in zip(self.activations1, self.convs1, self.activations2, self.convs2,
                                              strict=True):
            x = x + conv2(bend2(conv1(bend1(x))))
        return x


class PitchPredictor(nn.Module):
    """Mel frames (B, M, T) to the pitch of each in Hz (B, T); below 10 Hz means that there is none."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        widths = [config.mel_bins, *[config.pitch_width] * 5]
        layers = [(same_conv(inner, outer, 3), nn.ELU()) for inner, outer in pairwise(widths)]
        self.condnet = nn.Sequential(*(module for layer in layers for module in layer))
        self.classifier = nn.Linear(config.pitch_width, 1)

    def forward(self, mel: Tensor) -> Tensor:
        return self.classifier(self.condnet(mel).transpose(1, 2)).squeeze(-1).abs()


class SourceMerger(nn.Module):
    """Harmonics (B, N, H + 1) to one source signal (B, N)."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.l_linear = nn.Linear(config.harmonics + 1, 1)

    def forward(self, harmonics: Tensor) -> Tensor:
        return torch.tanh(self.l_linear(harmonics)).squeeze(-1)


class Hift(nn.Module):
    """The vocoder; see the module's head for its three calls."""

    window: Tensor

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width >> level for level in range(len(config.up_rates) + 1)]
        channels = config.fft_samples + 2
        self.m_source = SourceMerger(config)
        self.conv_pre = same_conv(config.mel_bins, config.width, 7)
        self.ups = nn.ModuleList(
            weight_norm(nn.ConvTranspose1d(wide, narrow, kernel, rate, padding=(kernel - rate) // 2))
            for wide, narrow, kernel, rate in zip(widths, widths[1:], config.up_kernels, config.up_rates, strict=False))
        self.source_downs = nn.ModuleList(
            source_down(channels, width, step)
            for width, step in zip(widths[1:], source_steps(config.up_rates), strict=True))
        self.source_resblocks = nn.ModuleList(
            ResBlock(width, kernel, dilations) for width, kernel, dilations
            in zip(widths[1:], config.source_kernels, config.source_dilations, strict=True))
        self.resblocks = nn.ModuleList(
            ResBlock(width, kernel, dilations) for width in widths[1:]
            for kernel, dilations in zip(config.block_kernels, config.block_dilations, strict=True))
        self.conv_post = same_conv(widths[-1], channels, 7)
        self.f0_predictor = PitchPredictor(config)
        self.register_buffer("window", torch.hann_window(config.fft_samples), persistent=False)

    def pitch(self, mel: Tensor) -> Tensor:
        """Mel (B, M, T) to Hz (B, T)."""
        return self.f0_predictor(mel)

    def excite(self, harmonics: Tensor) -> Tensor:
        """Harmonics (B, N, H + 1) to a source (B, N)."""
        return self.m_source(harmonics)

    def decode(self, mel: Tensor, source: Tensor) -> Tensor:
        """Mel (B, M, T) and source (B, N) to a waveform (B, N) within the config's limit."""
        waves = self._spectrum(source)                                      # (B, C, S)
        x = self.conv_pre(mel)                                              # (B, M, T) -> (B, W, T)
        blocks = len(self.config.block_kernels)
        for level, (up, down, smooth) in enumerate(zip(self.ups, self.source_downs, self.source_resblocks,
                                                       strict=True)):
            x = up(functional.leaky_relu(x, self.config.leak))              # (B, W, T) -> (B, W/2, rate T)
            if level + 1 == len(self.ups):
                x = functional.pad(x, (1, 0), mode="reflect")               # a Fourier transform has a frame more
            x = x + smooth(down(waves))
            x = sum(block(x) for block in self.resblocks[level * blocks:(level + 1) * blocks]) / blocks
        spectrum = self.conv_post(functional.leaky_relu(x, LAST_LEAK))      # (B, W/8, S) -> (B, C, S)
        return self._waveform(spectrum).clamp(-self.config.limit, self.config.limit)

    def _spectrum(self, source: Tensor) -> Tensor:
        """Short Fourier transform, (B, N) -> (B, C, S)."""
        shape = self.config
        spectrum = torch.stft(source, shape.fft_samples, shape.hop_samples, window=self.window, return_complex=True)
        return torch.cat([spectrum.real, spectrum.imag], dim=1)

    def _waveform(self, spectrum: Tensor) -> Tensor:
        """Log magnitudes and arcs of phases (B, C, S) to samples (B, N)."""
        shape = self.config
        log_magnitude, arc = spectrum.chunk(2, dim=1)
        # The phase is the sine of the network's number: bounded, and taken for an angle as it stands.
        waves = torch.polar(log_magnitude.exp().clamp(max=MAX_MAGNITUDE), torch.sin(arc))
        return torch.istft(waves, shape.fft_samples, shape.hop_samples, window=self.window)


def same_conv(inner: int, outer: int, kernel: int, dilation: int = 1) -> nn.Module:
    """A weight-normed convolution that keeps the length."""
    return weight_norm(nn.Conv1d(inner, outer, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2))


def source_down(inner: int, outer: int, step: int) -> nn.Module:
    """A strided convolution that brings the source's spectrum to a level's rate."""
    return nn.Conv1d(inner, outer, 1) if step == 1 else nn.Conv1d(inner, outer, 2 * step, step, padding=step // 2)


def source_steps(up_rates: Sequence[int]) -> list[int]:
    """By how much each level is slower than the source's spectrum: rates (8, 5, 3) give steps (15, 3, 1)."""
    return list(accumulate([1, *reversed(up_rates[1:])], mul))[::-1]


class TorchHift:
    """A Hift behind numpy arrays, one utterance at a time, on any device; it computes in float32.

    The phases of its Fourier transforms do not bear fewer bits.
    """

    def __init__(self, module: Hift) -> None:
        self.module = module.float().eval()
        self.device = next(module.parameters()).device

    def pitch(self, mel: np.ndarray) -> np.ndarray:
        """(M, T) to Hz (T,)."""
        return self._run(self.module.pitch, mel)

    def excite(self, harmonics: np.ndarray) -> np.ndarray:
        """(N, H + 1) to (N,)."""
        return self._run(self.module.excite, harmonics)

    def decode(self, mel: np.ndarray, source: np.ndarray) -> np.ndarray:
        """(M, T) and (N,) to (N,)."""
        return self._run(self.module.decode, mel, source)

    @torch.inference_mode()
    def _run(self, call, *arrays: np.ndarray) -> np.ndarray:
        tensors = [torch.from_numpy(np.ascontiguousarray(array, np.float32))[None].to(self.device) for array in arrays]
        return call(*tensors)[0].cpu().numpy()
