"""Nano's language graph for a browser: 4 bits a weight on the way, whole numbers of 8 bits at run time.

onnxruntime-web has no quick kernel for 4-bit matrices on a processor: it makes floats of every matrix at every token.
Its product of 8-bit matrices is quick. So what is fetched is small, and opening it works out once what is quick:

    language.bits       levels of 4 bits; scales and lowest values of blocks and the trained low-rank change, float16
    unfold.onnx         W = levels * scale + lowest + b a  ->  8 bits, with a scale for each output; run part by part
    language_webgpu.onnx  the same of language.bits as it is, for WebGPU
    language.onnx.data  made of both when the model is opened; nowhere but in memory
    language.onnx       x rounded to 15 bits, a scale for each token -> MatMulInteger, high and low byte side by side ->
                        times both scales

Blocks of a Q4_1 file (ggml: level * scale + lowest) are taken as they are, so the 4 bits lose nothing of it. The
head is the table of word embeddings, which lies in its own file already. With 15 bits what is rounded off x is as
little as float16 would round; the second byte costs next to nothing where the matrix's way through memory is what takes
time. Letters: N outputs, K inputs, T tokens, R rank of the change.

Products of whole numbers are exact, so a browser and a server compute the same. Both factors are unsigned: signed ones
saturate on processors without VNNI.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from ..checkpoints.embeddings import FILE_NAME as EMBEDDINGS_FILE
from ..checkpoints.graphs.builder import (
    EXTERNAL_ALIGN_BYTES,
    FLOAT,
    MICROSOFT,
    GraphBuilder,
    Matrix,
    external_proto,
    fold_nibbles,
    pieces_of,
    to_blocks,
)
from ..checkpoints.graphs.language import FILE_NAME, add_language
from ..checkpoints.safetensors_file import SafetensorsFile
from ..checkpoints.storage import write_atomic
from ..errors import CheckpointError
from ..model.config import LanguageConfig

BLOCK = 32
"""Weights that share a scale and a lowest value, as in Q4_1."""
TOP = 15
MIDDLE = 128
UINT8, FLOAT16 = TensorProto.UINT8, TensorProto.FLOAT16
BASE = 254
STEPS = 127 * BASE
"""Steps on either side of zero that a token's numbers are rounded to; each is high * BASE + low, of 8 bits both."""
HEAD = "lm_head"
BITS_FILE = "language.bits"
DATA_FILE = f"{FILE_NAME}.data"
UNFOLD_FILE = "unfold.onnx"
GPU_FILE = "language_webgpu.onnx"
INPUTS = ("levels", "scales", "lows", "a", "b")
"""Of unfold.onnx, and what a part has in language.bits."""
_PARTS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Matrices that the graph has as one, by the names of their parts."""

Updates = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Name of a weight to the trained change b a that is added to it: a (R, K), b (N, R)."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies in a file."""

    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Unfolding:
    """A part of a matrix: where its tensors lie in language.bits, and where its levels and scales go."""

    tensors: Mapping[str, Stored]
    """By the names of INPUTS."""
    levels: Stored
    """Of the whole matrix in language.onnx.data, (K, N)."""
    scales: Stored
    """(N,) float32, there too."""
    first_row: int
    """Of the N outputs, where the part's begin."""

    def to_dict(self) -> dict[str, Any]:
        """For the page: offsets, each with the shape behind it."""
        return {"tensors": {name: [item.offset, *item.shape] for name, item in self.tensors.items()},
                "levels": [self.levels.offset, *self.levels.shape], "scales": [self.scales.offset, *self.scales.shape],
                "first_row": self.first_row}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Unfolding:
        """What `to_dict` gave."""
        tensors = {name: _stored_at(item) for name, item in values["tensors"].items()}
        return cls(tensors, _stored_at(values["levels"]), _stored_at(values["scales"]), values["first_row"])


def _stored_at(values: Sequence[int]) -> Stored:
    return Stored(values[0], tuple(values[1:]))


