"""The voice of 2.6 to a graph: embeddings in, logits of all codebooks out, with a cache of slots beside it.

Letters: n positions of a run, C capacity of the cache, D width, H heads, K head width, q codebooks, V codes of one.

Inputs   inputs_embeds (n, D) · position_ids (1, n) int64 · attention_bias (n, C + n): 0 where a position sees a slot
         (first the C of the cache, then the n of this run), a large negative number where not, as in slots that are
         not filled · past_key.{i}, past_value.{i} (H, C, K)
Outputs  logits (q, V) of the last position · key.{i}, value.{i} (H, n, K), which the caller writes into its slots

The cache is read where it lies and never copied: scores over the cache and over the run are made apart and share one
softmax. Any slot can be filled at any time, which the order of this voice needs. The embedding tables and the small
projector of the speaker lie in chattts_embeddings.safetensors.

Source: Llama (arXiv:2302.13971); MatMulNBits, FusedMatMul, RotaryEmbedding as onnxruntime's ContribOperators.md has
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...model.config import ChatTTSConfig
from .builder import FLOAT, INT64, MICROSOFT, GraphBuilder, check_bits, take

FILE_NAME = "chattts.onnx"
EMBEDDINGS_NAME = "chattts_embeddings.safetensors"


def build_chattts(weights: Mapping[str, np.ndarray], config: ChatTTSConfig, *, bits: int | None, block_size: int,
                  folder: Path) -> None:
    """Write chattts.onnx, chattts.onnx.data and chattts_embeddings.safetensors into `folder`.

    weights: official names after `tts.`. bits 4 or 8 quantise the layers' matrices and halve the tables, None keeps
    float32; the heads stay float32, as cold sampling bears no rounding of them. Raises CheckpointError if a tensor is
    absent or misshapen, OptionError for bits that cannot be run.
    """
    check_bits(bits, block_size)
    with GraphBuilder.streaming("chattts", folder / FILE_NAME) as graph:
        declare(graph, config)
        residual, fed = "inputs_embeds", ""
        for layer in range(config.layers):
            name = f"model.layers.{layer}"
            normed, residual = add_and_norm(graph, weights, config, f"{name}.input_layernorm", fed, residual)
            attended = attention(graph, weights, config, layer, normed, bits=bits, block_size=block_size)
            normed, residual = add_and_norm(graph, weights, config, f"{name}.post_attention_layernorm", attended,
                                            residual)
            fed = feed_forward(graph, weights, config, f"{name}.mlp", normed, bits=bits, block_size=block_size)
        hidden, _ = add_and_norm(graph, weights, config, "model.norm", fed, residual)
        answer(graph, weights, config, hidden)
    write_embeddings(weights, config, folder / EMBEDDINGS_NAME, np.dtype(np.float32 if bits is None else np.float16))


def declare(graph: GraphBuilder, config: ChatTTSConfig) -> None:
    """All inputs but the cache's, and what the layers share: angles, shapes, where the cache ends and the run begins.
    """
    graph.input("inputs_embeds", FLOAT, ["positions", config.width])
    graph.input("position_ids", INT64, [1, "positions"])
    graph.input("attention_bias", FLOAT, ["positions", "slots"])
    graph.output("logits", FLOAT, [config.num_codebooks, config.num_audio_tokens])
    head_width = config.width // config.heads
    exponents = np.arange(0, head_width, 2, dtype=np.float64) / head_width
    angles = np.outer(np.arange(config.max_positions), config.rope_theta**-exponents)
    graph.constant("cos_cache", np.cos(angles).astype(np.float32))
    graph.constant("sin_cache", np.sin(angles).astype(np.float32))
    graph.integers("by_head", -1, config.heads, head_width)
    graph.integers("joined", -1, config.width)
    graph.integers("first_axis", 0)
    graph.integers("last_axis", -1)
    graph.node("Shape", ["past_key.0"], "num_cached", start=1, end=2)
    graph.node("Shape", ["inputs_embeds"], "num_now", start=0, end=1)
    graph.node("Concat", ["num_cached", "num_now"], "parts", axis=0)


def add_and_norm(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: ChatTTSConfig, name: str, x: str,
                 residual: str) -> tuple[str, str]:
    """Add x ("": nothing yet) to the residual stream and norm the sum; returns both."""
    gain = graph.constant(f"{name}.weight", take(weights, f"{name}.weight", [config.width]))
    total = graph.node("Add", [residual, x], f"{name}.residual") if x else residual
    return graph.node("SimplifiedLayerNormalization", [total, gain], name, axis=-1, epsilon=config.norm_eps,
                      stash_type=1), total


def attention(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: ChatTTSConfig, layer: int, x: str, *,
              bits: int | None, block_size: int) -> str:
    """(n, D) over the cache and over itself, under the bias."""
    name, width = f"model.layers.{layer}.self_attn", config.width
    head_width = width // config.heads
    for kind in ("key", "value"):
        graph.input(f"past_{kind}.{layer}", FLOAT, [config.heads, "cached", head_width])
        graph.output(f"{kind}.{layer}", FLOAT, [config.heads, "positions", head_width])
    matrices = [take(weights, f"{name}.{part}_proj.weight", [width, width]) for part in "qkv"]
    packed = graph.linear(x, matrices, None, f"{name}.qkv_proj", bits=bits, block_size=block_size)
    parts = graph.nodes("Split", [packed], f"{name}.split", outs=[f"{name}.{part}" for part in "qkv"], axis=-1,
                        num_outputs=3)
    query = by_head(graph, turn(graph, parts[0]), f"{name}.query")
    key = by_head(graph, turn(graph, parts[1]), f"key.{layer}")
    value = by_head(graph, parts[2], f"value.{layer}")
    scores = [graph.node("FusedMatMul", [query, keys], f"{name}.scores_{place}", domain=MICROSOFT, transB=1,
                         alpha=head_width**-0.5) for place, keys in (("cached", f"past_key.{layer}"), ("now", key))]
    both = graph.node("Add", [graph.node("Concat", scores, f"{name}.scores", axis=-1), "attention_bias"],
                      f"{name}.biased")
    shares = graph.nodes("Split", [graph.node("Softmax", [both], f"{name}.softmax", axis=-1), "parts"],
                         f"{name}.shares", outs=[f"{name}.share_cached", f"{name}.share_now"], axis=-1)
    seen = [graph.node("MatMul", [share, values], f"{name}.seen_{place}") for share, place, values in
            zip(shares, ("cached", "now"), (f"past_value.{layer}", value), strict=True)]
    seen_by_position = graph.node("Transpose", [graph.node("Add", seen, f"{name}.seen")], f"{name}.positions_first",
                                  perm=[1, 0, 2])
    joined = graph.node("Reshape", [seen_by_position, "joined"], f"{name}.joined")  # (n, H, K) -> (n, D)
    return graph.linear(joined, take(weights, f"{name}.o_proj.weight", [width, width]), None, f"{name}.o_proj",
                        bits=bits, block_size=block_size)


def turn(graph: GraphBuilder, x: str) -> str:
    """(n, D) with every head turned by the angle of its position (arXiv:2104.09864), half by half."""
    batch = graph.node("Unsqueeze", [x, "first_axis"], f"{x}.batch")
    turned = graph.node("RotaryEmbedding", [batch, "position_ids", "cos_cache", "sin_cache"], f"{x}.turned",
                        domain=MICROSOFT)
    return graph.node("Squeeze", [turned, "first_axis"], f"{x}.flat")


def by_head(graph: GraphBuilder, x: str, out: str) -> str:
    """(n, D) -> (H, n, K)."""
    split = graph.node("Reshape", [x, "by_head"], f"{out}.split")
    return graph.node("Transpose", [split], out, perm=[1, 0, 2])


def feed_forward(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: ChatTTSConfig, name: str, x: str, *,
                 bits: int | None, block_size: int) -> str:
    """SwiGLU (arXiv:2002.05202)."""
    matrices = [take(weights, f"{name}.{part}_proj.weight", [config.ffn, config.width]) for part in ("gate", "up")]
    both = graph.linear(x, matrices, None, f"{name}.gate_up_proj", bits=bits, block_size=block_size)
    gate, up = graph.nodes("Split", [both], f"{name}.split", outs=[f"{name}.gate", f"{name}.up"], axis=-1,
                           num_outputs=2)
    opened = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], f"{name}.sigmoid")], f"{name}.silu")
    gated = graph.node("Mul", [opened, up], f"{name}.gated")
    return graph.linear(gated, take(weights, f"{name}.down_proj.weight", [config.width, config.ffn]), None,
                        f"{name}.down_proj", bits=bits, block_size=block_size)


def answer(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: ChatTTSConfig, hidden: str) -> None:
    """Logits (q, V) of the last position, all heads in one matrix."""
    last = graph.node("Gather", [hidden, "last_axis"], "last_hidden_state", axis=0)  # (n, D) -> (1, D)
    heads = [head_matrix(weights, config, book) for book in range(config.num_codebooks)]
    flat = graph.linear(last, heads, None, "heads", bits=None)
    shape = graph.integers("logits_shape", config.num_codebooks, config.num_audio_tokens)
    graph.node("Reshape", [flat, shape], "logits")


def head_matrix(weights: Mapping[str, np.ndarray], config: ChatTTSConfig, book: int) -> np.ndarray:
    """(V, D): a head is stored as a length and a direction per row (arXiv:1602.07868)."""
    name, rows = f"head_code.{book}.parametrizations.weight", config.num_audio_tokens
    length = take(weights, f"{name}.original0", [rows, 1])
    direction = take(weights, f"{name}.original1", [rows, config.width])
    return direction * (length / np.linalg.norm(direction, axis=1, keepdims=True))


def write_embeddings(weights: Mapping[str, np.ndarray], config: ChatTTSConfig, path: Path, dtype: np.dtype) -> None:
    """emb_text, emb_code (q, V, D) and the projector's two layers."""
    from safetensors.numpy import save_file

    books = [take(weights, f"emb_code.{book}.weight", [config.num_audio_tokens, config.width])
             for book in range(config.num_codebooks)]
    tensors = {"emb_text": take(weights, "emb_text.weight", [config.num_text_tokens, config.width]),
               "emb_code": np.stack(books)}
    for layer, columns in (("linear1", config.llm_width), ("linear2", config.width)):
        tensors[f"{layer}.weight"] = take(weights, f"projector.{layer}.weight", [config.width, columns])
        tensors[f"{layer}.bias"] = take(weights, f"projector.{layer}.bias", [config.width])
    save_file({name: np.ascontiguousarray(tensor, dtype) for name, tensor in tensors.items()}, path)
