"""Nodes, tensors and quantised matrices to an ONNX file: the little that every graph of this package needs.

Knows no model. The graphs stay readable by onnxruntime 1.20 and later on every platform, so only operators of
opset 20 and of onnxruntime's own `com.microsoft` domain are written.

Matrices are rounded a few rows at a time, and `GraphBuilder.streaming` writes each large tensor to the .data
file as it comes: a graph of many gigabytes is built in the memory that its largest packed matrix takes.

Source: MatMulNBits as onnxruntime's ContribOperators.md defines it (blocks along the input width, low nibble first).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

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

NUMBERS_AT_ONCE = 1 << 18
"""Weights that are rounded in one go: their float32 copies stay in a core's cache, which is several times as quick."""

NUMBERS_READ = 1 << 26
"""Weights that are read from a file at once."""


@runtime_checkable
class RowSource(Protocol):
    """Weights on disk that can give some rows of a tensor without reading the rest."""

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows first to last (exclusive)."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix that is still on disk; a slice of it reads those rows."""

    source: RowSource
    name: str
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(self.shape[0])
        return self.source.rows(self.name, first, last)


Piece: TypeAlias = "np.ndarray | StoredMatrix"
Matrix: TypeAlias = "Piece | Sequence[Piece]"
"""A matrix (out, in) of any float type, or its parts in order, one below the other."""


@dataclass(frozen=True)
class MatrixError:
    """What rounding cost one matrix."""

    graph: str
    matrix: str
    bits: int
    shape: tuple[int, int]
    relative_error: float
    """Root of the summed squares of what changed, over that of the weights."""


_LISTENER: ContextVar[Callable[[MatrixError], None] | None] = ContextVar("listener", default=None)


@contextmanager
def hearing_errors(hear: Callable[[MatrixError], None]) -> Iterator[None]:
    """Inside the block `hear` is told of every matrix that any builder rounds."""
    token = _LISTENER.set(hear)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def take(weights: Mapping[str, np.ndarray], name: str, shape: Sequence[int]) -> np.ndarray:
    """The named tensor as float32, of the shape the config promises.

    Raises CheckpointError if it is absent or of another shape: a graph of the wrong tensors would run and talk rubbish.
    """
    return np.asarray(take_raw(weights, name, shape), dtype=np.float32)


def take_raw(weights: Mapping[str, np.ndarray], name: str, shape: Sequence[int]) -> np.ndarray:
    """As `take`, in the type that it is stored in, for tables that are not wanted as float32 at once."""
    _check_name(weights, name, shape)
    tensor = weights[name]
    _check_shape(name, tensor.shape, shape)
    return tensor


def take_matrix(weights: Mapping[str, np.ndarray], name: str, shape: Sequence[int]) -> Piece:
    """As `take`, for a matrix that `GraphBuilder.linear` reads row by row: as it is stored, and on disk if it is there.
    """
    _check_name(weights, name, shape)
    matrix = StoredMatrix(weights, name, weights.shape(name)) if isinstance(weights, RowSource) else weights[name]
    _check_shape(name, matrix.shape, shape)
    return matrix


def _check_name(weights: Mapping[str, np.ndarray], name: str, shape: Sequence[int]) -> None:
    if name not in weights:
        raise CheckpointError(f"the weights have no tensor {name!r} {tuple(shape)}; they are not of this model")


