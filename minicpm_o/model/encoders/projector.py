"""Whisper's encoder frames (50 Hz) to audio tokens (10 Hz) of the language model's width: two layers, no attention.

Stacking five frames keeps the order of sounds inside a token, which averaging would lose.
Shapes: B batch, F2 encoder frames, E encoder width, D language width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...rates import AUDIO_POOL
from ..config import NanoConfig


class AudioProjector(nn.Module):
    """encoder_out (B, F2, E), F2 a multiple of 5 -> tokens (B, F2 / 5, D)."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        hearing, width = config.hearing, config.language.width
        self.norm = nn.LayerNorm(hearing.width)
        self.hidden = nn.Linear(AUDIO_POOL * hearing.width, hearing.projector_hidden)
        self.out = nn.Linear(hearing.projector_hidden, width)

    def forward(self, encoder_out: Tensor) -> Tensor:
        x = self.norm(encoder_out)
        x = x.reshape(x.shape[0], x.shape[1] // AUDIO_POOL, -1)  # (B, F2, E) -> (B, F2/5, 5*E)
        return self.out(F.gelu(self.hidden(x)))
