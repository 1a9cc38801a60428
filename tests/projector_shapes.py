"""Tensors of nano's projector, for tests that make up weights without torch."""

from __future__ import annotations

from minicpm_o.model.config import NanoConfig


def projector_shapes(config: NanoConfig) -> dict[str, tuple[int, ...]]:
    """Name in the connectors -> shape."""
    hearing, out = config.hearing, config.language.width
    words, hidden = hearing.words, hearing.projector_hidden
    sizes: dict[str, tuple[int, ...]] = {
        "norm.weight": (hearing.width,), "norm.bias": (hearing.width,),
        "hidden.weight": (hidden, 5 * hearing.width), "hidden.bias": (hidden,),
        "out.weight": (out, hidden), "out.bias": (out,),
        "words.norm.weight": (hearing.width,), "words.norm.bias": (hearing.width,),
        "words.stacked.weight": (words.width, 2 * hearing.width), "words.stacked.bias": (words.width,),
        "words.position": (25, words.width),
        "words.last_norm.weight": (words.width,), "words.last_norm.bias": (words.width,),
        "words.classes.weight": (words.units + 1, words.width), "words.classes.bias": (words.units + 1,),
        "words.unit_words": (words.units + 1, out), "words.unit_ids": (words.units + 1,),
        "words.place_words": (10, out), "words.nothing": (out,)}
    for layer in range(words.layers):
        stem = f"words.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            sizes[f"{stem}.self_attn.{name}.weight"] = (words.width, words.width)
            sizes |= {} if name == "k_proj" else {f"{stem}.self_attn.{name}.bias": (words.width,)}
        sizes |= {f"{stem}.fc1.weight": (words.ffn, words.width), f"{stem}.fc1.bias": (words.ffn,),
                  f"{stem}.fc2.weight": (words.width, words.ffn), f"{stem}.fc2.bias": (words.width,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            sizes |= {f"{stem}.{name}.{kind}": (words.width,) for kind in ("weight", "bias")}
    return {f"projector.{name}": shape for name, shape in sizes.items()}
