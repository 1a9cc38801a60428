"""The voice of 2.6: text and what the language model thinks of its speaker to four codes a step.

Knows no sampling and no order of things: what is read when, and who sees whom, is `runtime.chattts`'s affair. Letters:
n positions of a run, P positions before it, D width, H heads, K head width, C capacity of the cache, q codebooks, V
codes of one. Batch is 1 and not written.

The body is Llama (arXiv:2302.13971), written out because its cache is none of a library's: 302 slots are there, all
zeros, before anything is read, and text is filled in between them while sound already stands behind.

Source: modeling_minicpmo.py of MiniCPM-o 2.6 (ConditionalChatTTS); names are the official ones after `tts.`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ..config import ChatTTSConfig
from .dvae import Dvae

IDLE_ROWS = 32_000
"""Rows of a word table that the checkpoint holds because its class makes one, and that nothing ever reads."""


@dataclass(eq=False)
class ChatTTSCache:
    """Keys and values of every layer, (layers, H, C, K) each; grows, and is written in place."""

    keys: Tensor
    values: Tensor

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` positions, by doubling; new slots hold zeros."""
        grown = max(capacity, 2 * self.keys.shape[2]) - self.keys.shape[2]
        if capacity > self.keys.shape[2]:
            self.keys, self.values = (F.pad(part, (0, 0, 0, grown)) for part in (self.keys, self.values))


class Projector(nn.Module):
    """The language model's thought of the speaker, (1, llm width) -> (1, D)."""

    def __init__(self, config: ChatTTSConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.llm_width, config.width)
        self.linear2 = nn.Linear(config.width, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(hidden)))


class IdleTable(nn.Module):
    """Keeps the unread word table, so that a checkpoint is saved as it was loaded. May be absent when loading."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(IDLE_ROWS, width), requires_grad=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}weight" in state_dict:
            super()._load_from_state_dict(state_dict, prefix, *args)


class RmsNorm(nn.Module):
    """Root mean square to 1, in float32, then a gain per number."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Every query of a run over the slots that its row of `visible` allows."""

    def __init__(self, config: ChatTTSConfig) -> None:
        super().__init__()
        self.heads = config.heads
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            self.add_module(name, nn.Linear(config.width, config.width, bias=False))

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], visible: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """x (n, D); visible (n, P + n); keys, values: one layer's buffers (H, C, K), written at P .. P + n - 1."""
        stop = visible.shape[1]
        query, key, value = (self._heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        keys[:, stop - len(x) : stop] = turn(key, turns)
        values[:, stop - len(x) : stop] = value
        attended = F.scaled_dot_product_attention(turn(query, turns)[None], keys[None, :, :stop],
                                                  values[None, :, :stop], attn_mask=visible)[0]
        return self.o_proj(attended.transpose(0, 1).flatten(1))  # (H, n, K) -> (n, H, K) -> (n, D)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (n, D) -> (H, n, K)


def turn(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding (arXiv:2104.09864), half by half: x (H, n, K) turned by the angles of its positions."""
    cosine, sine = turns
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class FeedForward(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, config: ChatTTSConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.ffn, bias=False)
        self.up_proj = nn.Linear(config.width, config.ffn, bias=False)
        self.down_proj = nn.Linear(config.ffn, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention, then feed-forward, each behind its norm and added to its input."""

    def __init__(self, config: ChatTTSConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = RmsNorm(config.width, config.norm_eps)
        self.post_attention_layernorm = RmsNorm(config.width, config.norm_eps)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor], visible: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), turns, visible, keys, values)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Embeddings (n, D) to hidden states (n, D) after the final norm."""

    def __init__(self, config: ChatTTSConfig) -> None:
        super().__init__()
        self.embed_tokens = IdleTable(config.width)
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.layers)])
        self.norm = RmsNorm(config.width, config.norm_eps)
        self.head_width = config.width // config.heads
        self.theta = config.rope_theta

    def forward(self, x: Tensor, visible: Tensor, cache: ChatTTSCache) -> Tensor:
        stop = visible.shape[1]
        cache.reserve(stop)
        turns = self._turns(torch.arange(stop - len(x), stop, device=x.device), x.dtype)
        for layer, keys, values in zip(self.layers, cache.keys, cache.values, strict=True):
            x = layer(x, turns, visible, keys, values)
        return self.norm(x)

    def _turns(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine (n, K) of the positions, both halves alike; angles in float32 whatever the weights are."""
        exponents = torch.arange(0, self.head_width, 2, device=positions.device, dtype=torch.float32) / self.head_width
        angles = positions.float()[:, None] * self.theta**-exponents
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


