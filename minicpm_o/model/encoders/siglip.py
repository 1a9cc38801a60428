"""Patches of pictures of any shape to features: SigLIP's tower with NaViT positions, the eye of the official models.

Letters: B pieces of pictures, P patches of the longest, C channels times pixels of a patch, E width. Knows no slices
and no tokens. The names of the weights are the official ones after `vpm.`.
Source: SigLIP (arXiv:2303.15343), NaViT (arXiv:2307.06304); the layers are those of `transformers`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from ..config import SiglipConfig


class PatchEmbeddings(nn.Module):
    """A patch's pixels through a linear layer, plus a row of the learned table of positions."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        # A convolution for the sake of its name and shape in the files; on ready-cut patches it is a linear layer.
        self.patch_embedding = nn.Conv2d(config.channels, config.width, config.patch_px, stride=config.patch_px)
        self.position_embedding = nn.Embedding(config.grid**2, config.width)

    def forward(self, patches: Tensor, position_ids: Tensor) -> Tensor:
        weight = self.patch_embedding.weight.flatten(1)  # (E, channels, height, width) -> (E, C)
        x = F.linear(patches.to(weight.dtype), weight, self.patch_embedding.bias)  # (B, P, C) -> (B, P, E)
        return x + self.position_embedding(position_ids)


class SiglipTower(nn.Module):
    """patches (B, P, C), position_ids (B, P), valid (B, P) -> features (B, P, E); those of padding mean nothing."""

    def __init__(self, config: SiglipConfig, attn_implementation: str = "sdpa") -> None:
        """attn_implementation: "eager", "sdpa" or one of transformers' flash attentions."""
        super().__init__()
        self.config = config
        self.layer_config = layer_config(config, attn_implementation)
        self.recompute = False
        """In training, keep no activations within layers and compute them again on the way back."""
        self.embeddings = PatchEmbeddings(config)
        layers = nn.ModuleList(SiglipEncoderLayer(self.layer_config) for _ in range(config.layers))
        self.encoder = nn.ModuleDict({"layers": layers})
        self.post_layernorm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, patches: Tensor, position_ids: Tensor, valid: Tensor) -> Tensor:
        """In groups of `batch_pieces`; pieces do not see each other, so the groups do not change what comes out."""
        size = self.config.batch_pieces
        groups = zip(patches.split(size), position_ids.split(size), valid.split(size), strict=True)
        return torch.cat([self.encode(*group) for group in groups])

    def encode(self, patches: Tensor, position_ids: Tensor, valid: Tensor) -> Tensor:
        """As forward, all pieces at once."""
        x = self.embeddings(patches, position_ids)
        mask = self.padding_mask(valid, x.dtype)
        for layer in self.encoder["layers"]:
            if self.recompute and self.training:
                x = checkpoint(layer, x, mask, use_reentrant=False)
            else:
                x = layer(x, attention_mask=mask)
            x = x[0] if isinstance(x, tuple) else x  # as the version of transformers has it
        return self.post_layernorm(x)

    def padding_mask(self, valid: Tensor, dtype: torch.dtype) -> Tensor | None:
        """What keeps padding from being looked at, in the form that the attention takes; None if there is none."""
        if bool(valid.all()):
            return None
        if "flash" in self.layer_config._attn_implementation:
            return valid  # it leaves padding out by itself
        mask = torch.zeros(valid.shape, dtype=dtype, device=valid.device)
        return mask.masked_fill(~valid, torch.finfo(dtype).min)[:, None, None]  # (B, P) -> (B, 1, 1, P)


def layer_config(config: SiglipConfig, attn_implementation: str) -> SiglipVisionConfig:
    """The shape of a layer as transformers writes it."""
    return SiglipVisionConfig(
        hidden_size=config.width, intermediate_size=config.ffn, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, num_channels=config.channels, image_size=config.image_px,
        patch_size=config.patch_px, hidden_act="gelu_pytorch_tanh", layer_norm_eps=config.norm_eps,
        attention_dropout=0.0, attn_implementation=attn_implementation)
