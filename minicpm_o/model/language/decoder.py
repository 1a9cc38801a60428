"""The language models from transformers: SmolLM2 (Llama) of nano, Qwen2.5 of 2.6, Qwen3 of 4.5.

Knows no files; `checkpoints` brings the weights under transformers' own names.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from ..config import LanguageConfig


def build_decoder(config: LanguageConfig, *, attention: str = "sdpa") -> PreTrainedModel:
    """A decoder of the given shape with random weights.

    attention: transformers' name of the attention to use ("sdpa", "eager", "flash_attention_2").
    """
    config_class, model_class = _classes(config.kind)
    shape: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": config.context_tokens,
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attn_implementation": attention,
    }
    if config.kind == "qwen2":
        del shape["head_dim"]  # Qwen2 derives it
    return model_class(config_class(**shape))


def _classes(kind: str) -> tuple[Any, Any]:
    import transformers

    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
    return getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}ForCausalLM")
