"""log_mel to encoder frames: Whisper's encoder from transformers, with an attention bias of our own.

A zero bias is Whisper as published; `block_causal_bias` lets a block of one second see itself and what came before, so
that the same weights can stream: a block is final as soon as one more mel frame has come, which Whisper's first
convolution looks ahead. Shapes: B batch, M mel bins, F mel frames,
F2 = F/2 encoder frames, E encoder width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..config import HearingConfig


class HearingEncoder(nn.Module):
    """The frozen ear of nano."""

    def __init__(self, config: HearingConfig) -> None:
        super().__init__()
        self.encoder = WhisperEncoder(whisper_config(config))

    def forward(self, log_mel: Tensor, attention_bias: Tensor) -> Tensor:
        """log_mel (B, M, F), F even; attention_bias (F2, F2) added to the scores -> (B, F2, E)."""
        x = F.gelu(self.encoder.conv1(log_mel))
        x = F.gelu(self.encoder.conv2(x)).transpose(1, 2)  # (B, E, F2) -> (B, F2, E)
        x = x + self.encoder.embed_positions.weight[: x.shape[1]]
        bias = attention_bias.to(x.dtype)[None, None]
        for layer in self.encoder.layers:
            x = layer(x, bias)
            x = x[0] if isinstance(x, tuple) else x
        return self.encoder.layer_norm(x)


def block_causal_bias(num_frames: int, block_frames: int) -> Tensor:
    """(F2, F2) bias: 0 where a frame may look (its own block and earlier ones), -inf-like elsewhere."""
    block = torch.arange(num_frames) // block_frames
    hidden = block[None, :] > block[:, None]
    return torch.zeros(num_frames, num_frames).masked_fill(hidden, torch.finfo(torch.float32).min)


def whisper_config(config: HearingConfig) -> WhisperConfig:
    """transformers' configuration of the same shape."""
    return WhisperConfig(
        vocab_size=config.vocab_size,
        num_mel_bins=config.mel_bins,
        d_model=config.width,
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        encoder_attention_heads=config.heads,
        decoder_attention_heads=config.heads,
        encoder_ffn_dim=config.ffn,
        decoder_ffn_dim=config.ffn,
        max_source_positions=config.max_encoder_frames,
        max_target_positions=config.max_text_tokens,
        attn_implementation="sdpa",
    )
