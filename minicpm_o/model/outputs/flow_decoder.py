"""Noisy mel and its conditions to the velocity that leads to clean mel: the DiT of token2wav.

Tensors are named as in the published flow.pt. Attention has no positions and no mask, so a piece of a stream needs only
keys and values of what it may look back at; the causal convolutions know the order. Letters: B batch, F frames of a
call, S frames remembered, M mel bins, W width, H heads, K head width.

Source: DiT (arXiv:2212.09748) with a convolution in each block; queries and keys normed (arXiv:2302.05442).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import FlowDecoderConfig
from ..flow_memory import CONV_PAST, DecoderMemory

MODULATION_EPS = 1e-6
"""Of the norms without weights of their own, which the moment's embedding scales and shifts."""

TIME_FEATURES = 256
TIME_SCALE = 1000.0


class FlowDecoder(nn.Module):
    """The solver's part of the names; the steps themselves are taken by the caller."""

    def __init__(self, config: FlowDecoderConfig, mel_bins: int) -> None:
        super().__init__()
        self.estimator = DiT(config, mel_bins)


class DiT(nn.Module):
    """Velocity of the mel at a moment of the flow."""

    def __init__(self, config: FlowDecoderConfig, mel_bins: int) -> None:
        super().__init__()
        self.t_embedder = TimeEmbedder(config.width)
        self.in_proj = nn.Linear(4 * mel_bins, config.width)
        self.blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.layers))
        self.final_layer = FinalLayer(config.width, mel_bins)

    def forward(self, x: Tensor, mu: Tensor, t: Tensor, voice: Tensor, cond: Tensor,
                memory: DecoderMemory[Tensor]) -> tuple[Tensor, DecoderMemory[Tensor]]:
        """x, mu, cond (B, M, F), t (B,) from 0 to 1, voice (B, M) -> velocity (B, M, F) and what is new to remember."""
        moment = self.t_embedder(t)[:, None]  # (B, 1, W)
        tiled = voice[..., None].expand_as(x)
        h = self.in_proj(torch.cat([x, mu, tiled, cond], dim=1).transpose(1, 2))  # (B, F, W)
        convs, kvs = [], []
        for block, conv, past in zip(self.blocks, memory.conv, memory.kv, strict=True):
            h, conv, kv = block(h, moment, conv, past)
            convs.append(conv)
            kvs.append(kv)
        return self.final_layer(h, moment).transpose(1, 2), DecoderMemory(torch.stack(convs), torch.stack(kvs))


class TimeEmbedder(nn.Module):
    """A moment as cosines and sines, through two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        half = TIME_FEATURES // 2
        rates = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10_000.0) / half))
        angles = (t.float() * TIME_SCALE)[:, None] * rates
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.mlp[0].weight.dtype))


class DiTBlock(nn.Module):
    """Attention, convolution, feed-forward; each normed, scaled and shifted, and gated, as the moment says."""

    def __init__(self, config: FlowDecoderConfig) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.mlp = Mlp(config.width, int(config.width * config.mlp_ratio))
        self.conv = ConvBlock(config.width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 9 * config.width))

    def forward(self, x: Tensor, moment: Tensor, conv: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, F, W), moment (B, 1, W), conv (2, B, 2, W), past (B, H, S, 2K)."""
        parts = self.adaLN_modulation(moment).chunk(9, dim=-1)
        attn_shift, attn_scale, attn_gate, mlp_shift, mlp_scale, mlp_gate, conv_shift, conv_scale, conv_gate = parts
        attended, kv = self.attn(modulate(x, attn_shift, attn_scale), past)
        x = x + attn_gate * attended
        convolved, conv = self.conv(modulate(x, conv_shift, conv_scale), conv)
        x = x + conv_gate * convolved
        return x + mlp_gate * self.mlp(modulate(x, mlp_shift, mlp_scale)), conv, kv


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=MODULATION_EPS) * (1 + scale) + shift


class Attention(nn.Module):
    """Every frame sees every frame given and remembered."""

    def __init__(self, config: FlowDecoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        inner = config.heads * config.head_width
        self.to_q = nn.Linear(config.width, inner)
        self.to_k = nn.Linear(config.width, inner)
        self.to_v = nn.Linear(config.width, inner)
        self.q_norm = nn.LayerNorm(config.head_width)
        self.k_norm = nn.LayerNorm(config.head_width)
        self.proj = nn.Linear(inner, config.width)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, F, W), past (B, H, S, 2K) -> (B, F, W), keys and values of x (B, H, F, 2K)."""
        query, key, value = (self._heads(linear(x)) for linear in (self.to_q, self.to_k, self.to_v))
        kv = torch.cat([self.k_norm(key), value], dim=-1)
        keys, values = torch.cat([kv, past], dim=2).chunk(2, dim=-1)
        out = F.scaled_dot_product_attention(self.q_norm(query), keys, values)  # (B, H, F, K)
        return self.proj(out.transpose(1, 2).flatten(2)), kv

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, F, H * K) -> (B, H, F, K)


class ConvBlock(nn.Module):
    """Two causal convolutions with a norm and Mish between; `block` holds them at the published numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict({
            "1": nn.Conv1d(width, width, CONV_PAST + 1),
            "3": nn.LayerNorm(width),
            "6": nn.Conv1d(width, width, CONV_PAST + 1),
        })

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, F, W), past (2, B, 2, W) -> (B, F, W), next past."""
        x, first = causal(self.block["1"], x, past[0])
        x, second = causal(self.block["6"], F.mish(self.block["3"](x)), past[1])
        return x, torch.stack([first, second])


def causal(conv: nn.Module, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """A convolution that sees the frames before, x (B, F, W) and past (B, 2, W); also the next past."""
    x = torch.cat([past, x], dim=1)
    return conv(x.transpose(1, 2)).transpose(1, 2), x[:, -CONV_PAST:]


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class FinalLayer(nn.Module):
    """Modulated norm and the way back to mel bins."""

    def __init__(self, width: int, mel_bins: int) -> None:
        super().__init__()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.linear = nn.Linear(width, mel_bins)

    def forward(self, x: Tensor, moment: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(moment).chunk(2, dim=-1)
        return self.linear(modulate(x, shift, scale))
