"""Tensors of nano's projector and ears, for tests that make up weights without torch."""

from __future__ import annotations

from minicpm_o.model.config import NanoConfig


def hearing_shapes(config: NanoConfig) -> dict[str, tuple[int, ...]]:
    """Name in the connectors -> shape."""
    hearing, out = config.hearing, config.language.width
    words, hidden = hearing.words, hearing.projector_hidden
    sizes: dict[str, tuple[int, ...]] = {
        "projector.norm.weight": (hearing.width,), "projector.norm.bias": (hearing.width,),
        "projector.hidden.weight": (hidden, 5 * hearing.width), "projector.hidden.bias": (hidden,),
        "projector.out.weight": (out, hidden), "projector.out.bias": (out,),
        "ears.norm.weight": (hearing.width,), "ears.norm.bias": (hearing.width,),
        "ears.inward.weight": (words.width, 2 * hearing.width), "ears.inward.bias": (words.width,),
        "ears.position": (words.look_back_frames // 2 + 25, words.width),
        "ears.last_norm.weight": (words.width,), "ears.last_norm.bias": (words.width,),
        "ears.letters.weight": (58, words.width), "ears.letters.bias": (58,)}
    for layer in range(words.layers):
        stem = f"ears.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            sizes[f"{stem}.self_attn.{name}.weight"] = (words.width, words.width)
            sizes |= {} if name == "k_proj" else {f"{stem}.self_attn.{name}.bias": (words.width,)}
        sizes |= {f"{stem}.fc1.weight": (words.ffn, words.width), f"{stem}.fc1.bias": (words.ffn,),
                  f"{stem}.fc2.weight": (words.width, words.ffn), f"{stem}.fc2.bias": (words.width,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            sizes |= {f"{stem}.{name}.{kind}": (words.width,) for kind in ("weight", "bias")}
    return sizes
