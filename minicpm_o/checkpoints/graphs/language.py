"""Weights of Llama, Qwen2 or Qwen3 to the graph that thinks: embeddings in, logits and hidden states out, KV in place.

Letters: T fused tokens, D width, V vocabulary, C capacity of the cache. Knows no tokens and no media: what stands in
an embedding, a word or a patch of a picture, is the caller's affair. Batch is 1.

Inputs   inputs_embeds (1, T, D) · seqlens_k (1,) int32 = tokens after this step - 1 · total_sequence_length () int32 =
         tokens after this step · past_key_values.{i}.key|value (1, kv_heads, C, head_width)
Outputs  logits (1, V) of the last token · hidden_states (1, T, D) after the final norm · present.{i}.key|value

Bind each present to the OrtValue of its past and the cache is written in place (C is then fixed, and shortening it is
a matter of passing a smaller total). With a past of exactly the tokens so far, present comes back longer by T.

The graph's matrices are rounded and written one by one, so that building it takes little memory whatever its size.

Source: GroupQueryAttention and MatMulNBits as onnxruntime's ContribOperators.md defines them; Llama (arXiv:2302.13971),
Qwen2.5 (arXiv:2412.15115), Qwen3 (arXiv:2505.09388).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...errors import CheckpointError
from ...model.config import LanguageConfig
from .builder import FLOAT, INT32, MICROSOFT, GraphBuilder, check_bits, take, take_matrix

FILE_NAME = "language.onnx"
HEAD_WIDTH_STEP = 16
"""GroupQueryAttention with rotary embedding refuses other head widths."""


def build_language(weights: Mapping[str, np.ndarray], config: LanguageConfig, *, layer_bits: int | None,
                   head_bits: int | None, block_size: int, folder: Path) -> None:
    """Write language.onnx and language.onnx.data into `folder`.

    weights: names of transformers' Llama-, Qwen2- or Qwen3ForCausalLM, (out, in) each; the head is `lm_head.weight`,
    or the embedding matrix if the config ties them and there is no such tensor. Bits are 4, 8 or None (float32), for
    the layers and for the head; blocks run along the inputs.
    Raises CheckpointError if a tensor is absent or misshapen or heads are too narrow, OptionError for bits or blocks
    that cannot be run.
    """
    check_bits(layer_bits, block_size)
    check_bits(head_bits, block_size)
    if config.head_width % HEAD_WIDTH_STEP:
        raise CheckpointError(f"heads are {config.head_width} wide; the attention operator takes a multiple of "
                              f"{HEAD_WIDTH_STEP}")
    with GraphBuilder.streaming("language", folder / FILE_NAME) as graph:
        add_language(graph, weights, config, layer_bits=layer_bits, head_bits=head_bits, block_size=block_size)


def add_language(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: LanguageConfig, *,
                 layer_bits: int | None, head_bits: int | None, block_size: int) -> None:
    """The whole of it, from the inputs to the logits, into a builder of any kind."""
    add_layers(graph, weights, config, bits=layer_bits, block_size=block_size)
    answer(graph, weights, config, bits=head_bits, block_size=block_size)


def add_layers(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: LanguageConfig, *, bits: int | None,
               block_size: int) -> None:
    """From the inputs to `hidden_states`, which the caller declares as an output."""
    declare_inputs(graph, config)
    normed, residual = first_norm(graph, weights, config)
    for layer in range(config.layers):
        normed, residual = decoder_layer(graph, weights, config, layer, normed, residual,
                                         bits=bits, block_size=block_size)


def declare_inputs(graph: GraphBuilder, config: LanguageConfig) -> None:
    """All inputs but the caches."""
    graph.input("inputs_embeds", FLOAT, [1, "tokens", config.width])
    declare_lengths(graph, config)


def declare_lengths(graph: GraphBuilder, config: LanguageConfig) -> None:
    """How many tokens there are, and the turning angles of every position, shared by the layers."""
    graph.input("seqlens_k", INT32, [1])
    graph.input("total_sequence_length", INT32, [])
    cosine, sine = rotary_tables(config)
    graph.constant("cos_cache", cosine)
    graph.constant("sin_cache", sine)


def rotary_tables(config: LanguageConfig) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine (positions, head_width / 2) of the rotary embedding (arXiv:2104.09864), half by half."""
    exponents = np.arange(0, config.head_width, 2, dtype=np.float64) / config.head_width
    angles = np.outer(np.arange(config.context_tokens), config.rope_theta**-exponents)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def first_norm(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: LanguageConfig) -> tuple[str, str]:
    """Norm before the first layer, which has nothing to add yet; returns normed input and residual stream."""
    name = "model.layers.0.input_layernorm"
    gain = graph.constant(f"{name}.weight", take(weights, f"{name}.weight", [config.width]))
    normed = graph.node("SimplifiedLayerNormalization", ["inputs_embeds", gain], name, axis=-1,
                        epsilon=config.norm_eps, stash_type=1)
    return normed, "inputs_embeds"


def decoder_layer(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: LanguageConfig, layer: int,
                  normed: str, residual: str, *, bits: int | None, block_size: int) -> tuple[str, str]:
    """Attention and feed-forward of one layer, and the norm that stands before the next (or after the last)."""
    name = f"model.layers.{layer}"
    after = f"model.layers.{layer + 1}.input_layernorm" if layer + 1 < config.layers else "model.norm"
    attended = attention(graph, weights, config, layer, normed, bits=bits, block_size=block_size)
    normed, residual = add_and_norm(graph, weights, config, f"{name}.post_attention_layernorm", attended, residual)
    fed = feed_forward(graph, weights, config, f"{name}.mlp", normed, bits=bits, block_size=block_size)
    return add_and_norm(graph, weights, config, after, fed, residual)