@dataclass(frozen=True)
class WebLanguage:
    """What was written, for whoever opens it."""

    unfoldings: tuple[Unfolding, ...]
    data_bytes: int
    """Size of language.onnx.data."""

    def to_dict(self) -> dict[str, Any]:
        """For the page."""
        return {"data_bytes": self.data_bytes, "parts": [part.to_dict() for part in self.unfoldings]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> WebLanguage:
        """What `to_dict` gave."""
        return cls(tuple(map(Unfolding.from_dict, values["parts"])), values["data_bytes"])


def build_web_language(weights: Mapping[str, np.ndarray], updates: Updates, config: LanguageConfig, folder: Path
                       ) -> WebLanguage:
    """Write language.onnx, language.bits and unfold.onnx into `folder`, where the embeddings' file lies already.

    weights: as of `build_language`, without the updates. Raises CheckpointError if a tensor is absent or misshapen.
    """
    graph = store_bits(weights, updates, config, folder)
    graph.save(folder / FILE_NAME)
    build_unfold(folder / UNFOLD_FILE)
    build_blocks(GpuGraph(folder, graph.kept), weights, config, folder / GPU_FILE)
    return WebLanguage(tuple(graph.unfoldings), graph.data_bytes)


def store_bits(weights: Mapping[str, np.ndarray], updates: Updates, config: LanguageConfig, folder: Path
               ) -> WholeNumberGraph:
    """Write language.bits; the graph in whole numbers over it, not yet saved, says where what lies."""
    graph = WholeNumberGraph(folder, updates)
    add_language(graph, weights, config, layer_bits=4, head_bits=8, block_size=BLOCK)
    write_atomic(folder / BITS_FILE, graph.bits)
    return graph


def build_blocks(graph: GpuGraph, weights: Mapping[str, np.ndarray], config: LanguageConfig, path: Path) -> None:
    """Write a graph over language.bits, which lies beside `path`."""
    add_language(graph, weights, config, layer_bits=4, head_bits=8, block_size=BLOCK)
    graph.save(path)


class WholeNumberGraph(GraphBuilder):
    """A graph whose matrices are multiplied in 8 bits; collects what they are made of."""

    def __init__(self, folder: Path, updates: Updates) -> None:
        super().__init__("language")
        self._folder, self._updates = folder, updates
        self.bits: list[bytes] = []
        """What language.bits holds, in order."""
        self.unfoldings: list[Unfolding] = []
        self.kept: dict[str, list[Mapping[str, Stored]]] = {}
        """By matrix: where the tensors of its parts lie in language.bits."""
        self.data_bytes = 0
        self._bits_bytes = 0

    def linear(self, x: str, weight: Matrix, bias: np.ndarray | None, name: str, *, bits: int | None,
               block_size: int = BLOCK, out: str | None = None) -> str:
        """x (..., K) times weight (N, K) transposed. Raises CheckpointError for a bias, which nano's layers lack."""
        if bias is not None:
            raise CheckpointError(f"{name} has a bias; the graph for browsers is made for nano, which has none")
        levels, scales = self._head(name) if name == HEAD else self._layer(weight, name)
        return self.product(x, levels, scales, name, out or name)

    def product(self, x: str, levels: str, scales: str, name: str, out: str) -> str:
        """x (..., T, K), levels (K, N) uint8 around MIDDLE, scales (N,): round each token, multiply, scale."""
        base, zero = self.scalar("base", float(BASE)), byte(self, "zero_level", MIDDLE)
        largest = self.node("ReduceMax", [self.node("Abs", [x], f"{name}.sizes"), self.integers("last_axis", -1)],
                            f"{name}.largest", keepdims=1)
        step = self.node("Mul", [largest, self.scalar("one_step", 1 / STEPS)], f"{name}.step_or_zero")
        step = self.node("Max", [step, self.scalar("least_step", 1e-12)], f"{name}.step")  # a token of zeros has none
        whole = self.node("Round", [self.node("Div", [x, step], f"{name}.steps")], f"{name}.whole")
        high = self.node("Round", [self.node("Div", [whole, base], f"{name}.high_part")], f"{name}.high")
        low = self.node("Sub", [whole, self.node("Mul", [high, base], f"{name}.high_whole")], f"{name}.low")
        both = self.node("Concat", [high, low], f"{name}.high_and_low", axis=-2)  # as tokens beside one another
        raised = self.node("Add", [both, self.scalar("middle", float(MIDDLE))], f"{name}.raised")
        rounded = self.node("Cast", [raised], f"{name}.rounded", to=UINT8)
        product = self.node("MatMulInteger", [rounded, levels, zero, zero], f"{name}.product")
        counted = self.node("Cast", [product], f"{name}.counted", to=FLOAT)
        high_out, low_out = self.nodes("Split", [counted], f"{name}.halves", axis=-2, num_outputs=2,
                                       outs=[f"{name}.high_counted", f"{name}.low_counted"])
        high_scaled = self.node("Mul", [high_out, base], f"{name}.high_scaled")
        summed = self.node("Add", [high_scaled, low_out], f"{name}.summed")
        return self.node("Mul", [self.node("Mul", [summed, step], f"{name}.scaled"), scales], name, out=out)

    def _layer(self, weight: Matrix, name: str) -> tuple[str, str]:
        """Levels and scales that opening the model makes; what of, goes to language.bits."""
        pieces = [np.asarray(piece[:], np.float32) for piece in pieces_of(weight)]
        rows, columns = sum(len(piece) for piece in pieces), pieces[0].shape[1]
        levels = self._made(f"{name}.levels", np.dtype(np.uint8), (columns, rows))
        scales = self._made(f"{name}.scales", np.dtype(np.float32), (rows,))
        stem, _, last = name.rpartition(".")
        first_row = 0
        for part, piece in zip(_PARTS.get(last, (last,)), pieces, strict=True):
            tensors = self._keep(piece, *self._update(f"{stem}.{part}.weight", piece.shape))
            self.unfoldings.append(Unfolding(tensors, levels, scales, first_row))
            self.kept.setdefault(name, []).append(tensors)
            first_row += len(piece)
        return f"{name}.levels", f"{name}.scales"

    def _made(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Stored:
        """A tensor of language.onnx.data, which is not there yet."""
        offset = -(-self.data_bytes // EXTERNAL_ALIGN_BYTES) * EXTERNAL_ALIGN_BYTES
        array = np.broadcast_to(np.zeros((), dtype), shape)
        self._tensors[name] = external_proto(name, array, DATA_FILE, offset)
        self.data_bytes = offset + array.nbytes
        return Stored(offset, shape)

    def _update(self, weight: str, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """a (R, K) and b (N, R) of a weight; of rank 1 and nothing where none was trained."""
        rows, columns = shape
        a, b = self._updates.get(weight, (np.zeros((1, columns)), np.zeros((rows, 1))))
        if b.shape[0] != rows or a.shape[1] != columns or a.shape[0] != b.shape[1]:
            raise CheckpointError(f"the update {b.shape} x {a.shape} does not fit {weight} of shape {tuple(shape)}")
        return a, b

    def _keep(self, weight: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, Stored]:
        levels, scales, lows = to_levels(weight)
        arrays = (fold_nibbles(levels, 4), scales, lows, a.astype(np.float16), b.astype(np.float16))
        kept = {}
        for name, array in zip(INPUTS, arrays, strict=True):
            kept[name] = Stored(self._bits_bytes, array.shape)
            padding = bytes(-array.nbytes % 2)  # floats of 16 bits begin at even places
            self.bits += [array.tobytes(), padding]
            self._bits_bytes += array.nbytes + len(padding)
        return kept

    def _head(self, name: str) -> tuple[str, str]:
        """The table of word embeddings, from the file that it lies in: levels around MIDDLE, and scales."""
        infos = SafetensorsFile(self._folder / EMBEDDINGS_FILE).infos
        for key, info, dtype in ((f"{name}.signed", infos["embed_tokens"], np.uint8),
                                 (f"{name}.half_scales", infos["scales"], np.float16)):
            empty = np.broadcast_to(np.zeros((), dtype), info.shape)
            self._tensors[key] = external_proto(key, empty, EMBEDDINGS_FILE, info.begin)
        raised = self.node("BitwiseXor", [f"{name}.signed", byte(self, "sign", MIDDLE)], f"{name}.raised_table")
        turned = self.node("Transpose", [raised], f"{name}.levels", perm=[1, 0])
        floats = self.node("Cast", [f"{name}.half_scales"], f"{name}.row_scales", to=FLOAT)
        return turned, self.node("Reshape", [floats, self.integers("flat", -1)], f"{name}.scales")


class GpuGraph(WholeNumberGraph):
    """The same for WebGPU, which has a quick kernel for 4 bits: language.bits as it lies there, nothing unfolded.

    x W' = x (d (q - 8))' by MatMulNBits + sums of x over blocks times (lowest + 8 d)' + (x a') b'. The head stays in
    whole numbers, on the processor.
    """

    accuracy: Mapping[str, Any] = {}
    """How exact MatMulNBits is, by its attribute; floats where nothing is said."""

    def __init__(self, folder: Path, kept: Mapping[str, Sequence[Mapping[str, Stored]]]) -> None:
        super().__init__(folder, {})
        self.kept = {name: list(parts) for name, parts in kept.items()}

    def linear(self, x: str, weight: Matrix, bias: np.ndarray | None, name: str, *, bits: int | None,
               block_size: int = BLOCK, out: str | None = None) -> str:
        """x (1, T, K) times weight (N, K) transposed, by its parts."""
        if name == HEAD:
            return self.product(x, *self._head(name), name, out or name)
        sums = self._block_sums(x, name)
        many = len(self.kept[name]) > 1
        parts = [self._part(x, sums, tensors, f"{name}.{number}" if many else name)
                 for number, tensors in enumerate(self.kept[name])]
        return self.node("Concat", parts, name, axis=-1) if many else parts[0]

    def _block_sums(self, x: str, name: str) -> str:
        """(1, T, K) -> (1, T, blocks)"""
        blocks = self.node("Reshape", [x, self.integers("in_blocks", 0, 0, -1, BLOCK)], f"{name}.in_blocks")
        return self.node("ReduceSum", [blocks, self.integers("last_axis", -1)], f"{name}.block_sums", keepdims=0)

    def _part(self, x: str, sums: str, tensors: Mapping[str, Stored], name: str) -> str:
        floats = {key: self._bits_tensor(f"{name}.{key}", tensors[key], np.float16) for key in INPUTS[1:]}
        rows, blocks, _ = tensors["scales"].shape
        shape = self.integers(f"scales_{rows}_{blocks}", rows, blocks)
        scales, lows = (self.node("Reshape", [floats[key], shape], f"{name}.{key}_flat") for key in ("scales", "lows"))
        levels = self._bits_tensor(f"{name}.levels", tensors["levels"], np.uint8)
        main = self.node("MatMulNBits", [x, levels, scales], f"{name}.main", domain=MICROSOFT, K=blocks * BLOCK, N=rows,
                         bits=4, block_size=BLOCK, **self.accuracy)
        raised = self.node("Mul", [scales, self.scalar("eight", 8.0)], f"{name}.middles")
        lifts = self.node("Transpose", [self.node("Add", [lows, raised], f"{name}.lifts")], f"{name}.lifts_turned",
                          perm=[1, 0])
        lifted = self.node("Add", [main, self.node("MatMul", [sums, lifts], f"{name}.lift")], f"{name}.stored")
        a, b = (self.node("Transpose", [floats[key]], f"{name}.{key}_turned", perm=[1, 0]) for key in "ab")
        change = self.node("MatMul", [self.node("MatMul", [x, a], f"{name}.narrow"), b], f"{name}.change")
        return self.node("Add", [lifted, change], name)

    def _bits_tensor(self, name: str, item: Stored, dtype: Any) -> str:
        """A tensor of language.bits, as float32 where it is float16 there."""
        empty = np.broadcast_to(np.zeros((), dtype), item.shape)
        self._tensors[f"{name}.raw"] = external_proto(f"{name}.raw", empty, BITS_FILE, item.offset)
        return f"{name}.raw" if dtype is np.uint8 else self.node("Cast", [f"{name}.raw"], name, to=FLOAT)


def build_unfold(path: Path) -> None:
    """Write the graph that turns a part's 4 bits and change into 8 bits: whole (N, K) uint8 and row_scales (N,)."""
    graph = GraphBuilder("unfold")
    graph.input("levels", UINT8, ["rows", "blocks", BLOCK // 2])
    shapes: dict[str, Sequence[int | str]] = {"scales": ["rows", "blocks", 1], "lows": ["rows", "blocks", 1],
                                              "a": ["rank", "columns"], "b": ["rows", "rank"]}
    for name, shape in shapes.items():
        graph.input(name, FLOAT16, shape)
    graph.output("whole", UINT8, ["rows", "columns"])
    graph.output("row_scales", FLOAT, ["rows"])
    floats = {name: graph.node("Cast", [name], f"{name}_float", to=FLOAT) for name in INPUTS[1:]}
    scaled = graph.node("Mul", [unfolded_nibbles(graph), floats["scales"]], "scaled")
    stored = graph.node("Reshape", [graph.node("Add", [scaled, floats["lows"]], "lifted"),
                                    graph.integers("rows_shape", 0, -1)], "stored")
    weight = graph.node("Add", [stored, graph.node("MatMul", [floats["b"], floats["a"]], "change")], "weight")
    largest = graph.node("ReduceMax", [graph.node("Abs", [weight], "sizes"), graph.integers("last_axis", -1)],
                         "largest", keepdims=1)
    scales = graph.node("Mul", [largest, graph.scalar("one_127th", 1 / 127)], "scales_column")
    whole = graph.node("Round", [graph.node("Div", [weight, scales], "steps")], "rounded")
    raised = graph.node("Add", [whole, graph.scalar("middle", float(MIDDLE))], "raised")
    graph.node("Cast", [raised], "whole", to=UINT8)
    graph.node("Reshape", [scales, graph.integers("flat", -1)], "row_scales")
    graph.save(path)


def unfolded_nibbles(graph: GraphBuilder) -> str:
    """levels (N, blocks, 16) -> (N, blocks, 32) float32, the low half of each byte first."""
    halves = (graph.node("BitwiseAnd", ["levels", byte(graph, "low_nibble", TOP)], "first"),
              graph.node("BitShift", ["levels", byte(graph, "nibble", 4)], "second", direction="RIGHT"))
    last = graph.integers("last_axis", -1)
    pairs = graph.node("Concat", [graph.node("Unsqueeze", [half, last], f"{half}_apart") for half in halves], "pairs",
                       axis=-1)
    return graph.node("Cast", [graph.node("Reshape", [pairs, graph.integers("blocks_shape", 0, 0, -1)], "in_order")],
                      "level_floats", to=FLOAT)


def byte(graph: GraphBuilder, name: str, value: int) -> str:
    """A uint8 without axes."""
    return graph.constant(name, np.array(value, np.uint8))


def to_levels(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, K) float32 to levels uint8 (N, blocks, 32), scales and lowest values float16 (N, blocks, 1).

    The lowest and the highest of a block are its first and last level, as ggml's Q4_1 has them.
    """
    blocks = to_blocks(weight, BLOCK)
    lows = blocks.min(-1, keepdims=True).astype(np.float16)
    scales = ((blocks.max(-1, keepdims=True) - blocks.min(-1, keepdims=True)) / TOP).astype(np.float16)
    steps = np.where(scales == 0, 1, scales).astype(np.float32)
    levels = np.clip(np.rint((blocks - lows.astype(np.float32)) / steps), 0, TOP).astype(np.uint8)
    return levels, scales, lows


def unfold_language(folder: Path, target: Path, language: WebLanguage) -> None:
    """Write `target` (language.onnx.data) of what lies in `folder`, as the page does in memory: for Python's runtime.

    Raises CheckpointError when the files do not belong together.
    """
    data = np.zeros(language.data_bytes, np.uint8)
    for part, whole, scales in _unfolded(folder, language):
        columns, rows = part.levels.shape
        levels = data[part.levels.offset : part.levels.offset + rows * columns].reshape(columns, rows)
        levels[:, part.first_row : part.first_row + len(whole)] = whole.T
        floats = data[part.scales.offset : part.scales.offset + 4 * rows].view(np.float32)
        floats[part.first_row : part.first_row + len(whole)] = scales
    write_atomic(target, [data.tobytes()])


def _unfolded(folder: Path, language: WebLanguage) -> Iterator[tuple[Unfolding, np.ndarray, np.ndarray]]:
    import onnxruntime as ort

    session = ort.InferenceSession(str(folder / UNFOLD_FILE), providers=["CPUExecutionProvider"])
    bits = np.fromfile(folder / BITS_FILE, np.uint8)
    for part in language.unfoldings:
        feeds = {name: _stored(bits, part.tensors[name], np.uint8 if name == "levels" else np.float16)
                 for name in INPUTS}
        whole, scales = session.run(["whole", "row_scales"], feeds)
        yield part, whole, scales


def _stored(bits: np.ndarray, item: Stored, dtype: Any) -> np.ndarray:
    count = int(np.prod(item.shape)) * np.dtype(dtype).itemsize
    if item.offset + count > len(bits):
        raise CheckpointError(f"{BITS_FILE} has {len(bits)} bytes, expected {item.offset + count} at least; "
                              f"export the model again")
    return bits[item.offset : item.offset + count].view(dtype).reshape(item.shape)
