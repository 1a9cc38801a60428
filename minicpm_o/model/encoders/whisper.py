"""log_mel to encoder frames and audio tokens, as MiniCPM-o 2.6 and 4.5 hear: Whisper's encoder with a cache.

A clip is heard at once under a block-causal bias; a stream is heard chunk by chunk, each seeing itself and the keys and
values of all that came before, which are passed in and returned. Source: Whisper (arXiv:2212.04356), section 2.2; the
names of the weights are those of the official checkpoints behind `apm.`.

Shapes: B batch, M mel bins, F mel frames, L encoder frames that are kept, P encoder frames heard before, E encoder
width, H heads, K head width, D language width, A audio tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import WhisperEncoderConfig
from .audio_projector import PooledAudioProjector
from .hearing import block_causal_bias

KeysValues = tuple[Tensor, Tensor]
"""One layer's keys and values, (B, H, P, K) each."""

FLOAT16_MARGIN = 1000
"""Kept free below float16's largest number when activations are cut to it."""


class WhisperAttention(nn.Module):
    """Self-attention with a cache; keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        """x (B, L, E), bias (B or 1, 1, L, P + L) added to the scores -> (B, L, E) and all keys and values."""
        query, keys, values = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, L, E) -> (B, H, L, K)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        x = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        return self.out_proj(x.transpose(1, 2).flatten(2)), (keys, values)


class WhisperLayer(nn.Module):
    """Attention, then feed-forward, each behind its norm and added to its input."""

    def __init__(self, config: WhisperEncoderConfig) -> None:
        super().__init__()
        self.self_attn = WhisperAttention(config.width, config.heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.fc1 = nn.Linear(config.width, config.ffn)
        self.fc2 = nn.Linear(config.ffn, config.width)
        self.final_layer_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, bias: Tensor | None, past: KeysValues | None) -> tuple[Tensor, KeysValues]:
        attended, present = self.self_attn(self.self_attn_layer_norm(x), bias, past)
        x = x + attended
        x = x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x))))
        if x.dtype == torch.float16:
            limit = torch.finfo(x.dtype).max - FLOAT16_MARGIN
            x = x.clamp(-limit, limit)
        return x, present


class WhisperTower(nn.Module):
    """The encoder; its parameters bear the names behind `apm.`."""

    def __init__(self, config: WhisperEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.conv1 = nn.Conv1d(config.mel_bins, config.width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, kernel_size=3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_frames, config.width)
        self.layers = nn.ModuleList(WhisperLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.width)

    def forward(
        self,
        log_mel: Tensor,
        bias: Tensor | None = None,
        past: Sequence[KeysValues] | None = None,
        *,
        kept: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, list[KeysValues]]:
        """log_mel (B, M, F) -> (B, L, E) behind the last norm, and the keys and values of every layer.

        bias (B or 1, 1, L, P + L) is added to the scores; without one everything sees everything. kept (L,) are the
        encoder frames that stay after the convolutions (default: all); positions (L,) are their places (default:
        those that follow the past). In training with gradient_checkpointing, and without a past, no cache comes back.
        """
        x = F.gelu(self.conv1(log_mel))
        x = F.gelu(self.conv2(x)).transpose(1, 2)  # (B, E, F/2) -> (B, F/2, E)
        x = x if kept is None else x[:, kept]
        x = x + self.embed_positions(self._places(x, past) if positions is None else positions)
        bias = None if bias is None else bias.to(x.dtype)
        is_checkpointed = self.gradient_checkpointing and self.training and past is None
        presents = []
        for index, layer in enumerate(self.layers):
            if is_checkpointed:
                x = checkpoint(lambda x, layer=layer: layer(x, bias, None)[0], x, use_reentrant=False)
                continue
            x, present = layer(x, bias, None if past is None else past[index])
            presents.append(present)
        return self.layer_norm(x), presents

    def _places(self, x: Tensor, past: Sequence[KeysValues] | None) -> Tensor:
        """Places after the past; the last one is repeated when they run out."""
        start = 0 if past is None else past[0][0].shape[2]
        places = torch.arange(start, start + x.shape[1], device=x.device)
        return places.clamp(max=self.config.max_frames - 1)


def offline_bias(mel_lengths: Sequence[int], num_frames: int, chunk_s: float, *, fix_padding: bool = False) -> Tensor:
    """(B, 1, L, L) bias of a padded batch of clips: blocks of chunk_s see themselves and what came before.

    mel_lengths are the clips' mel frames, num_frames = L. The official models compare encoder frames with the number of
    mel frames, so padding is hidden only from where twice the clip ends; fix_padding hides all of it.
    """
    block = int(chunk_s * 50) if chunk_s > 0 else num_frames
    bias = block_causal_bias(num_frames, block)
    limits = torch.tensor([(length + 1) // 2 if fix_padding else length for length in mel_lengths])
    is_padding = torch.arange(num_frames)[None, None, None, :] >= limits[:, None, None, None]
    return bias[None, None].masked_fill(is_padding, torch.finfo(torch.float32).min)


def encode_padded(
    tower: WhisperTower, projector: PooledAudioProjector, log_mel: Tensor, mel_lengths: Sequence[int], *,
    fix_padding: bool = False,
) -> list[Tensor]:
    """Clips padded to one length, (B, M, F), to each clip's tokens (A, D), as the official models hear one prompt."""
    num_frames = (log_mel.shape[2] + 1) // 2
    bias = offline_bias(mel_lengths, num_frames, tower.config.chunk_s, fix_padding=fix_padding)
    tokens = projector(tower(log_mel, bias.to(log_mel.device))[0])
    step = projector.pool_step
    return [row[: (length + 1) // 2 // step] for row, length in zip(tokens, mel_lengths, strict=True)]


class TorchHearing:
    """The raw network behind `runtime.listening`, numpy in and out, on whatever device and dtype the modules are."""

    def __init__(self, tower: WhisperTower, projector: PooledAudioProjector) -> None:
        self.tower = tower
        self.projector = projector
        self.config = tower.config

    @torch.inference_mode()
    def hear(
        self, log_mel: np.ndarray, kept: np.ndarray, positions: np.ndarray, bias: np.ndarray,
        past: list[KeysValues] | None, *, keep: bool,
    ) -> tuple[np.ndarray, list[KeysValues] | None]:
        """As `runtime.listening.HearingNetwork.hear`; the cache stays on the device."""
        weight = self.tower.conv1.weight
        hidden, present = self.tower(
            torch.from_numpy(log_mel).to(weight), torch.from_numpy(bias).to(weight), past,
            kept=torch.from_numpy(kept).to(weight.device), positions=torch.from_numpy(positions).to(weight.device),
        )
        return self.projector(hidden).float().cpu().numpy(), present if keep else None