class ConditionalChatTTS(nn.Module):
    """The whole talker with its DVAE; names are the official ones after `tts.`."""

    def __init__(self, config: ChatTTSConfig) -> None:
        super().__init__()
        self.config = config
        self.projector = Projector(config)
        self.emb_text = nn.Embedding(config.num_text_tokens, config.width)
        books = range(config.num_codebooks)
        self.emb_code = nn.ModuleList([nn.Embedding(config.num_audio_tokens, config.width) for _ in books])
        self.head_code = nn.ModuleList([
            weight_norm(nn.Linear(config.width, config.num_audio_tokens, bias=False), name="weight") for _ in books])
        self.dvae = Dvae(config.dvae, config.mel_bins)
        self.model = Body(config)

    def new_cache(self) -> ChatTTSCache:
        """Slots of everything before the sound, all zeros."""
        config, weight = self.config, self.emb_text.weight
        shape = (config.layers, config.heads, config.text_reserved_tokens + 2, config.width // config.heads)
        return ChatTTSCache(*(torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in range(2)))

    def condition(self, ids: Tensor, speaker_hidden: Tensor | None = None) -> Tensor:
        """ids (n,) -> (n, D). speaker_hidden (1, llm width) takes the place of the speaker's token, at length 1."""
        embeds = self.emb_text(ids)
        if speaker_hidden is None:
            return embeds
        speaker = F.normalize(self.projector(speaker_hidden), dim=-1)
        return torch.where((ids == self.config.speaker_token)[:, None], speaker, embeds)

    def embed_codes(self, codes: Tensor) -> Tensor:
        """codes (n, q) -> (n, D): the sum of the codebooks' vectors."""
        return torch.stack([table(book) for table, book in zip(self.emb_code, codes.T, strict=True)]).sum(0)

    def forward(self, embeds: Tensor, visible: Tensor, cache: ChatTTSCache) -> Tensor:
        """Read embeds (n, D) into the slots P .. P + n - 1; logits (q, V) float32 of the last one.

        visible (n, P + n) bool: which slots each of them sees. The cache is written in place.
        """
        hidden = self.model(embeds, visible, cache)[-1]
        return torch.stack([head(hidden) for head in self.head_code]).float()


class TorchChatTTS:
    """The talker as `runtime.chattts.VoiceNetwork` wants it: numpy in and out, any device and dtype."""

    def __init__(self, module: ConditionalChatTTS) -> None:
        self.module = module.eval()
        self.config = module.config

    @torch.inference_mode()
    def new_cache(self) -> ChatTTSCache:
        return self.module.new_cache()

    @torch.inference_mode()
    def condition(self, ids: np.ndarray, speaker_hidden: np.ndarray | None) -> np.ndarray:
        """(n,) and (1, llm width) or None -> (n, D) float32."""
        hidden = None if speaker_hidden is None else self._floats(speaker_hidden)
        return self.module.condition(self._tensor(ids), hidden).float().cpu().numpy()

    @torch.inference_mode()
    def embed_codes(self, codes: np.ndarray) -> np.ndarray:
        """(n, q) -> (n, D) float32."""
        return self.module.embed_codes(self._tensor(codes)).float().cpu().numpy()

    @torch.inference_mode()
    def run(self, embeds: np.ndarray, visible: np.ndarray, cache: ChatTTSCache) -> np.ndarray:
        """embeds (n, D), visible (n, P + n) bool -> logits (q, V) float32 of the last; the cache is written."""
        return self.module(self._floats(embeds), self._tensor(visible), cache).cpu().numpy()

    @torch.inference_mode()
    def mel(self, codes: np.ndarray) -> np.ndarray:
        """codes (T, q) -> log-mel (M, groups * T) float32."""
        return self.module.dvae(self._tensor(codes)[None])[0].float().cpu().numpy()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.module.emb_text.weight.device)

    def _floats(self, array: np.ndarray) -> Tensor:
        return self._tensor(array).to(self.module.emb_text.weight.dtype)
