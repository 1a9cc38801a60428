"""Nodes, tensors and quantised matrices to an ONNX file: the little that every graph of this package needs.

Knows no model. The graphs stay readable by onnxruntime 1.20 and later on every platform, so only operators of
opset 20 and of onnxruntime's own `com.microsoft` domain are written.

Source: MatMulNBits as onnxruntime's ContribOperators.md defines it (blocks along the input width, low nibble first).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...errors import CheckpointError, OptionError

OPSET = 20
IR_VERSION = 9
MICROSOFT = "com.microsoft"

FLOAT = TensorProto.FLOAT
INT32 = TensorProto.INT32
INT64 = TensorProto.INT64

EXTERNAL_MIN_BYTES = 1024
"""Smaller tensors stay in the graph, where shape inference can see them."""

EXTERNAL_ALIGN_BYTES = 4096
"""A page, so that a runtime may map a tensor straight from the file."""

INT8_ACCURACY = 4
"""MatMulNBits accuracy_level: activations are rounded to int8 per block, and the products are whole numbers."""


def take(weights: Mapping[str, np.ndarray], name: str, shape: Sequence[int]) -> np.ndarray:
    """The named tensor as float32, of the shape the config promises.

    Raises CheckpointError if it is absent or of another shape: a graph of the wrong tensors would run and talk rubbish.
    """
    if name not in weights:
        raise CheckpointError(f"the weights have no tensor {name!r} {tuple(shape)}; they are not of this model")
    tensor = np.asarray(weights[name], dtype=np.float32)
    if tensor.shape != tuple(shape):
        raise CheckpointError(f"tensor {name!r} has shape {tensor.shape}, the config says {tuple(shape)}")
    return tensor


def check_bits(bits: int | None, block_size: int) -> None:
    """Raises OptionError for a quantisation that MatMulNBits does not run."""
    if bits not in (None, 4, 8):
        raise OptionError(f"weights can have 4 or 8 bits (or None for float32), not {bits}")
    if block_size < 16 or block_size & (block_size - 1):
        raise OptionError(f"block size must be a power of two from 16 up, not {block_size}")


def to_blocks(weight: np.ndarray, block_size: int) -> np.ndarray:
    """(out, in) to (out, blocks, block_size); a last short block is filled up with zeros, which multiply to nothing."""
    rows, columns = weight.shape
    blocks = -(-columns // block_size)
    padded = np.zeros((rows, blocks * block_size), dtype=np.float32)
    padded[:, :columns] = weight
    return padded.reshape(rows, blocks, block_size)


def pack_nbits(
    weight: np.ndarray, bits: int, block_size: int, *, symmetric: bool | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Round a matrix to whole numbers of 4 or 8 bits, one scale (and zero point) per block of inputs.

    weight (out, in) -> packed (out, blocks, block_size * bits / 8) uint8, scales (out, blocks) float32 and zero points
    (out, ceil(blocks * bits / 8)) uint8, or None when symmetric (all are 2**(bits-1)). Default: 8 bits symmetric,
    4 bits with zero points, since sixteen steps are too few to waste on the empty side of a lopsided block.
    """
    check_bits(bits, block_size)
    if symmetric is None:
        symmetric = bits == 8
    blocks = to_blocks(weight, block_size)
    scales, zeros = symmetric_grid(blocks, bits) if symmetric else lopsided_grid(blocks, bits)
    levels = np.rint(blocks / scales[..., None])
    levels += zeros[..., None]
    packed = np.clip(levels, 0, 2**bits - 1, out=levels).astype(np.uint8)
    if symmetric:
        return fold_nibbles(packed, bits), scales, None
    return fold_nibbles(packed, bits), scales, fold_nibbles(zeros.astype(np.uint8), bits)


def symmetric_grid(blocks: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point per block so that the largest magnitude is a level; zero is the middle level.

    At 4 bits the sign of the scale puts the largest on the lone lowest level (-8), which gains a sixteenth of range.
    """
    middle = 2 ** (bits - 1)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    scales = largest / -middle if bits == 4 else np.abs(largest) / (middle - 1)
    return np.where(scales == 0, 1, scales).astype(np.float32), np.full(scales.shape, middle, dtype=np.float32)


def lopsided_grid(blocks: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point per block so that its least and greatest value (and zero) lie on the grid."""
    top = 2**bits - 1
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scales = (high - low) / top
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    return scales, np.clip(np.rint(-low / scales), 0, top).astype(np.float32)


def fold_nibbles(levels: np.ndarray, bits: int) -> np.ndarray:
    """Two 4-bit levels to a byte along the last axis, the first one low; 8-bit levels stay as they are."""
    if bits == 8:
        return levels
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros_like(levels[..., :1])], axis=-1)
    return levels[..., 0::2] | (levels[..., 1::2] << 4)


def unpack_nbits(
    packed: np.ndarray, scales: np.ndarray, zero_points: np.ndarray | None, bits: int, columns: int
) -> np.ndarray:
    """The matrix (out, columns) float32 that `pack_nbits` stored, as a runtime will read it."""
    rows, blocks = scales.shape
    levels = unfold_nibbles(packed, bits).astype(np.float32)
    if zero_points is None:
        levels -= 2 ** (bits - 1)
    else:
        levels -= unfold_nibbles(zero_points, bits)[:, :blocks, None]
    return (levels * scales[..., None]).reshape(rows, -1)[:, :columns]


