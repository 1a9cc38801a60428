"""Features of a piece of a picture to a fixed number of tokens of the language model's width.

Learned queries look at the features once. Letters: B pieces, P patches of the longest, E width of the tower, Q queries,
D language width. The names of the weights are the official ones after `resampler.`.
Source: MiniCPM-V (arXiv:2408.01800), section 3; positions of the keys after ViT (arXiv:2010.11929), in two dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import QueryResamplerConfig
from .positions import place_frequencies


class QueryResampler(nn.Module):
    """features (B, P, E), places (B, P, 2), valid (B, P) -> tokens (B, Q, D)."""

    def __init__(self, config: QueryResamplerConfig, feature_width: int, width: int) -> None:
        """feature_width is E, width is D."""
        super().__init__()
        self.width = width
        self.query = nn.Parameter(torch.randn(config.queries, width) * 0.02)
        self.kv_proj = nn.Linear(feature_width, width, bias=False)
        self.attn = nn.MultiheadAttention(width, width // config.head_width, batch_first=True)
        self.ln_q = nn.LayerNorm(width, eps=config.norm_eps)
        self.ln_kv = nn.LayerNorm(width, eps=config.norm_eps)
        self.ln_post = nn.LayerNorm(width, eps=config.norm_eps)
        self.proj = nn.Parameter(torch.randn(width, width) * width**-0.5)

    def forward(self, features: Tensor, places: Tensor, valid: Tensor) -> Tensor:
        """places: row and column of each patch; of padding, which valid leaves out, any."""
        values = self.ln_kv(self.kv_proj(features))  # (B, P, E) -> (B, P, D)
        keys = values + self.positions(places).to(values.dtype)
        queries = self.ln_q(self.query).expand(len(features), -1, -1)  # (B, Q, D)
        padding = None if bool(valid.all()) else ~valid
        tokens, _ = self.attn(queries, keys, values, key_padding_mask=padding, need_weights=False)
        return self.ln_post(tokens) @ self.proj

    def positions(self, places: Tensor) -> Tensor:
        """places (..., 2) of (row, column) -> (..., D) float32: `positions.place_sincos` on the places' device.

        Worked out at each call: a table would be rounded with the weights to half precision, and be too small for some
        picture.
        """
        frequencies = torch.from_numpy(place_frequencies(self.width)).to(places.device)
        angles = places.flip(-1)[..., None] * frequencies  # (..., 2, D/4)
        return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
