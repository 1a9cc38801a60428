"""The vocoder of token2wav as three graphs: mel to pitch, harmonics to a source, mel and source to a waveform.

Fourier transforms are convolutions with windowed cosines and sines here, for the transforms of ONNX differ between
runtimes. Everything stays float32: the vocoder is convolutions, and their block-quantised kind does not exist.

Letters: M mel bins, T mel frames, N = 480 T samples, S = 120 T + 1 frames of the short Fourier transform, W width,
C = fft_samples + 2 channels (real parts, then imaginary; or log magnitudes, then arcs of phases).
Source: minicpm_o.model.outputs.hift, the same network in torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np

from ...model.config import HiftConfig
from .builder import FLOAT, GraphBuilder, take

PITCH_FILE = "hift_pitch.onnx"
EXCITE_FILE = "hift_source.onnx"
DECODE_FILE = "hift.onnx"
FILE_NAMES = (PITCH_FILE, EXCITE_FILE, DECODE_FILE)

PITCH_LAYERS = 5
MAX_MAGNITUDE = 100.0
LAST_LEAK = 0.01
Weights = Mapping[str, np.ndarray]


def build_hift(weights: Weights, config: HiftConfig, *, folder: Path, bits: int | None = None,
               block_size: int = 32) -> None:
    """Write the three graphs into `folder`.

    bits and block_size are what every builder of a bundle is given; see the module's head for why they change nothing.
    """
    build_pitch(weights, config).save(folder / PITCH_FILE)
    build_source(weights, config).save(folder / EXCITE_FILE)
    build_decoder(weights, config).save(folder / DECODE_FILE, external=True)


def build_pitch(weights: Weights, config: HiftConfig) -> GraphBuilder:
    """mel (1, M, T) to pitch (1, T) in Hz."""
    graph = GraphBuilder("hift_pitch")
    x = graph.input("mel", FLOAT, [1, config.mel_bins, "frames"])
    inner = config.mel_bins
    for layer in range(PITCH_LAYERS):
        name = f"f0_predictor.condnet.{2 * layer}"
        x = same_conv(graph, x, weights, name, (config.pitch_width, inner, 3))
        x = graph.node("Elu", [x], f"{name}.elu")
        inner = config.pitch_width
    x = graph.node("Transpose", [x], "turned", perm=[0, 2, 1])              # (1, W, T) -> (1, T, W)
    x = linear(graph, x, weights, "f0_predictor.classifier", inner)
    x = graph.node("Squeeze", [x, graph.integers("last", -1)], "squeezed")
    graph.output(graph.node("Abs", [x], "pitch"), FLOAT, [1, "frames"])
    return graph


def build_source(weights: Weights, config: HiftConfig) -> GraphBuilder:
    """harmonics (1, N, H + 1) to source (1, N)."""
    graph = GraphBuilder("hift_source")
    x = graph.input("harmonics", FLOAT, [1, "samples", config.harmonics + 1])
    x = linear(graph, x, weights, "m_source.l_linear", config.harmonics + 1)
    x = graph.node("Squeeze", [x, graph.integers("last", -1)], "squeezed")
    graph.output(graph.node("Tanh", [x], "source"), FLOAT, [1, "samples"])
    return graph


def build_decoder(weights: Weights, config: HiftConfig) -> GraphBuilder:
    """mel (1, M, T) and source (1, N) to waveform (1, N)."""
    graph = GraphBuilder("hift")
    mel = graph.input("mel", FLOAT, [1, config.mel_bins, "frames"])
    source = graph.input("source", FLOAT, [1, "samples"])
    waves = spectrum(graph, source, config)                                 # (1, C, S)
    x = same_conv(graph, mel, weights, "conv_pre", (config.width, config.mel_bins, 7))
    for level in range(len(config.up_rates)):
        x = rise(graph, x, weights, config, level)
        x = graph.node("Add", [x, lower(graph, waves, weights, config, level)], f"level{level}.driven")
        x = mean_of_blocks(graph, x, weights, config, level)
    x = graph.node("LeakyRelu", [x], "last.leaky", alpha=LAST_LEAK)
    x = same_conv(graph, x, weights, "conv_post", (config.fft_samples + 2, width_at(config, len(config.up_rates)), 7))
    waveform = synthesise(graph, x, config)
    limits = [graph.scalar("floor", -config.limit), graph.scalar("ceiling", config.limit)]
    graph.output(graph.node("Clip", [waveform, *limits], "waveform"), FLOAT, [1, "samples"])
    return graph


def width_at(config: HiftConfig, level: int) -> int:
    """Channels after so many upsamplings."""
    return config.width >> level


def rise(graph: GraphBuilder, x: str, weights: Weights, config: HiftConfig, level: int) -> str:
    """Upsampling of one level, (1, W, t) -> (1, W/2, rate t); the last level gains a frame, reflected, in front."""
    name, rate, kernel = f"ups.{level}", config.up_rates[level], config.up_kernels[level]
    wide, narrow = width_at(config, level), width_at(config, level + 1)
    x = graph.node("LeakyRelu", [x], f"{name}.leaky", alpha=config.leak)
    inputs = [x, graph.constant(f"{name}.weight", normed(weights, name, (wide, narrow, kernel))),
              graph.constant(f"{name}.bias", take(weights, f"{name}.bias", [narrow]))]
    x = graph.node("ConvTranspose", inputs, name, strides=[rate], pads=[(kernel - rate) // 2] * 2)
    if level + 1 < len(config.up_rates):
        return x
    return graph.node("Pad", [x, graph.integers("front", 0, 0, 1, 0, 0, 0)], f"{name}.framed", mode="reflect")


def lower(graph: GraphBuilder, waves: str, weights: Weights, config: HiftConfig, level: int) -> str:
    """The source's spectrum at a level's rate and width."""
    name, width = f"source_downs.{level}", width_at(config, level + 1)
    step = list(accumulate([1, *reversed(config.up_rates[1:])], mul))[::-1][level]
    kernel = 1 if step == 1 else 2 * step
    weight = take(weights, f"{name}.weight", (width, config.fft_samples + 2, kernel))
    x = conv(graph, waves, weight, take(weights, f"{name}.bias", [width]), name, strides=[step], pads=[step // 2] * 2)
    kernel, dilations = config.source_kernels[level], config.source_dilations[level]
    return res_block(graph, x, weights, f"source_resblocks.{level}", width, kernel, dilations)


def mean_of_blocks(graph: GraphBuilder, x: str, weights: Weights, config: HiftConfig, level: int) -> str:
    """The level's residual blocks side by side, averaged."""
    shapes = list(zip(config.block_kernels, config.block_dilations, strict=True))
    outputs = [res_block(graph, x, weights, f"resblocks.{level * len(shapes) + place}", width_at(config, level + 1),
                         kernel, dilations) for place, (kernel, dilations) in enumerate(shapes)]
    return graph.node("Mean", outputs, f"level{level}.mean")