def unfold_nibbles(packed: np.ndarray, bits: int) -> np.ndarray:
    """Inverse of `fold_nibbles`."""
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


class GraphBuilder:
    """Collects named nodes and tensors, then writes them to one .onnx file (and a .data file beside it)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._tensors: dict[str, np.ndarray] = {}

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph input; strings name axes of free length."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph output; the node that makes it must use this name."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        """Keep a tensor in the file. The same name again must be the same tensor, which is then shared."""
        known = self._tensors.setdefault(name, array)
        if known is not array and not (known.dtype == array.dtype and np.array_equal(known, array)):
            raise ValueError(f"two tensors are named {name!r}")
        return name

    def integers(self, name: str, *values: int) -> str:
        """A small int64 vector, for axes and shapes."""
        return self.constant(name, np.array(values, dtype=np.int64))

    def scalar(self, name: str, value: float) -> str:
        """One float32 number without axes."""
        return self.constant(name, np.array(value, dtype=np.float32))

    def node(self, op: str, inputs: Sequence[str], name: str, *, out: str | None = None, domain: str = "",
             **attributes: Any) -> str:
        """Add a node with one output, called `out` or else as the node; returns that."""
        return self.nodes(op, inputs, name, outs=[out or name], domain=domain, **attributes)[0]

    def nodes(self, op: str, inputs: Sequence[str], name: str, *, outs: Sequence[str], domain: str = "",
              **attributes: Any) -> list[str]:
        """Add a node with several outputs ("" leaves an optional one away)."""
        self._nodes.append(helper.make_node(op, list(inputs), list(outs), name=name, domain=domain, **attributes))
        return list(outs)

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray | None, name: str, *, bits: int | None,
               block_size: int = 32, out: str | None = None) -> str:
        """x (..., in) times weight (out, in) transposed, plus bias (out,); quantised at `bits`, float32 when None."""
        if bits is None:
            return self._float_linear(x, weight, bias, name, out)
        packed, scales, zeros = pack_nbits(weight, bits, block_size)
        return self.matmul_nbits(x, packed, scales, zeros, bias, name, bits=bits, columns=weight.shape[1], out=out)

    def matmul_nbits(self, x: str, packed: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None,
                     bias: np.ndarray | None, name: str, *, bits: int, columns: int, out: str | None = None) -> str:
        """x (..., columns) times a matrix that `pack_nbits` packed."""
        inputs = [x, self.constant(f"{name}.packed", packed), self.constant(f"{name}.scales", scales)]
        inputs.append("" if zeros is None else self.constant(f"{name}.zeros", zeros))
        inputs += ["", "" if bias is None else self.constant(f"{name}.bias", bias)]
        while not inputs[-1]:
            inputs.pop()
        return self.node("MatMulNBits", inputs, name, out=out, domain=MICROSOFT, K=columns, N=packed.shape[0],
                         bits=bits, block_size=packed.shape[2] * 8 // bits, accuracy_level=INT8_ACCURACY)

    def _float_linear(self, x: str, weight: np.ndarray, bias: np.ndarray | None, name: str, out: str | None) -> str:
        matrix = self.constant(f"{name}.weight", np.ascontiguousarray(weight.T))
        if bias is None:
            return self.node("MatMul", [x, matrix], name, out=out)
        product = self.node("MatMul", [x, matrix], f"{name}.product")
        return self.node("Add", [product, self.constant(f"{name}.bias", bias)], name, out=out)

    def layer_norm(self, x: str, weight: np.ndarray, bias: np.ndarray, name: str, *, eps: float = 1e-5,
                   out: str | None = None) -> str:
        """Normalise the last axis of x to mean 0 and variance 1, then scale and shift."""
        inputs = [x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        return self.node("LayerNormalization", inputs, name, out=out, axis=-1, epsilon=eps)

    def save(self, path: Path, *, external: bool = False) -> None:
        """Write the graph to `path`; with `external`, larger tensors go to `path` + ".data" and can be mapped."""
        tensors = self._external_tensors(path) if external else [numpy_helper.from_array(a, n)
                                                                 for n, a in self._tensors.items()]
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, tensors)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="minicpm-o")
        path.write_bytes(model.SerializeToString(deterministic=True))

    def _external_tensors(self, path: Path) -> list[TensorProto]:
        """Write the large tensors, one after the other and page by page, and return what points at them."""
        data_path = path.with_name(path.name + ".data")
        protos = []
        with data_path.open("wb") as file:
            for name, array in self._tensors.items():
                if array.nbytes < EXTERNAL_MIN_BYTES:
                    protos.append(numpy_helper.from_array(array, name))
                    continue
                offset = file.seek(-(-file.tell() // EXTERNAL_ALIGN_BYTES) * EXTERNAL_ALIGN_BYTES)
                file.write(np.ascontiguousarray(array).data)
                protos.append(external_proto(name, array, data_path.name, offset))
        return protos


def external_proto(name: str, array: np.ndarray, location: str, offset: int) -> TensorProto:
    """A tensor that says where its numbers lie instead of holding them."""
    proto = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape,
                        data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(array.nbytes))):
        proto.external_data.add(key=key, value=value)
    return proto
