"""The hearing of MiniCPM-o 2.6 and 4.5 to one graph: Whisper's encoder with a cache, its projection and pooling.

hearing   log_mel (B, M, F), kept (L,) int64, positions (L,) int64, attention_bias (B or 1, 1, L, P + L),
          past_k_i, past_v_i (B, H, P, K) of every layer i
          -> tokens (B, L // pool_step, D), present_k_i, present_v_i (B, H, P + L, K)

Letters: B batch, M mel bins, F mel frames, L encoder frames that are kept of the F / 2 that the convolutions make, P
encoder frames heard before, E encoder width, H heads, K head width, D language width. One graph serves clips (P = 0,
a block-causal bias) and streams (a bias of zeros); which frames are kept, where they stand and what they see is decided
outside (`runtime.listening`). L must make one token at least.

Names of the weights: the official ones, `apm.` and `audio_projection_layer.`. Source as in `hearing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...model.config import WhisperEncoderConfig
from .builder import FLOAT, INT64, MICROSOFT, GraphBuilder, check_bits, take
from .hearing import convolutions, feed_forward, layer_norm, projection

FILE_NAME = "hearing.onnx"
ENCODER = "apm."
PROJECTOR = "audio_projection_layer."


def build_hearing(weights: Mapping[str, np.ndarray], config: WhisperEncoderConfig, language_width: int, folder: Path, *,
                  bits: int | None = None, block_size: int = 32) -> None:
    """Write the graph and its tensors. bits 8 or 4 quantise the layers' and the projection's matrices.

    Raises CheckpointError if a tensor is absent or misshapen, OptionError for bits that cannot be run.
    """
    check_bits(bits, block_size)
    with GraphBuilder.streaming("hearing", folder / FILE_NAME) as graph:
        _declare(graph, config, language_width)
        x = _placed_frames(graph, weights, config)
        for layer in range(config.layers):
            x = _layer(graph, weights, config, layer, x, bits=bits, block_size=block_size)
        x = layer_norm(graph, weights, config.width, f"{ENCODER}layer_norm", x)
        _project_and_pool(graph, weights, config, language_width, x, bits=bits, block_size=block_size)


def _declare(graph: GraphBuilder, config: WhisperEncoderConfig, language_width: int) -> None:
    head_width = config.width // config.heads
    graph.input("log_mel", FLOAT, ["batch", config.mel_bins, "mel_frames"])
    graph.input("kept", INT64, ["frames"])
    graph.input("positions", INT64, ["frames"])
    graph.input("attention_bias", FLOAT, ["bias_batch", 1, "frames", "present"])
    graph.output("tokens", FLOAT, ["batch", "audio_tokens", language_width])
    for layer in range(config.layers):
        for part in "kv":
            graph.input(f"past_{part}_{layer}", FLOAT, ["batch", config.heads, "past", head_width])
            graph.output(f"present_{part}_{layer}", FLOAT, ["batch", config.heads, "present", head_width])


def _placed_frames(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: WhisperEncoderConfig) -> str:
    """Convolutions, the frames that are kept, and the learned place of each added -> (B, L, E)."""
    name = f"{ENCODER}embed_positions.weight"
    table = graph.constant(name, take(weights, name, [config.max_frames, config.width]))
    x = graph.node("Transpose", [convolutions(graph, weights, config, ENCODER)], "frames_first", perm=[0, 2, 1])
    x = graph.node("Gather", [x, "kept"], "kept_frames", axis=1)
    return graph.node("Add", [x, graph.node("Gather", [table, "positions"], "places")], "placed")


def _layer(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: WhisperEncoderConfig, layer: int, x: str, *,
           bits: int | None, block_size: int) -> str:
    """Attention over the past and itself under the bias, then feed-forward."""
    name = f"{ENCODER}layers.{layer}"
    normed = layer_norm(graph, weights, config.width, f"{name}.self_attn_layer_norm", x)
    projected = [projection(graph, weights, config, f"{name}.self_attn.{part}_proj", normed, bits, block_size)
                 for part in "qkv"]
    pasts = [f"past_{part}_{layer}" for part in "kv"]
    outs = [f"{name}.self_attn.attend", *(f"present_{part}_{layer}" for part in "kv")]
    graph.nodes("MultiHeadAttention", [*projected, "", "", "attention_bias", *pasts], outs[0], outs=outs,
                domain=MICROSOFT, num_heads=config.heads)
    out = projection(graph, weights, config, f"{name}.self_attn.out_proj", outs[0], bits, block_size)
    x = graph.node("Add", [x, out], f"{name}.attended")
    return feed_forward(graph, weights, config, name, x, bits, block_size)


def _project_and_pool(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: WhisperEncoderConfig,
                      language_width: int, x: str, *, bits: int | None, block_size: int) -> None:
    """(B, L, E) -> tokens (B, L // pool_step, D): two matrices with a ReLU between, then the mean of each group."""
    for number, columns in ((1, config.width), (2, language_width)):
        name = f"{PROJECTOR}linear{number}"
        matrix = take(weights, f"{name}.weight", [language_width, columns])
        bias = take(weights, f"{name}.bias", [language_width])
        x = graph.linear(x, matrix, bias, name, bits=bits, block_size=block_size)
        x = graph.node("Relu", [x], f"{PROJECTOR}relu") if number == 1 else x
    x = graph.node("Transpose", [x], "frames_last", perm=[0, 2, 1])          # (B, L, D) -> (B, D, L)
    x = graph.node("AveragePool", [x], "pooled", kernel_shape=[config.pool_step], strides=[config.pool_step])
    graph.node("Transpose", [x], "tokens_first", out="tokens", perm=[0, 2, 1])