def res_block(graph: GraphBuilder, x: str, weights: Weights, name: str, width: int, kernel: int,
              dilations: Sequence[int]) -> str:
    """Pairs of convolutions, a dilated and a plain one, each pair beside a residual."""
    for pair, dilation in enumerate(dilations):
        y = snake(graph, x, weights, f"{name}.activations1.{pair}", width)
        y = same_conv(graph, y, weights, f"{name}.convs1.{pair}", (width, width, kernel), dilation)
        y = snake(graph, y, weights, f"{name}.activations2.{pair}", width)
        y = same_conv(graph, y, weights, f"{name}.convs2.{pair}", (width, width, kernel))
        x = graph.node("Add", [y, x], f"{name}.residual{pair}")
    return x


def snake(graph: GraphBuilder, x: str, weights: Weights, name: str, width: int) -> str:
    """x + sin²(αx) / α per channel."""
    alpha = take(weights, f"{name}.alpha", [width])[:, None]
    scaled = graph.node("Mul", [x, graph.constant(f"{name}.alpha", alpha)], f"{name}.scaled")
    sine = graph.node("Sin", [scaled], f"{name}.sine")
    square = graph.node("Mul", [sine, sine], f"{name}.square")
    share = graph.node("Mul", [square, graph.constant(f"{name}.inverse", 1 / (alpha + np.float32(1e-9)))],
                       f"{name}.share")
    return graph.node("Add", [x, share], name)


