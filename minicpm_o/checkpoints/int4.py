"""The whole-number matrices of AWQ and GPTQ releases back to ordinary ones, a matrix at a time.

Knows no model and no files. In the formulas w is a weight (out, in), q its level, z the level of zero and s a step;
both are shared by a group of inputs: w[o, i] = (q[i, o] - z[g(i), o]) * s[g(i), o].

Source: AWQ (arXiv:2306.00978) as AutoAWQ's "gemm" kind stores it: eight 4-bit levels to a word along the outputs, in
the order 0 2 4 6 1 3 5 7. GPTQ (arXiv:2210.17323) as AutoGPTQ stores it: levels to a word along the inputs, zero levels
along the outputs and, in its first format, one too low; `g_idx` names the group of every input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..errors import CheckpointError

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Output that the nibble at each place of a word belongs to, lowest first."""
SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")
_KNOWN = "this release reads AWQ (gemm, 4 bits) and GPTQ (2, 4 or 8 bits)"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Quantisation:
    """How a checkpoint's quantised matrices are stored."""

    method: Literal["awq", "gptq"]
    bits: int
    group_size: int
    """Inputs that share a step; -1 is all of them."""
    zero_offset: int = 0
    """What is added to a stored zero level: 1 in GPTQ's first format."""

    @property
    def per_word(self) -> int:
        """Levels in a 32-bit word."""
        return 32 // self.bits


def quantisation_of(values: Mapping[str, Any], *, where: str = "config.json") -> Quantisation | None:
    """What config.json says in `quantization_config`; None for ordinary weights. Raises CheckpointError if unknown."""
    fields = values.get("quantization_config")
    if fields is None:
        return None
    if not isinstance(fields, Mapping):
        raise CheckpointError(f"{where} has a quantization_config that is no table; {_KNOWN}")
    method = str(fields.get("quant_method", "")).lower()
    bits = fields.get("bits", fields.get("w_bit", 4))
    group_size = fields.get("group_size", fields.get("q_group_size", 128))
    if type(bits) is not int or type(group_size) is not int or (group_size < 1 and group_size != -1):
        raise CheckpointError(f"{where} is damaged: quantization_config gives {bits!r} bits in groups of "
                              f"{group_size!r}; download it again")
    if method == "awq":
        return _awq(fields, bits, group_size, where)
    if method == "gptq":
        return _gptq(fields, bits, group_size, where)
    raise CheckpointError(f"{where} says that the weights are quantised by {method or 'an unnamed method'}; "
                          f"{_KNOWN}, or use the release with ordinary weights")


def _awq(fields: Mapping[str, Any], bits: int, group_size: int, where: str) -> Quantisation:
    version = str(fields.get("version", "gemm")).lower()
    if version != "gemm" or bits != 4:
        raise CheckpointError(f"{where} says AWQ of kind {version!r} with {bits} bits; {_KNOWN}")
    return Quantisation("awq", bits, group_size)


def _gptq(fields: Mapping[str, Any], bits: int, group_size: int, where: str) -> Quantisation:
    stored = str(fields.get("checkpoint_format", "gptq")).lower()
    if stored not in ("gptq", "gptq_v2") or bits not in (2, 4, 8):
        raise CheckpointError(f"{where} says GPTQ in the format {stored!r} with {bits} bits; {_KNOWN}")
    return Quantisation("gptq", bits, group_size, zero_offset=int(stored == "gptq"))


def quantised_shape(found: Mapping[str, Shape], name: str, quantisation: Quantisation) -> Shape:
    """Shape (out, in) of the matrix whose tensors are `name`.qweight and so on; found holds their shapes.

    Raises CheckpointError when one is missing or they disagree.
    """
    shapes = {suffix: found.get(f"{name}.{suffix}") for suffix in SUFFIXES[:3]}
    missing = [f"{name}.{suffix}" for suffix, shape in shapes.items() if shape is None]
    if missing:
        raise CheckpointError(f"the quantised matrix {name} lacks {', '.join(missing)}; download the checkpoint again")
    rows, columns = _pair(shapes["qweight"], name)
    per_word = quantisation.per_word
    awq = quantisation.method == "awq"
    inputs, outputs = (rows, columns * per_word) if awq else (rows * per_word, columns)
    groups = 1 if quantisation.group_size == -1 else -(-inputs // quantisation.group_size)
    expected: dict[str, Shape] = {"qzeros": (groups, -(-outputs // per_word)), "scales": (groups, outputs)}
    index = found.get(f"{name}.g_idx")
    if index is not None:
        expected["g_idx"] = (inputs,)
    wrong = {suffix: found[f"{name}.{suffix}"] for suffix, shape in expected.items()
             if found[f"{name}.{suffix}"] != shape}
    if wrong:
        raise CheckpointError(f"the quantised matrix {name} of {outputs} by {inputs} in groups of "
                              f"{quantisation.group_size} has {wrong}, expected {expected}; its config.json is of "
                              f"other weights, or the file is damaged")
    return outputs, inputs


def _pair(shape: Shape | None, name: str) -> tuple[int, int]:
    if shape is None or len(shape) != 2:
        raise CheckpointError(f"the quantised matrix {name} has words of shape {shape}, expected two axes")
    return shape[0], shape[1]


def dequantise(read: Callable[[str], np.ndarray], quantisation: Quantisation, *, has_index: bool = False) -> np.ndarray:
    """The matrix (out, in) float32. `read` gives the tensor of a suffix in SUFFIXES; has_index: g_idx is among them."""
    words, scales = read("qweight"), read("scales").astype(np.float32)
    if quantisation.method == "awq":
        levels = unpack_awq(words)                                  # (in, out/8) -> (in, out)
        zeros = unpack_awq(read("qzeros"))                          # (groups, out/8) -> (groups, out)
    else:
        levels = unpack_words(words.T, quantisation.bits).T         # (in/n, out) -> (in, out)
        zeros = unpack_words(read("qzeros"), quantisation.bits)
        zeros = (zeros + quantisation.zero_offset) & (2**quantisation.bits - 1)
    inputs, outputs = levels.shape
    group_size = inputs if quantisation.group_size == -1 else quantisation.group_size
    groups = read("g_idx").astype(np.int64) if has_index else np.arange(inputs) // group_size
    if groups.min(initial=0) < 0 or groups.max(initial=0) >= len(scales):
        raise CheckpointError(f"a quantised matrix has {len(scales)} groups, but its g_idx names groups {groups.min()} "
                              f"to {groups.max()}; download the checkpoint again")
    weight = levels.astype(np.float32)
    weight -= zeros[:, :outputs].astype(np.float32)[groups]
    weight *= scales[groups]
    return np.ascontiguousarray(weight.T)


def unpack_words(words: np.ndarray, bits: int) -> np.ndarray:
    """(rows, n) of 32-bit words to (rows, n * 32/bits) levels as uint8, the lowest bits of a word first."""
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    levels = np.empty((*unsigned.shape, len(shifts)), dtype=np.uint8)
    for place, shift in enumerate(shifts):  # one place at a time keeps the wide intermediate small
        levels[..., place] = (unsigned >> shift) & np.uint32(2**bits - 1)
    return levels.reshape(unsigned.shape[0], -1)


def unpack_awq(words: np.ndarray) -> np.ndarray:
    """(rows, out/8) of words to (rows, out) levels in the outputs' order."""
    stored = unpack_words(words, 4).reshape(words.shape[0], -1, len(AWQ_ORDER))
    levels = np.empty_like(stored)
    levels[..., AWQ_ORDER] = stored
    return levels.reshape(words.shape[0], -1)
