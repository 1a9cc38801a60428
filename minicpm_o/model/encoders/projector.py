"""Whisper's encoder frames (50 Hz) to audio tokens (10 Hz) of the language model's width, a second at a time.

A token is what it sounded like, and where the model has ears for words, what was said is added. What was said is read
by CTC (Graves et al. 2006) from a small transformer over the second: the words' pieces that it hears, in order, each
written as the embedding that the language model has for it, as `resampler` writes the classes that are seen. A second
has ten places for them; those that are left say so. What it sounded like is two layers over stacked frames: stacking
keeps the order of sounds inside a token, which averaging would lose. A second is read by itself, because its frames
have heard what came before: a stream is heard as the whole is.
Shapes: B batch, F2 encoder frames, E encoder width, D language width, S = F2 / 50 seconds, U pieces of words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from ...rates import AUDIO_POOL, UNIT_AUDIO_TOKENS, UNIT_ENCODER_FRAMES, exact_div
from ..config import NanoConfig, WordEarsConfig

STACK = 2
"""Frames that CTC reads at once."""
UNIT_STEPS = exact_div(UNIT_ENCODER_FRAMES, STACK)
BLANK = 0
"""CTC's class for nothing new; piece number n is class n + 1."""


class AudioProjector(nn.Module):
    """encoder_out (B, F2, E), F2 a multiple of 50 (of 5 without words) -> tokens (B, F2 / 5, D)."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        hearing, width = config.hearing, config.language.width
        self.norm = nn.LayerNorm(hearing.width)
        self.hidden = nn.Linear(AUDIO_POOL * hearing.width, hearing.projector_hidden)
        self.out = nn.Linear(hearing.projector_hidden, width)
        self.words = None if hearing.words is None else WordEars(config, hearing.words)

    def forward(self, encoder_out: Tensor) -> Tensor:
        sound = self.sound_tokens(encoder_out)
        return sound if self.words is None else sound + self.words(encoder_out)

    def sound_tokens(self, encoder_out: Tensor) -> Tensor:
        x = self.norm(encoder_out)
        x = x.reshape(x.shape[0], x.shape[1] // AUDIO_POOL, -1)  # (B, F2, E) -> (B, F2/5, 5*E)
        return self.out(F.gelu(self.hidden(x)))


class WordEars(nn.Module):
    """encoder_out (B, F2, E) -> tokens (B, F2 / 5, D): the pieces of words that are heard, in their places."""

    def __init__(self, config: NanoConfig, shape: WordEarsConfig) -> None:
        super().__init__()
        width = config.language.width
        self.norm = nn.LayerNorm(config.hearing.width)
        self.stacked = nn.Linear(STACK * config.hearing.width, shape.width)
        self.position = nn.Parameter(torch.randn(UNIT_STEPS, shape.width) * 0.02)
        self.layers = nn.ModuleList(WhisperEncoderLayer(_layer_config(shape)) for _ in range(shape.layers))
        self.last_norm = nn.LayerNorm(shape.width)
        self.classes = nn.Linear(shape.width, shape.units + 1)
        self.unit_words = nn.Parameter(torch.zeros(shape.units + 1, width))
        """Embeddings of the pieces; the first row is unused."""
        self.register_buffer("unit_ids", torch.zeros(shape.units + 1, dtype=torch.int32))
        """Which tokens of the language model the pieces are."""
        self.place_words = nn.Parameter(torch.zeros(UNIT_AUDIO_TOKENS, width))
        """Added by place in the second."""
        self.nothing = nn.Parameter(torch.zeros(width))
        """What stands in a place that is left."""

    def forward(self, encoder_out: Tensor) -> Tensor:
        batch, frames, _ = encoder_out.shape
        tokens = self.unit_tokens(self.logits(encoder_out))
        return tokens.reshape(batch, frames // AUDIO_POOL, -1)  # (B * S, 10, D) -> (B, F2/5, D)

    def logits(self, encoder_out: Tensor) -> Tensor:
        """(B, F2, E) -> (B * S, 25, U + 1): each second by itself."""
        x = self.norm(encoder_out).reshape(-1, UNIT_STEPS, self.stacked.in_features)
        x = self.stacked(x) + self.position
        for layer in self.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
        return self.classes(self.last_norm(x))

    def unit_tokens(self, logits: Tensor) -> Tensor:
        """(S, 25, U + 1) -> (S, 10, D): the n-th piece of CTC's likeliest path goes to the n-th place."""
        certainty, heard = logits.softmax(-1).max(-1)  # (S, 25)
        before = F.pad(heard, (1, 0), value=BLANK)[:, :-1]
        is_new = (heard != BLANK) & (heard != before)
        place = torch.where(is_new, is_new.long().cumsum(-1) - 1, UNIT_AUDIO_TOKENS)
        goes_to = (torch.arange(UNIT_AUDIO_TOKENS, device=place.device)[:, None] == place[:, None]).to(logits.dtype)
        words = self.unit_words[heard] * certainty.sqrt().unsqueeze(-1)  # (S, 25, D); the root keeps doubts audible
        empty = 1 - goes_to.sum(-1, keepdim=True)  # (S, 10, 1)
        return goes_to @ words + empty * self.nothing + self.place_words


def _layer_config(shape: WordEarsConfig) -> WhisperConfig:
    return WhisperConfig(d_model=shape.width, encoder_attention_heads=shape.heads, encoder_ffn_dim=shape.ffn,
                         dropout=0.1, attention_dropout=0.1, activation_dropout=0.0, attn_implementation="sdpa")
