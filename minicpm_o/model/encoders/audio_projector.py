"""Whisper's encoder frames (50 a second) to audio tokens of the language model's width, as MiniCPM-o 2.6 and 4.5 do it.

Nano's projector (`projector.py`) stacks frames before it projects them; here every frame is projected and groups of
them are averaged. Shapes: B batch, L encoder frames, E encoder width, D language width, A = L // pool_step tokens.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PooledAudioProjector(nn.Module):
    """encoder_out (B, L, E) -> tokens (B, A, D); a last group that is not full is dropped."""

    def __init__(self, encoder_width: int, language_width: int, pool_step: int) -> None:
        super().__init__()
        self.pool_step = pool_step
        self.linear1 = nn.Linear(encoder_width, language_width)
        self.linear2 = nn.Linear(language_width, language_width)

    def forward(self, encoder_out: Tensor) -> Tensor:
        x = self.linear2(F.relu(self.linear1(encoder_out)))
        num_tokens = x.shape[1] // self.pool_step
        groups = x[:, : num_tokens * self.pool_step].unflatten(1, (num_tokens, self.pool_step))
        return groups.mean(2)  # (B, A, pool_step, D) -> (B, A, D)
