"""The layers of a 4-bit language graph once more, in whole rows of 8 bits: the graph that reads prompts.

Blocks of 4 bits make a single token quick, for which memory is what is waited for. A prompt waits for the products, and
those are two to three times as quick where a row of a matrix has one scale and every token one: whole numbers are then
summed up to the end. What this graph computes is the 4-bit model, whose rounded weights are what is rounded again, with
tokens rounded to 8 bits as a whole instead of by blocks. It takes a byte per weight, and has no head: the last token of
a prompt is read by the language graph.

Inputs and outputs are those of `language`, without `logits`.

Source: MatMulIntegerToFloat as onnxruntime's ContribOperators.md defines it; one scale per token and per output as in
LLM.int8() (arXiv:2208.07339), section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...model.config import LanguageConfig
from ..bundle import PROMPTS_FILE
from .builder import (
    FLOAT,
    MICROSOFT,
    GraphBuilder,
    Matrix,
    check_bits,
    matrix_shape,
    pack_nbits,
    row_pieces,
    unpack_nbits,
)
from .language import add_layers

LEVELS = 127
"""Of either sign."""
MIDDLE = 128
"""Tokens are unsigned, around this: processors multiply unsigned by signed bytes."""
LEAST_STEP = 1e-12
"""Of a token of zeros, which has none."""


def build_prompts(weights: Mapping[str, np.ndarray], config: LanguageConfig, *, bits: int, block_size: int,
                  folder: Path) -> None:
    """Write language_prompts.onnx and its .data file into `folder`.

    weights: as of `build_language`; bits and block_size: what that rounds the layers to. Raises as it does.
    """
    check_bits(bits, block_size)
    with RowGraph.streaming("language_prompts", folder / PROMPTS_FILE) as graph:
        add_layers(graph, weights, config, bits=bits, block_size=block_size)
        graph.output("hidden_states", FLOAT, [1, "tokens", config.width])


class RowGraph(GraphBuilder):
    """A graph whose matrices have one scale per row, and their inputs one per token."""

    def linear(self, x: str, weight: Matrix, bias: np.ndarray | None, name: str, *, bits: int | None,
               block_size: int = 32, out: str | None = None) -> str:
        """x (..., in) times weight (out, in) transposed, plus bias (out,); the weights are rounded to blocks of `bits`
        first and then to rows of 8 bits. float32 when None."""
        if bits is None:
            return super().linear(x, weight, bias, name, bits=None, block_size=block_size, out=out)
        levels, scales = rows_of(weight, bits, block_size)
        rounded, step = self._rounded(x)
        inputs = [rounded, self.constant(f"{name}.levels", levels), self.scalar("one", 1.0),
                  self.constant(f"{name}.scales", scales), self._byte("middle", np.uint8(MIDDLE)),
                  self._byte("zero_level", np.int8(0))]
        product = self.node("MatMulIntegerToFloat", inputs, f"{name}.product", domain=MICROSOFT)
        if bias is None:
            return self.node("Mul", [product, step], name, out=out)
        scaled = self.node("Mul", [product, step], f"{name}.scaled")
        return self.node("Add", [scaled, self.constant(f"{name}.bias", bias)], name, out=out)

    def _byte(self, name: str, value: np.integer) -> str:
        return self.constant(name, np.array(value))

    def _rounded(self, x: str) -> tuple[str, str]:
        """x (..., T, in) as bytes, and the step of every token (..., T, 1)."""
        largest = self.node("ReduceMax", [self.node("Abs", [x], f"{x}.sizes"), self.integers("last_axis", -1)],
                            f"{x}.largest", keepdims=1)
        step = self.node("Max", [self.node("Mul", [largest, self.scalar("one_step", 1 / LEVELS)], f"{x}.a_step"),
                                 self.scalar("least_step", LEAST_STEP)], f"{x}.step")
        steps = self.node("Div", [x, step], f"{x}.steps")
        inputs = [steps, self.scalar("one", 1.0), self._byte("middle", np.uint8(MIDDLE))]
        return self.node("QuantizeLinear", inputs, f"{x}.rounded"), step


def rows_of(weight: Matrix, bits: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (out, in), rounded to blocks, to levels (in, out) int8 and scales (out,) float32 of its rows."""
    rows, columns = matrix_shape(weight)
    levels, scales = np.empty((columns, rows), np.int8), np.empty(rows, np.float32)
    for start, piece in row_pieces(weight):
        read = unpack_nbits(*pack_nbits(piece, bits, block_size), bits, columns)
        largest = np.abs(read).max(-1)
        step = np.where(largest == 0, 1, largest / LEVELS).astype(np.float32)
        levels[:, start : start + len(piece)] = np.rint(read / step[:, None]).astype(np.int8).T
        scales[start : start + len(piece)] = step
    return levels, scales