def _check_shape(name: str, found: tuple[int, ...], expected: Sequence[int]) -> None:
    if found != tuple(expected):
        raise CheckpointError(f"tensor {name!r} has shape {found}, the config says {tuple(expected)}")


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
    weight: Matrix, bits: int, block_size: int, *, symmetric: bool | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Round a matrix to whole numbers of 4 or 8 bits, one scale (and zero point) per block of inputs.

    weight (out, in) -> packed (out, blocks, block_size * bits / 8) uint8, scales (out, blocks) float32 and zero points
    (out, ceil(blocks * bits / 8)) uint8, or None when symmetric (all are 2**(bits-1)). Default: 8 bits symmetric,
    4 bits with zero points, since sixteen steps are too few to waste on the empty side of a lopsided block.
    """
    packed, scales, zeros, _ = pack_measured(weight, bits, block_size, symmetric=symmetric)
    return packed, scales, zeros


def pack_measured(
    weight: Matrix, bits: int, block_size: int, *, symmetric: bool | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, float]:
    """As `pack_nbits`, and the relative error of the rounding. A few rows are held as float32 at a time."""
    check_bits(bits, block_size)
    if symmetric is None:
        symmetric = bits == 8
    rows, columns = matrix_shape(weight)
    blocks = -(-columns // block_size)
    packed = np.empty((rows, blocks, block_size * bits // 8), dtype=np.uint8)
    scales = np.empty((rows, blocks), dtype=np.float32)
    zeros = None if symmetric else np.empty((rows, -(-blocks * bits // 8)), dtype=np.uint8)
    squares = np.zeros(2)
    for start, piece in row_pieces(weight):
        at = slice(start, start + len(piece))
        levels, scales[at], middles, found = round_blocks(to_blocks(piece, block_size), bits, symmetric)
        packed[at] = fold_nibbles(levels, bits)
        if zeros is not None:
            zeros[at] = fold_nibbles(middles, bits)
        squares += found
    lost, whole = squares
    return packed, scales, zeros, float(np.sqrt(lost / whole)) if whole else 0.0


def round_blocks(
    blocks: np.ndarray, bits: int, symmetric: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[float, float]]:
    """(rows, blocks, block_size) float32 to levels uint8, scales and zero points uint8 (rows, blocks), and the sums of
    squares of what is lost and of what was there."""
    scales, middles = symmetric_grid(blocks, bits) if symmetric else lopsided_grid(blocks, bits)
    levels = np.rint(blocks / scales[..., None])
    levels += middles[..., None]
    np.clip(levels, 0, 2**bits - 1, out=levels)
    whole = levels.astype(np.uint8)
    levels -= middles[..., None]
    levels *= scales[..., None]
    levels -= blocks
    return whole, scales, middles.astype(np.uint8), (_sum_of_squares(levels), _sum_of_squares(blocks))


def pieces_of(weight: Matrix) -> Sequence[Piece]:
    """The parts of a matrix that may come in parts."""
    return [weight] if isinstance(weight, np.ndarray | StoredMatrix) else weight


def matrix_shape(weight: Matrix) -> tuple[int, int]:
    """(out, in) of the whole matrix."""
    pieces = pieces_of(weight)
    return sum(piece.shape[0] for piece in pieces), pieces[0].shape[1]


def row_pieces(weight: Matrix) -> Iterator[tuple[int, np.ndarray]]:
    """The matrix as float32, a few rows at a time, each piece with the number of its first row."""
    first = 0
    for piece in pieces_of(weight):
        columns = piece.shape[1]
        read, step = max(1, NUMBERS_READ // columns), max(1, NUMBERS_AT_ONCE // columns)
        for begin in range(0, len(piece), read):
            held = piece[begin : begin + read]
            for start in range(0, len(held), step):
                yield first + begin + start, np.asarray(held[start : start + step], dtype=np.float32)
        first += len(piece)


def _sum_of_squares(numbers: np.ndarray) -> float:
    flat = numbers.reshape(-1)
    return float(np.dot(flat, flat))


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
        self._tensors: dict[str, np.ndarray | TensorProto] = {}
        """By name; what was streamed is represented by what points at it."""
        self._stream: DataFile | None = None

    @classmethod
    @contextmanager
    def streaming(cls, name: str, path: Path) -> Iterator[GraphBuilder]:
        """A builder that writes large tensors to `path` + ".data" at once, and the graph to `path` at the end.

        If the block fails, what was written is removed.
        """
        graph = cls(name)
        graph._stream = DataFile(path)
        try:
            yield graph
            graph.save(path)
        except BaseException:
            graph._stream.path.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph input; strings name axes of free length."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph output; the node that makes it must use this name."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def constant(self, name: str, array: np.ndarray) -> str:
        """Keep a tensor in the file. The same name again must be the same tensor, which is then shared.

        A large tensor that is streamed is gone once it is written, so its name cannot come twice.
        """
        if self._stream is not None and name not in self._tensors and array.nbytes >= EXTERNAL_MIN_BYTES:
            self._tensors[name] = self._stream.add(name, array)
            return name
        known = self._tensors.setdefault(name, array)
        if known is not array and (isinstance(known, TensorProto) or known.dtype != array.dtype
                                   or not np.array_equal(known, array)):
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

    def linear(self, x: str, weight: Matrix, bias: np.ndarray | None, name: str, *, bits: int | None,
               block_size: int = 32, out: str | None = None) -> str:
        """x (..., in) times weight (out, in) transposed, plus bias (out,); quantised at `bits`, float32 when None."""
        if bits is None:
            return self._float_linear(x, weight, bias, name, out)
        rows, columns = matrix_shape(weight)
        packed, scales, zeros, error = pack_measured(weight, bits, block_size)
        if (hear := _LISTENER.get()) is not None:
            hear(MatrixError(self.name, name, bits, (rows, columns), error))
        return self.matmul_nbits(x, packed, scales, zeros, bias, name, bits=bits, columns=columns, out=out)

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

    def _float_linear(self, x: str, weight: Matrix, bias: np.ndarray | None, name: str, out: str | None) -> str:
        turned = np.empty(matrix_shape(weight)[::-1], dtype=np.float32)
        for start, piece in row_pieces(weight):
            turned[:, start : start + len(piece)] = piece.T
        matrix = self.constant(f"{name}.weight", turned)
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
        data = DataFile(path) if external and self._stream is None else None
        tensors = [_proto(name, tensor, data) for name, tensor in self._tensors.items()]
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, tensors)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="minicpm-o")
        path.write_bytes(model.SerializeToString(deterministic=True))


class DataFile:
    """The .data file of a graph: tensors one after the other, each from the start of a page."""

    def __init__(self, graph_path: Path) -> None:
        self.path = graph_path.with_name(graph_path.name + ".data")
        self.path.write_bytes(b"")

    def add(self, name: str, array: np.ndarray) -> TensorProto:
        """Write a tensor at the end, and return what points at it."""
        with self.path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            offset = file.seek(-(-end // EXTERNAL_ALIGN_BYTES) * EXTERNAL_ALIGN_BYTES)
            file.write(np.ascontiguousarray(array).data)
        return external_proto(name, array, self.path.name, offset)


def _proto(name: str, tensor: np.ndarray | TensorProto, data: DataFile | None) -> TensorProto:
    """A tensor as the graph's file holds it: there already, in the .data file if it is large, else with its numbers."""
    if isinstance(tensor, TensorProto):
        return tensor
    if data is not None and tensor.nbytes >= EXTERNAL_MIN_BYTES:
        return data.add(name, tensor)
    return numpy_helper.from_array(tensor, name)


def copied(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node apart from its graph, whose list is to be written anew."""
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    return twin


def external_proto(name: str, array: np.ndarray, location: str, offset: int) -> TensorProto:
    """A tensor that says where its numbers lie instead of holding them."""
    proto = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape,
                        data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(array.nbytes))):
        proto.external_data.add(key=key, value=value)
    return proto
