"""The way from codes to log-mel of 2.6's DVAE to a graph.

Letters: T steps, q codes per step, L latent width, M mel bins, G groups.

Inputs   codes (T, q) int64, each below the product of the levels
Outputs  mel (M, G * T)

Source: ChatTTS (github.com/2noise/ChatTTS), FSQ (arXiv:2309.15505).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...model.config import ChatTTSConfig, DvaeConfig
from .builder import FLOAT, INT64, GraphBuilder, check_bits, take
from .convnext import block, conv

FILE_NAME = "dvae.onnx"
DILATION = 2
FFN_RATIO = 4


def build_dvae(weights: Mapping[str, np.ndarray], config: ChatTTSConfig, *, bits: int | None, block_size: int,
               folder: Path) -> None:
    """Write dvae.onnx and dvae.onnx.data into `folder`.

    weights: official names after `tts.dvae.`. bits 4 or 8 quantise the blocks' matrices, None keeps float32. Raises
    CheckpointError if a tensor is absent or misshapen, OptionError for bits that cannot be run.
    """
    check_bits(bits, block_size)
    dvae = config.dvae
    graph = GraphBuilder("dvae")
    graph.input("codes", INT64, ["steps", dvae.groups * dvae.residuals])
    graph.output("mel", FLOAT, [config.mel_bins, "frames"])
    x = conv(graph, weights, "decoder.conv_in.0", features(graph, weights, dvae), dvae.bottleneck, dvae.latent_width,
             kernel=3)
    x = graph.node("Gelu", [x], "decoder.conv_in.gelu")
    x = conv(graph, weights, "decoder.conv_in.2", x, dvae.width, dvae.bottleneck, kernel=3)
    for layer in range(dvae.layers):
        x = block(graph, weights, f"decoder.decoder_block.{layer}", x, dvae.width, FFN_RATIO * dvae.width, gain="coef",
                  dilation=DILATION, bits=bits, block_size=block_size)
    x = conv(graph, weights, "decoder.conv_out", x, dvae.latent_width, dvae.width, kernel=1, bias=False)
    x = conv(graph, weights, "out_conv", x, config.mel_bins, dvae.latent_width, kernel=3, bias=False)
    x = graph.node("Mul", [x, graph.constant("coef", take(weights, "coef", [1, config.mel_bins, 1]))], "scaled")
    graph.node("Squeeze", [x, graph.integers("batch", 0)], "mel")
    graph.save(folder / FILE_NAME, external=True)


def code_values(config: DvaeConfig) -> np.ndarray:
    """(codes, numbers) float32: the point of the grid from -1 to 1 that each code names."""
    levels = np.array(config.levels)
    basis = np.array([math.prod(config.levels[:place]) for place in range(len(levels))])
    steps = (np.arange(math.prod(config.levels))[:, None] // basis) % levels
    half = levels // 2
    return ((steps - half) / half).astype(np.float32)


def features(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: DvaeConfig) -> str:
    """codes (T, q) -> (1, L, T * G); a group's frames stand G apart."""
    numbers, latent = len(config.levels), config.latent_width
    x = graph.node("Gather", [graph.constant("code_values", code_values(config)), "codes"], "values")  # (T, q, numbers)
    split = graph.integers("by_group", 0, config.groups, config.residuals, numbers)
    x = graph.node("Reshape", [x, split], "values_by_group")
    fineness = np.arange(config.residuals)[:, None]
    scales = (np.array(config.levels, np.float32) - 1) ** -fineness.astype(np.float32)  # (r, numbers)
    x = graph.node("Mul", [x, graph.constant("scales", scales)], "values_scaled")
    x = graph.node("ReduceSum", [x, graph.integers("residual_axis", 2)], "points", keepdims=0)  # (T, G, numbers)
    x = graph.node("Transpose", [x], "points_by_group", perm=[1, 0, 2])  # (G, T, numbers)
    names = [f"vq_layer.quantizer.rvqs.{group}.project_out" for group in range(config.groups)]
    matrices = np.stack([take(weights, f"{name}.weight", [latent, numbers]).T for name in names])
    shifts = np.stack([take(weights, f"{name}.bias", [latent])[None] for name in names])
    x = graph.node("MatMul", [x, graph.constant("project_out.weight", matrices)], "projected")
    x = graph.node("Add", [x, graph.constant("project_out.bias", shifts)], "features_by_group")  # (G, T, L)
    x = graph.node("Transpose", [x], "features_by_width", perm=[2, 1, 0])  # (L, T, G)
    return graph.node("Reshape", [x, graph.integers("as_frames", 1, latent, -1)], "features")
