"""Files of the safetensors kind, one tensor at a time: memory holds a tensor (or some of its rows), never a file.

Knows no model. Numbers are read with ordinary reads instead of a map of the file, so that what was read before does not
count as memory in use.

Source: the safetensors format: eight bytes with the header's length, the header as JSON (name to dtype, shape and the
two ends of its bytes), then the bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError

STORED: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""The format's words for kinds of numbers, and how numpy holds their bits; it has no bfloat16 and takes 16 bits."""
_TOO_LARGE: Mapping[str, int] = {"F64": 0x7FF0 << 48, "F32": 0x7F80 << 16, "F16": 0x7C00, "BF16": 0x7F80}
"""Bits of infinity, without the sign; of finite numbers they are fewer, of what is no number they are more."""
HEADER_LIMIT = 100_000_000
_LFS = b"version https://git-lfs"
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class TensorInfo:
    """What a file says of one tensor."""

    dtype: str
    """A key of STORED."""
    shape: tuple[int, ...]
    begin: int = 0
    """First byte in the file."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * STORED[self.dtype].itemsize


def to_numbers(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Bits to numbers: both 16-bit floats become float32, all else stays what it is."""
    if dtype == "BF16":
        return bfloat16_to_float32(raw)
    return raw.astype(np.float32) if dtype == "F16" else raw


def is_finite(raw: np.ndarray, dtype: str) -> bool:
    """Whether all of a tensor's bits are finite numbers. Two passes over the bits and no copy of them."""
    limit = _TOO_LARGE.get(dtype)
    if limit is None or not raw.size:
        return True
    size = raw.dtype.itemsize
    sign = 1 << (8 * size - 1)
    return int(raw.view(f"<i{size}").max()) < limit and int(raw.view(f"<u{size}").max()) < sign + limit


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """A bfloat16 is the upper half of a float32."""
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def float32_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even; finite numbers only."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class SafetensorsFile:
    """A safetensors file whose header was read and agrees with the file's length."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError when the file is missing, a pointer, damaged or cut short."""
        self.path = path
        try:
            self.infos: Mapping[str, TensorInfo] = _read_header(path)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is not there; download the checkpoint again") from error

    def raw(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Bits of the named tensor, or of rows of it (a slice of step 1 along its first axis)."""
        info = self.infos[name]
        dtype, shape, begin = STORED[info.dtype], info.shape, info.begin
        if rows is not None:
            first, last, _ = rows.indices(shape[0])
            shape = (max(last - first, 0), *shape[1:])
            begin += first * math.prod(shape[1:]) * dtype.itemsize
        count = math.prod(shape)
        numbers = np.fromfile(self.path, dtype=dtype, count=count, offset=begin)
        if numbers.size != count:
            raise CheckpointError(f"{self.path} became shorter while it was read; download it again")
        return numbers.reshape(shape)


def _read_header(path: Path) -> dict[str, TensorInfo]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS))
        if start == _LFS:
            raise CheckpointError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` or download it")
        file.seek(0)
        length = struct.unpack("<Q", file.read(8))[0] if size >= 8 else 0
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise CheckpointError(f"{path} is damaged: {size} bytes do not hold the header that it announces; "
                                  f"download it again")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            infos = {name: _info(path, name, entry, 8 + length) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} has a damaged header ({error}); download it again") from error
    end = max((info.begin + info.num_bytes for info in infos.values()), default=8 + length)
    if size < end:
        raise CheckpointError(f"{path} is cut short: it has {size} bytes, its header promises {end}; download it again")
    return infos


def _info(path: Path, name: str, entry: Mapping[str, Any], data_begin: int) -> TensorInfo:
    dtype, (begin, end) = str(entry["dtype"]), entry["data_offsets"]
    if dtype not in STORED:
        raise CheckpointError(f"{path} holds numbers of kind {dtype} ({name}), this release reads {', '.join(STORED)}; "
                              f"use the release with ordinary weights")
    info = TensorInfo(dtype, tuple(int(n) for n in entry["shape"]), data_begin + int(begin))
    if info.num_bytes != end - begin or begin < 0 or min(info.shape, default=0) < 0:
        raise ValueError(f"{name} of shape {info.shape} needs {info.num_bytes} bytes, not {end - begin}")
    return info


@dataclass(frozen=True)
class Pending:
    """A tensor about to be written: `blocks` makes its bytes when they are wanted, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[np.ndarray]]

    @property
    def num_bytes(self) -> int:
        return TensorInfo(self.dtype, self.shape).num_bytes


def pending_array(name: str, array: np.ndarray, dtype: str | None = None) -> Pending:
    """An array in memory; dtype says which kind its bits are where numpy cannot ("BF16" in uint16)."""
    kind = dtype or next(word for word, numpy_type in STORED.items() if numpy_type == array.dtype)
    return Pending(name, kind, array.shape, lambda: (np.ascontiguousarray(array),))


def file_blocks(tensors: Sequence[Pending]) -> Iterator[memoryview]:
    """The bytes of one safetensors file, to be written in order: the header, then block by block the numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for tensor in tensors:
        end = begin + tensor.num_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of eight, which maps of the file need
    yield memoryview(struct.pack("<Q", len(text)) + text)
    for tensor in tensors:
        for block in tensor.blocks():
            yield np.ascontiguousarray(block).data.cast("B") if block.size else memoryview(b"")


def write_file(path: Path, tensors: Sequence[Pending], on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """One safetensors file. `on_bytes` hears of every block's length once it is written."""
    blocks = file_blocks(tensors)
    with path.open("wb") as file:
        file.write(next(blocks))
        for block in blocks:
            file.write(block)
            on_bytes(block.nbytes)


def plan_shards(tensors: Iterable[Pending], max_bytes: int) -> list[list[Pending]]:
    """Tensors in their order, cut into files of at most max_bytes (a tensor larger than that gets its own)."""
    shards: list[list[Pending]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.num_bytes > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.num_bytes
    return shards


def shard_names(count: int) -> list[str]:
    """Names as every checkpoint on the hub has them."""
    return ["model.safetensors"] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors"
                                                     for i in range(1, count + 1)]


def write_shards(folder: Path, tensors: Iterable[Pending], max_bytes: int,
                 on_bytes: Callable[[int], None] = lambda count: None) -> list[Path]:
    """The tensors as one file, or as shards with their index.json. Returns the files of tensors."""
    shards = plan_shards(tensors, max_bytes)
    names = shard_names(len(shards))
    for name, shard in zip(names, shards, strict=True):
        write_file(folder / name, shard, on_bytes)
    if len(shards) > 1:
        total = sum(tensor.num_bytes for shard in shards for tensor in shard)
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
    return [folder / name for name in names]


def in_blocks(count: int, itemsize: int) -> Iterator[int]:
    """Lengths of blocks of about 16 MB that together hold count numbers."""
    step = _BLOCK_BYTES // itemsize
    yield from (min(step, count - begin) for begin in range(0, count, step))