def same_conv(graph: GraphBuilder, x: str, weights: Weights, name: str, shape: tuple[int, int, int],
              dilation: int = 1) -> str:
    """A weight-normed convolution that keeps the length; shape is (out, in, kernel)."""
    pads = [dilation * (shape[2] - 1) // 2] * 2
    bias = take(weights, f"{name}.bias", [shape[0]])
    return conv(graph, x, normed(weights, name, shape), bias, name, dilations=[dilation], pads=pads)


def conv(graph: GraphBuilder, x: str, weight: np.ndarray, bias: np.ndarray, name: str, **attributes: Any) -> str:
    inputs = [x, graph.constant(f"{name}.weight", weight), graph.constant(f"{name}.bias", bias)]
    return graph.node("Conv", inputs, name, **attributes)


def linear(graph: GraphBuilder, x: str, weights: Weights, name: str, width: int) -> str:
    """(..., W) to (..., 1): too small to quantise."""
    weight, bias = take(weights, f"{name}.weight", (1, width)), take(weights, f"{name}.bias", [1])
    return graph.linear(x, weight, bias, name, bits=None)


def normed(weights: Weights, name: str, shape: tuple[int, int, int]) -> np.ndarray:
    """A weight-normed kernel: rows of the direction, scaled to the stored lengths."""
    stored = f"{name}.parametrizations.weight.original"
    length, direction = take(weights, f"{stored}0", (shape[0], 1, 1)), take(weights, f"{stored}1", shape)
    norm = np.sqrt(np.square(direction, dtype=np.float64).sum(axis=(1, 2), keepdims=True))
    return (direction * (length / norm)).astype(np.float32)


# Fourier transforms


def waves_of(config: HiftConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines and sines (bins, fft_samples) of a real transform, and the periodic Hann window (fft_samples,)."""
    places = np.arange(config.fft_samples)
    angles = 2 * np.pi * np.outer(np.arange(config.fft_samples // 2 + 1), places) / config.fft_samples
    window = 0.5 - 0.5 * np.cos(2 * np.pi * places / config.fft_samples)
    return np.cos(angles), np.sin(angles), window


def spectrum(graph: GraphBuilder, source: str, config: HiftConfig) -> str:
    """Short Fourier transform of a centred, reflected signal, (1, N) -> (1, C, S)."""
    cosines, sines, window = waves_of(config)
    kernel = (np.concatenate([cosines, -sines]) * window)[:, None].astype(np.float32)    # (C, 1, fft_samples)
    half = config.fft_samples // 2
    x = graph.node("Unsqueeze", [source, graph.integers("channel", 1)], "stft.signal")   # (1, N) -> (1, 1, N)
    x = graph.node("Pad", [x, graph.integers("stft.margins", 0, 0, half, 0, 0, half)], "stft.padded", mode="reflect")
    return graph.node("Conv", [x, graph.constant("stft.waves", kernel)], "stft", strides=[config.hop_samples])


def synthesise(graph: GraphBuilder, x: str, config: HiftConfig) -> str:
    """Log magnitudes and arcs of phases (1, C, S) to samples (1, N): inverse transforms, overlapped and added."""
    cosines, sines, window = waves_of(config)
    counts = np.full((len(cosines), 1), 2.0)                                # each bin stands for its mirror image too
    counts[[0, -1]] = 1
    scale = counts * window / config.fft_samples
    kernel = np.concatenate([cosines * scale, -sines * scale])[:, None].astype(np.float32)
    bins = len(cosines)
    log_magnitude, arc = graph.nodes("Split", [x, graph.integers("istft.halves", bins, bins)], "istft.split",
                                     outs=["istft.log", "istft.arc"], axis=1)
    magnitude = graph.node("Exp", [log_magnitude], "istft.exp")
    magnitude = graph.node("Min", [magnitude, graph.scalar("istft.loudest", MAX_MAGNITUDE)], "istft.magnitude")
    phase = graph.node("Sin", [arc], "istft.phase")
    parts = [graph.node("Mul", [magnitude, graph.node(op, [phase], f"istft.{op}")], f"istft.part{op}")
             for op in ("Cos", "Sin")]
    waves = graph.node("Concat", parts, "istft.parts", axis=1)
    overlapped = overlap_add(graph, waves, kernel, "istft.sum", config)
    # What the windows of all frames add up to at each sample; fewer of them reach the first and the last samples.
    ones = graph.node("ReduceMean", [graph.node("Mul", [waves, graph.scalar("zero", 0.0)], "istft.zeros"),
                                     graph.integers("channel", 1)], "istft.still", keepdims=1)
    ones = graph.node("Add", [ones, graph.scalar("one", 1.0)], "istft.ones")             # (1, 1, S)
    weight = overlap_add(graph, ones, (window**2)[None, None].astype(np.float32), "istft.weight", config)
    samples = graph.node("Div", [overlapped, weight], "istft.samples")
    return graph.node("Squeeze", [samples, graph.integers("channel", 1)], "istft")       # (1, 1, N) -> (1, N)


def overlap_add(graph: GraphBuilder, x: str, kernel: np.ndarray, name: str, config: HiftConfig) -> str:
    """Frames to the signal they overlap to, without the margins of half a window that centring added."""
    return graph.node("ConvTranspose", [x, graph.constant(f"{name}.kernel", kernel)], name,
                      strides=[config.hop_samples], pads=[config.fft_samples // 2] * 2)
