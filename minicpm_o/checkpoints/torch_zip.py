"""Plain tensors to a PyTorch file (`.pt`) without PyTorch, block by block. `torch_legacy` reads such files.

Knows no model.

Source: the layout of `torch.save`: a zip archive, not compressed, with `data.pkl` (the object, its storages named by
key), `data/<key>` (raw little-endian numbers), `byteorder` and `version`, all in a folder of any name.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .safetensors_file import Pending

_CLASSES: Mapping[str, str] = {
    "F64": "DoubleStorage", "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage",
    "I64": "LongStorage", "I32": "IntStorage", "I16": "ShortStorage", "I8": "CharStorage", "U8": "ByteStorage",
    "BOOL": "BoolStorage",
}


def write_state_dict(path: Path, tensors: Sequence[Pending],
                     on_bytes: Callable[[int], None] = lambda count: None) -> None:
    """A state_dict that `torch.load(weights_only=True)` reads; blocks are made and written one after the other."""
    root = path.stem
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(f"{root}/data.pkl", _pickled(tensors))
        archive.writestr(f"{root}/byteorder", "little")
        for key, tensor in enumerate(tensors):
            with archive.open(f"{root}/data/{key}", "w", force_zip64=True) as file:
                for block in tensor.blocks():
                    file.write(np.ascontiguousarray(block).data.cast("B") if block.size else b"")
                    on_bytes(block.nbytes)
        archive.writestr(f"{root}/version", "3\n")


def _pickled(tensors: Sequence[Pending]) -> bytes:
    """The pickle of protocol 2 that builds the dictionary, written opcode by opcode: its classes are not at hand."""
    out = bytearray(b"\x80\x02}(")  # protocol 2, an empty dictionary, a mark
    for key, tensor in enumerate(tensors):
        strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
        out += _text(tensor.name)
        out += b"ctorch._utils\n_rebuild_tensor_v2\n("
        out += b"(" + _text("storage") + b"ctorch\n" + _CLASSES[tensor.dtype].encode() + b"\n"
        out += _text(str(key)) + _text("cpu") + _integer(math.prod(tensor.shape)) + b"tQ"
        out += _integer(0) + _tuple(tensor.shape) + _tuple(strides)
        out += b"\x89ccollections\nOrderedDict\n)R" + b"tR"  # no gradient, no hooks
    return bytes(out + b"u.")


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _integer(value: int) -> bytes:
    if value < 1 << 31:
        return b"J" + value.to_bytes(4, "little", signed=True)
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def _tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(_integer(value) for value in values) + b"t"
