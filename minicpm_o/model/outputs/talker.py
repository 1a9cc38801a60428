"""Words and what the language model thinks of them to logits of speech tokens: MiniCPMTTS of MiniCPM-o 4.5.

Tensors are named as in the published checkpoint after `tts.`. Offers raw calls; `runtime.talker` samples, the same for
torch and for onnxruntime. Letters: N words, T positions of a call, L language model's width, D width, V speech tokens.
The published text table, `projector_spk` and the body's own `model.embed_tokens` come with the checkpoint; the last two
are never called, and the very last may be absent.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import DynamicCache, LlamaConfig, LlamaModel

from ..config import TalkerConfig

UNUSED = ("model.embed_tokens.weight",)
"""Tensors that a checkpoint may leave out."""

UNUSED_ROWS = 32_000
"""Rows of the unused table: the default of the class that the checkpoint was made with."""


class Talker(nn.Module):
    """Llama-shaped body over embeddings, with a table of words, a table of speech tokens and a head."""

    def __init__(self, config: TalkerConfig, *, attention: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.emb_text = nn.Embedding(config.num_text_tokens, config.width)
        self.model = LlamaModel(body_config(config, attention))
        self.projector_spk = Projector(config.llm_width, config.width)
        self.projector_semantic = Projector(config.llm_width, config.width)
        self.emb_code = nn.ModuleList([nn.Embedding(config.num_audio_tokens, config.width)])
        self.head_code = nn.ModuleList([weight_norm(nn.Linear(config.width, config.num_audio_tokens, bias=False))])

    def forward(self, embeds: Tensor, cache: DynamicCache) -> tuple[Tensor, DynamicCache]:
        """embeds (1, T, D) after those in the cache -> logits (1, T, V) float32 and the longer cache."""
        past = cache.get_seq_length()
        positions = torch.arange(past, past + embeds.shape[1], device=embeds.device)[None]
        out = self.model(inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True)
        return self.head_code[0](out.last_hidden_state).float(), out.past_key_values

    def project(self, hidden: Tensor) -> Tensor:
        """(N, L) hidden states of the language model -> (N, D)."""
        return self.projector_semantic(hidden)


class Projector(nn.Module):
    """Two layers from the language model's width."""

    def __init__(self, llm_width: int, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(llm_width, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(hidden)))


def body_config(config: TalkerConfig, attention: str) -> LlamaConfig:
    """transformers' configuration of the body."""
    return LlamaConfig(
        vocab_size=UNUSED_ROWS,
        hidden_size=config.width,
        intermediate_size=config.ffn,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.width // config.heads,
        rms_norm_eps=config.norm_eps,
        rope_theta=config.rope_theta,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        max_position_embeddings=config.max_positions,
        attn_implementation=attention,
    )


@dataclass
class TorchTalkerCache:
    """Keys and values of the positions read; grows as the talker reads."""

    layers: DynamicCache = field(default_factory=DynamicCache)

    @property
    def length(self) -> int:
        return int(self.layers.get_seq_length())

    def copy(self) -> TorchTalkerCache:
        """An independent cache of the same positions."""
        return TorchTalkerCache(copy.deepcopy(self.layers))


class TorchTalker:
    """A Talker behind the protocol of `runtime.talker`: numpy in and out, on whatever device and in whatever type."""

    def __init__(self, module: Talker) -> None:
        self.module = module.eval()
        self.config = module.config

    def new_cache(self) -> TorchTalkerCache:
        return TorchTalkerCache()

    @torch.inference_mode()
    def embed_text(self, ids: np.ndarray) -> np.ndarray:
        return _array(self.module.emb_text(self._ids(ids)))

    @torch.inference_mode()
    def embed_codes(self, codes: np.ndarray) -> np.ndarray:
        return _array(self.module.emb_code[0](self._ids(codes)))

    @torch.inference_mode()
    def project(self, hidden: np.ndarray) -> np.ndarray:
        return _array(self.module.project(self._tensor(hidden)))

    @torch.inference_mode()
    def run(self, embeds: np.ndarray, cache: TorchTalkerCache) -> np.ndarray:
        logits, cache.layers = self.module(self._tensor(embeds)[None], cache.layers)
        return _array(logits[0, -1])

    def _ids(self, ids: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(ids, np.int64)).to(self.module.emb_text.weight.device)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.module.emb_text.weight)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