def attention(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: LanguageConfig, layer: int, x: str, *,
              bits: int | None, block_size: int) -> str:
    """Grouped-query attention over the cache; queries, keys and values come from one matrix."""
    name = f"model.layers.{layer}.self_attn"
    width = config.heads * config.head_width
    rows = [width, *[config.kv_heads * config.head_width] * 2]
    parts = list(zip("qkv", rows, strict=True))
    matrices = [take_matrix(weights, f"{name}.{part}_proj.weight", [height, config.width]) for part, height in parts]
    bias = None
    if config.kind == "qwen2":
        bias = np.concatenate([take(weights, f"{name}.{part}_proj.bias", [height]) for part, height in parts])
    packed = graph.linear(x, matrices, bias, f"{name}.qkv_proj", bits=bits, block_size=block_size)
    queries = [packed, "", ""]
    if config.kind == "qwen3":
        queries = norm_heads(graph, weights, config, name, packed, rows)
    past = [graph.input(f"past_key_values.{layer}.{kind}", FLOAT, [1, config.kv_heads, "past", config.head_width])
            for kind in ("key", "value")]
    present = [graph.output(f"present.{layer}.{kind}", FLOAT, [1, config.kv_heads, "present", config.head_width])
               for kind in ("key", "value")]
    inputs = [*queries, *past, "seqlens_k", "total_sequence_length", "cos_cache", "sin_cache"]
    attended = graph.nodes("GroupQueryAttention", inputs, f"{name}.attend", outs=[f"{name}.attend", *present],
                           domain=MICROSOFT, num_heads=config.heads, kv_num_heads=config.kv_heads, do_rotary=1)[0]
    out = take_matrix(weights, f"{name}.o_proj.weight", [config.width, width])
    return graph.linear(attended, out, None, f"{name}.o_proj", bits=bits, block_size=block_size)


def norm_heads(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: LanguageConfig, name: str, packed: str,
               rows: Sequence[int]) -> list[str]:
    """Queries, keys and values side by side to the three of them, each head of the first two normed: before they are
    turned by their positions, which the attention operator does, so it cannot do this."""
    parts = graph.nodes("Split", [packed, graph.integers("qkv_rows", *rows)], f"{name}.split",
                        outs=[f"{name}.{part}" for part in "qkv"], axis=-1)
    normed = []
    for part, width, x in zip("qk", rows, parts, strict=False):
        gain = graph.constant(f"{name}.{part}_norm.weight",
                              take(weights, f"{name}.{part}_norm.weight", [config.head_width]))
        heads = graph.integers("one_head_each", 1, -1, config.head_width)
        x = graph.node("Reshape", [x, heads], f"{name}.{part}_heads")  # (1, T, H * K) -> (1, T * H, K)
        x = graph.node("SimplifiedLayerNormalization", [x, gain], f"{name}.{part}_norm", axis=-1,
                       epsilon=config.norm_eps, stash_type=1)
        side_by_side = graph.integers(f"{part}_width", 1, -1, width)
        normed.append(graph.node("Reshape", [x, side_by_side], f"{name}.{part}_normed"))  # -> (1, T, H * K)
    return [*normed, parts[2]]


def feed_forward(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: LanguageConfig, name: str, x: str, *,
                 bits: int | None, block_size: int) -> str:
    """SwiGLU (arXiv:2002.05202): gate and up come from one matrix."""
    shape = [config.ffn, config.width]
    matrices = [take_matrix(weights, f"{name}.{part}_proj.weight", shape) for part in ("gate", "up")]
    both = graph.linear(x, matrices, None, f"{name}.gate_up_proj", bits=bits, block_size=block_size)
    gate, up = graph.nodes("Split", [both], f"{name}.split", outs=[f"{name}.gate", f"{name}.up"], axis=-1,
                           num_outputs=2)
    opened = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.silu")
    gated = graph.node("Mul", [opened, up], f"{name}.gated")
    down = take_matrix(weights, f"{name}.down_proj.weight", [config.width, config.ffn])
    return graph.linear(gated, down, None, f"{name}.down_proj", bits=bits, block_size=block_size)


def add_and_norm(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: LanguageConfig, name: str, x: str,
                 residual: str) -> tuple[str, str]:
    """Add to the residual stream and norm the sum; returns both. The last norm's output is `hidden_states`."""
    last = name == "model.norm"
    gain = graph.constant(f"{name}.weight", take(weights, f"{name}.weight", [config.width]))
    outs = ["hidden_states"] if last else [name, "", "", f"{name}.residual"]
    graph.nodes("SkipSimplifiedLayerNormalization", [x, residual, gain], name, outs=outs, domain=MICROSOFT,
                epsilon=config.norm_eps)
    return outs[0], outs[-1]


def answer(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: LanguageConfig, *, bits: int | None,
           block_size: int) -> None:
    """Logits of the last token only: the head is a quarter of the model, and nobody reads the prompt's logits."""
    graph.output("hidden_states", FLOAT, [1, "tokens", config.width])
    graph.output("logits", FLOAT, [1, config.vocab_size])
    last = graph.node("Gather", ["hidden_states", graph.constant("last", np.array(-1, dtype=np.int64))],
                      "last_hidden_state", axis=1)
    own = "lm_head.weight" in weights or not config.tied_head
    tensor = "lm_head.weight" if own else "model.embed_tokens.weight"
    head = take_matrix(weights, tensor, [config.vocab_size, config.width])
    graph.linear(last, head, None, "lm_head", bits=bits, block_size=block_size, out="logits")
