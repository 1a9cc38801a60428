"""The language model of nano from transformers: SmolLM2 is Llama-shaped.

Knows no files; `checkpoints.gguf` brings the weights under transformers' own names.
"""

from __future__ import annotations

from transformers import LlamaConfig, LlamaForCausalLM

from ..config import LanguageConfig


def build_llama(config: LanguageConfig) -> LlamaForCausalLM:
    """A decoder of the given shape with tied embeddings and random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.ffn,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_width,
            rms_norm_eps=config.norm_eps,
            rope_theta=config.rope_theta,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            max_position_embeddings=config.context_tokens,
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            attn_implementation="sdpa",
        )
    )
