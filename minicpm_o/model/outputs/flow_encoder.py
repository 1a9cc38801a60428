"""Speech tokens, embedded, to hidden states at the mel's rate: the conformer in front of token2wav's flow.

Tensors are named as in the published flow.pt. One forward serves a whole sound and a piece of a stream: without a past,
with the look-ahead filled up with zeros, a piece is the whole. Knows no mel and no speaker. Letters: T tokens of a
call, C tokens before, W width, H heads, K head width, S = C + T keys.

Source: Transformer-XL's relative positions (arXiv:1901.02860, appendix B) as ESPnet lays them out; Conformer
(arXiv:2005.08100) without its convolutions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import FlowEncoderConfig
from ..flow_memory import LOOKAHEAD_PAST, EncoderMemory

LAYER_NORM_EPS = 1e-12
"""Of the norms inside a layer; the others have 1e-5."""


class FlowEncoder(nn.Module):
    """Look-ahead, conformer at 25 tokens a second, doubling, conformer at 50 frames a second."""

    def __init__(self, config: FlowEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config.width)
        self.pre_lookahead_layer = PreLookahead(config.width, config.lookahead_tokens)
        self.encoders = nn.ModuleList(ConformerLayer(config) for _ in range(config.layers))
        self.up_layer = Upsample(config.width, config.up_factor)
        self.up_embed = Embed(config.width)
        self.up_encoders = nn.ModuleList(ConformerLayer(config) for _ in range(config.up_layers))
        self.after_norm = nn.LayerNorm(config.width, eps=1e-5)

    def forward(self, tokens: Tensor, memory: EncoderMemory[Tensor], *,
                last: bool) -> tuple[Tensor, EncoderMemory[Tensor]]:
        """tokens (1, T, W) -> hidden (1, up_factor * T', W) and what is new to remember.

        T' is T when last, else T less the look-ahead, whose tokens must be given again with the next piece.
        """
        x = self.embed(tokens)
        if last:
            x = F.pad(x, (0, 0, 0, self.config.lookahead_tokens))
        x, lookahead = self.pre_lookahead_layer(x, memory.lookahead)
        x, token_kv = conform(self.encoders, x, memory.token_kv)
        x, upsampled = self.up_layer(x, memory.upsampled)
        x, frame_kv = conform(self.up_encoders, self.up_embed(x), memory.frame_kv)
        return self.after_norm(x), EncoderMemory(lookahead, upsampled, token_kv, frame_kv)


def conform(layers: nn.ModuleList, x: Tensor, past_kv: Tensor) -> tuple[Tensor, Tensor]:
    """x (1, T, W) through a stack with its past (layers, H, C, 2K); also keys and values of x alone."""
    positions = relative_positions(past_kv.shape[2] + x.shape[1], x.shape[2]).to(x)
    new = []
    for layer, past in zip(layers, past_kv, strict=True):
        x, kv = layer(x, positions, past)
        new.append(kv)
    return x, torch.stack(new)


def relative_positions(size: int, width: int) -> Tensor:
    """(2 * size - 1, width) sines and cosines, interleaved, of the distances size - 1 down to 1 - size."""
    distance = torch.arange(size - 1, -size, -1, dtype=torch.float32)
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(10_000.0) / width))
    angles = distance[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(2 * size - 1, width)


class Embed(nn.Module):
    """Linear, norm, and the scale that transformers with added positions once needed."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width, eps=1e-5))
        self.scale = math.sqrt(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * self.scale


class PreLookahead(nn.Module):
    """Two convolutions: one sees what comes, one what was; added to what is."""

    def __init__(self, width: int, lookahead: int) -> None:
        super().__init__()
        self.lookahead = lookahead
        self.conv1 = nn.Conv1d(width, width, lookahead + 1)
        self.conv2 = nn.Conv1d(width, width, LOOKAHEAD_PAST + 1)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x (1, T + lookahead, W), past (1, 2, W) -> (1, T, W), next past."""
        ahead = F.leaky_relu(self.conv1(x.transpose(1, 2))).transpose(1, 2)
        ahead = torch.cat([past, ahead], dim=1)
        out = self.conv2(ahead.transpose(1, 2)).transpose(1, 2)
        return out + x[:, : out.shape[1]], ahead[:, -LOOKAHEAD_PAST:]


class Upsample(nn.Module):
    """Every frame several times, then a convolution over them and those before."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv1d(width, width, 2 * factor + 1)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x (1, T, W), past (1, 2 * factor, W) -> (1, factor * T, W), next past."""
        x = torch.cat([past, x.repeat_interleave(self.factor, dim=1)], dim=1)
        return self.conv(x.transpose(1, 2)).transpose(1, 2), x[:, -2 * self.factor :]


class ConformerLayer(nn.Module):
    """Attention and feed-forward, each behind its norm and added to its input."""

    def __init__(self, config: FlowEncoderConfig) -> None:
        super().__init__()
        self.self_attn = RelativeAttention(config.width, config.heads)
        self.feed_forward = FeedForward(config.width, config.ffn)
        self.norm_ff = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.norm_mha = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, positions: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        attended, kv = self.self_attn(self.norm_mha(x), positions, past)
        x = x + attended
        return x + self.feed_forward(self.norm_ff(x)), kv


class FeedForward(nn.Module):
    def __init__(self, width: int, ffn: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(width, ffn)
        self.w_2 = nn.Linear(ffn, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(F.silu(self.w_1(x)))


class RelativeAttention(nn.Module):
    """Attention whose scores are of contents and of distances; everything sees everything given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, width // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, width // heads))

    def forward(self, x: Tensor, positions: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x (1, T, W), positions (2S - 1, W), past (H, C, 2K) -> (1, T, W), keys and values of x (H, T, 2K)."""
        query, key, value = (self._heads(linear(x[0])) for linear in (self.linear_q, self.linear_k, self.linear_v))
        kv = torch.cat([key, value], dim=-1)  # (H, T, 2K)
        keys, values = torch.cat([past, kv], dim=1).chunk(2, dim=-1)  # each (H, S, K)
        distances = self._heads(self.linear_pos(positions))  # (H, 2S - 1, K)
        by_content = (query + self.pos_bias_u[:, None]) @ keys.transpose(1, 2)
        by_distance = shift_to_keys((query + self.pos_bias_v[:, None]) @ distances.transpose(1, 2))
        scores = (by_content + by_distance) / math.sqrt(key.shape[-1])  # (H, T, S)
        out = (scores.softmax(-1) @ values).transpose(0, 1).reshape(x.shape)  # (H, T, K) -> (1, T, W)
        return self.linear_out(out), kv

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], self.heads, -1).transpose(0, 1)  # (T, W) -> (H, T, K)


def shift_to_keys(scores: Tensor) -> Tensor:
    """(H, T, 2S - 1) scores of distances, farthest past first -> (H, T, S) scores of keys.

    Query t stands at key S - T + t, so its row begins T - 1 - t entries later than the last one's. A zero in front of
    every row and a look at the same numbers one row length apart moves each row by one more than the row above.
    """
    heads, queries, distances = scores.shape
    padded = F.pad(scores, (1, 0)).reshape(heads, distances + 1, queries)
    return padded[:, 1:].reshape(heads, queries, distances)[..., : distances // 2 + 1]
