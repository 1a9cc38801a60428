"""The two things that the graphs of the DVAE and of Vocos are made of: plain convolutions and ConvNeXt blocks.

Letters: W width, T frames. Source: ConvNeXt (arXiv:2201.03545).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .builder import GraphBuilder, take

KERNEL = 7
NORM_EPS = 1e-6


def conv(graph: GraphBuilder, weights: Mapping[str, np.ndarray], name: str, x: str, rows: int, columns: int, *,
         kernel: int, bias: bool = True, groups: int = 1, dilation: int = 1) -> str:
    """(1, in, T) -> (1, rows, T) with the tensors `name`.weight (rows, columns, kernel) and .bias; same length."""
    inputs = [x, graph.constant(f"{name}.weight", take(weights, f"{name}.weight", [rows, columns, kernel]))]
    if bias:
        inputs.append(graph.constant(f"{name}.bias", take(weights, f"{name}.bias", [rows])))
    reach = dilation * (kernel // 2)
    return graph.node("Conv", inputs, name, kernel_shape=[kernel], pads=[reach, reach], group=groups,
                      dilations=[dilation])


def norm(graph: GraphBuilder, weights: Mapping[str, np.ndarray], name: str, x: str, width: int) -> str:
    """LayerNorm of the last axis with the tensors `name`.weight and .bias."""
    gain, shift = (take(weights, f"{name}.{part}", [width]) for part in ("weight", "bias"))
    return graph.layer_norm(x, gain, shift, name, eps=NORM_EPS)


def turned(graph: GraphBuilder, x: str, name: str) -> str:
    """(1, W, T) -> (1, T, W) or back."""
    return graph.node("Transpose", [x], name, perm=[0, 2, 1])


def block(graph: GraphBuilder, weights: Mapping[str, np.ndarray], name: str, x: str, width: int, ffn: int, *,
          gain: str, dilation: int, bits: int | None, block_size: int) -> str:
    """x (1, W, T) plus a change of it, scaled by the tensor `name`.`gain`."""
    h = conv(graph, weights, f"{name}.dwconv", x, width, 1, kernel=KERNEL, groups=width, dilation=dilation)
    h = norm(graph, weights, f"{name}.norm", turned(graph, h, f"{name}.frames_first"), width)
    for part, rows, columns in (("pwconv1", ffn, width), ("pwconv2", width, ffn)):
        matrix = take(weights, f"{name}.{part}.weight", [rows, columns])
        shift = take(weights, f"{name}.{part}.bias", [rows])
        h = graph.linear(h, matrix, shift, f"{name}.{part}", bits=bits, block_size=block_size)
        h = graph.node("Gelu", [h], f"{name}.gelu") if part == "pwconv1" else h
    h = graph.node("Mul", [h, graph.constant(f"{name}.{gain}", take(weights, f"{name}.{gain}", [width]))],
                   f"{name}.scaled")
    return graph.node("Add", [x, turned(graph, h, f"{name}.channels_first")], f"{name}.out")
