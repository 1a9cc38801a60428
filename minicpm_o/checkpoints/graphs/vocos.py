"""Vocos to a graph: log-mel in, 24 kHz waveform out, the inverse Fourier transform included.

Letters: M mel bins, T mel frames, W width, S Fourier bins, N samples = hop * T.

Inputs   mel (1, M, T)
Outputs  waveform (1, N)

Turning a spectrum into frames, windowing them and adding them up is one transposed convolution, whose kernel holds the
windowed waves; a second one adds up the squared windows to divide by.

Source: Vocos (arXiv:2306.00814); tensor names of PyPI vocos 0.1.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...model.config import VocosConfig
from .builder import FLOAT, GraphBuilder, check_bits, take
from .convnext import KERNEL, block, conv, norm, turned

FILE_NAME = "vocos.onnx"
MAX_MAGNITUDE = 1e2


def build_vocos(weights: Mapping[str, np.ndarray], config: VocosConfig, *, bits: int | None, block_size: int,
                folder: Path) -> None:
    """Write vocos.onnx and vocos.onnx.data into `folder`.

    weights: the names of Vocos.pt (`backbone.`, `head.`). bits 4 or 8 quantise the blocks' matrices, None keeps
    float32. Raises CheckpointError if a tensor is absent or misshapen, OptionError for bits that cannot be run.
    """
    check_bits(bits, block_size)
    graph = GraphBuilder("vocos")
    graph.input("mel", FLOAT, [1, config.mel_bins, "frames"])
    graph.output("waveform", FLOAT, [1, "samples"])
    hidden = backbone(graph, weights, config, bits=bits, block_size=block_size)
    inverse_fourier(graph, weights, config, spectrum(graph, weights, config, hidden))
    graph.save(folder / FILE_NAME, external=True)


def backbone(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: VocosConfig, *, bits: int | None,
             block_size: int) -> str:
    """mel (1, M, T) -> (1, T, W)."""
    x = conv(graph, weights, "backbone.embed", "mel", config.width, config.mel_bins, kernel=KERNEL)
    x = norm(graph, weights, "backbone.norm", turned(graph, x, "embedded"), config.width)
    x = turned(graph, x, "normed")
    for layer in range(config.layers):
        x = block(graph, weights, f"backbone.convnext.{layer}", x, config.width, config.ffn, gain="gamma", dilation=1,
                  bits=bits, block_size=block_size)
    return norm(graph, weights, "backbone.final_layer_norm", turned(graph, x, "thought"), config.width)


def spectrum(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: VocosConfig, x: str) -> str:
    """(1, T, W) -> (1, 2 S, T): real parts, then imaginary parts. Float32, as phases bear no rounding."""
    rows = config.fft_samples + 2
    x = graph.linear(x, take(weights, "head.out.weight", [rows, config.width]), take(weights, "head.out.bias", [rows]),
                     "head.out", bits=None)
    magnitude, phase = graph.nodes("Split", [turned(graph, x, "bins_first")], "head.split",
                                   outs=["log_magnitude", "phase"], axis=1, num_outputs=2)
    magnitude = graph.node("Exp", [magnitude], "magnitude_free")
    magnitude = graph.node("Min", [magnitude, graph.scalar("max_magnitude", MAX_MAGNITUDE)], "magnitude")
    parts = [graph.node("Mul", [magnitude, graph.node(op, [phase], op.lower())], name)
             for op, name in (("Cos", "real"), ("Sin", "imaginary"))]
    return graph.node("Concat", parts, "spectrum", axis=1)


def inverse_fourier(graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: VocosConfig, x: str) -> None:
    """(1, 2 S, T) -> waveform (1, N); what lies outside the T hops is cut off."""
    window = take(weights, "head.istft.window", [config.fft_samples])
    waves = graph.constant("windowed_waves", (fourier_waves(config.fft_samples) * window)[:, None].astype(np.float32))
    summed = overlap_add(graph, config, x, waves, "overlap_add")
    first = graph.node("Slice", [x, graph.integers("zero", 0), graph.integers("one", 1), graph.integers("bins", 1)],
                       "any_bin")
    ones = graph.node("Add", [graph.node("Mul", [first, graph.scalar("nothing", 0.0)], "zeros"),
                              graph.scalar("unit", 1.0)], "ones")
    squares = graph.constant("window_squared", np.square(window)[None, None])
    weight = overlap_add(graph, config, ones, squares, "window_sum")
    waveform = graph.node("Div", [summed, weight], "waveform_3d")
    graph.node("Squeeze", [waveform, graph.integers("channel", 1)], "waveform")


def overlap_add(graph: GraphBuilder, config: VocosConfig, x: str, kernel: str, name: str) -> str:
    """x (1, channels, T): every number times its row of the kernel, a hop apart -> (1, 1, N)."""
    cut = (config.fft_samples - config.hop_samples) // 2
    return graph.node("ConvTranspose", [x, kernel], name, kernel_shape=[config.fft_samples],
                      strides=[config.hop_samples], pads=[cut, cut])


def fourier_waves(fft_samples: int) -> np.ndarray:
    """(2 S, fft) float64: what a real and what an imaginary part of each bin adds to a frame."""
    bins, samples = np.arange(fft_samples // 2 + 1), np.arange(fft_samples)
    angles = 2 * np.pi / fft_samples * (np.outer(bins, samples) % fft_samples)
    twice = np.where((bins == 0) | (2 * bins == fft_samples), 1.0, 2.0)[:, None]  # the others stand for two bins each
    return np.concatenate([twice * np.cos(angles), -twice * np.sin(angles)]) / fft_samples
