"""A tiny language model of made numbers, matrices on the grid of Q4_1, for tests of what is exported."""

from __future__ import annotations

import numpy as np

from minicpm_o.model.config import LanguageConfig

SHAPE = LanguageConfig(vocab_size=96, width=64, layers=1, heads=2, kv_heads=1, head_width=32, ffn=96, context_tokens=64)


def made_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Numbers of the right shapes, matrices on the grid of Q4_1 as a published file has them."""
    width, kv = SHAPE.width, SHAPE.kv_heads * SHAPE.head_width
    layer, shapes = "model.layers.0", {"self_attn.q_proj": (width, width), "self_attn.k_proj": (kv, width),
                                       "self_attn.v_proj": (kv, width), "self_attn.o_proj": (width, width),
                                       "mlp.gate_proj": (SHAPE.ffn, width), "mlp.up_proj": (SHAPE.ffn, width),
                                       "mlp.down_proj": (width, SHAPE.ffn)}
    weights = {f"{layer}.{name}.weight": on_grid(rng, shape) for name, shape in shapes.items()}
    for name in (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm"):
        weights[f"{name}.weight"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
    weights["model.embed_tokens.weight"] = rng.normal(size=(SHAPE.vocab_size, width)).astype(np.float32)
    return weights


def on_grid(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Blocks of 32 that use their first and last level: level * scale + lowest, both float16."""
    blocks = (shape[0], shape[1] // 32, 32)
    levels = rng.integers(0, 16, blocks)
    levels[..., 0], levels[..., 1] = 0, 15
    scales, lows = (rng.uniform(low, high, (*blocks[:2], 1)).astype(np.float16).astype(np.float32)
                    for low, high in ((0.01, 0.02), (-0.2, -0.1)))
    return (levels * scales + lows).reshape(shape).astype(np.float32)
