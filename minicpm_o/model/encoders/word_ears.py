"""Whisper's encoder frames (50 Hz) to letters: the words that nano hears with its own ears.

A small transformer reads each second together with what came just before it, two frames at a time, and says for every
frame which letter it writes there, or none (CTC, Graves et al. 2006). A second's frames have heard what came before but
nothing of what follows, so that a word is often cut by the end of a second; the look back tells where the last second
left off. A stream is heard as the whole is: a second needs nothing but itself and the look back.
Shapes: B batch, F2 encoder frames, E encoder width, W width of the ears, S = F2 / 50 seconds, C classes of letters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from ..config import HearingConfig, WordEarsConfig
from ..letters import NUM_CLASSES


class WordEars(nn.Module):
    """encoder_out (B, F2, E), F2 a multiple of 50 -> logits (B, F2, C)."""

    def __init__(self, hearing: HearingConfig, shape: WordEarsConfig) -> None:
        super().__init__()
        self.stack, self.steps, self.look_back = shape.stack, shape.steps, shape.look_back
        self.norm = nn.LayerNorm(hearing.width)
        self.inward = nn.Linear(shape.stack * hearing.width, shape.width)
        self.position = nn.Parameter(torch.randn(self.look_back + self.steps, shape.width) * 0.02)
        self.layers = nn.ModuleList(WhisperEncoderLayer(_layer_config(shape)) for _ in range(shape.layers))
        self.last_norm = nn.LayerNorm(shape.width)
        self.letters = nn.Linear(shape.width, shape.stack * NUM_CLASSES)

    def forward(self, encoder_out: Tensor) -> Tensor:
        batch, frames, _ = encoder_out.shape
        x = self.norm(encoder_out).reshape(batch, frames // self.stack, -1)  # (B, F2, E) -> (B, F2/2, 2*E)
        x = self.with_look_back(self.inward(x)) + self.position
        for layer in self.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
        x = self.last_norm(x[:, self.look_back :])  # (B * S, 25, W)
        return self.letters(x).reshape(batch, frames, NUM_CLASSES)

    def with_look_back(self, x: Tensor) -> Tensor:
        """(B, F2 / 2, W) -> (B * S, look back + 25, W): every second behind the end of the one before; the first,
        behind nothing."""
        seconds = x.reshape(x.shape[0], -1, self.steps, x.shape[-1])
        before = F.pad(seconds, (0, 0, 0, 0, 1, 0))[:, :-1, self.steps - self.look_back :]
        return torch.cat([before, seconds], dim=2).flatten(0, 1)


def _layer_config(shape: WordEarsConfig) -> WhisperConfig:
    return WhisperConfig(d_model=shape.width, encoder_attention_heads=shape.heads, encoder_ffn_dim=shape.ffn,
                         dropout=0.1, attention_dropout=0.1, activation_dropout=0.0, attn_implementation="sdpa")
