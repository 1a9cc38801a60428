"""PyTorch's files of plain tensors (`.pt`, `.pth`, `.bin`) read and written without PyTorch.

Knows no model. Reads the zip kind tensor by tensor and hands the older kind to `torch_legacy`. The unpickler builds
dictionaries and tensors of known kinds; any other class or function in a file is refused, so a hostile file can run
nothing.

Source: the layout of `torch.save`: a zip archive, not compressed, with `data.pkl` (the object, its storages named by
key), `data/<key>` (raw little-endian numbers), `byteorder` and `version`, all in a folder of any name.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .safetensors_file import STORED, Pending, TensorInfo, to_numbers
from .torch_legacy import read_state_dict as read_legacy

_KINDS = {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
          "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
          "BoolStorage": "BOOL"}
_CLASSES = {kind: name for name, kind in _KINDS.items()}


@dataclass(frozen=True)
class _Kind:
    """Stands in for a storage class of PyTorch."""

    dtype: str


@dataclass(frozen=True)
class _View:
    """One tensor: where it lies in its storage. offset and strides count elements."""

    key: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries of tensors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in _KINDS:
            return _Kind(_KINDS[name])
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not a plain tensor")

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        kind, storage, key, _device, _numel = pid
        if kind != "storage" or not isinstance(storage, _Kind):
            raise pickle.UnpicklingError("it holds numbers of a kind that plain weights do not have")
        return str(key), storage.dtype


def _rebuild_tensor(storage: tuple[str, str], offset: int, shape: Any, strides: Any, *_unused: Any) -> _View:
    """Stands in for PyTorch's function of that name; gradients and hooks are of no use here."""
    return _View(storage[0], storage[1], int(offset), tuple(shape), tuple(strides))


def _rebuild_parameter(data: _View, *_unused: Any) -> _View:
    return data


class TorchZipFile:
    """A state_dict in a zip file; its tensors are read when asked for."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError when the file is missing, cut short, or holds more than tensors."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                pickled = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
                if pickled is None:
                    raise CheckpointError(f"{path} is a zip file, but not one that PyTorch wrote; it has no data.pkl")
                self._root = pickled.removesuffix("data.pkl")
                self._views = _views(_Unpickler(io.BytesIO(archive.read(pickled))).load())
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is not there; download the checkpoint again") from error
        except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError,
                KeyError) as error:
            raise CheckpointError(f"{path} is not a whole PyTorch file of plain tensors: {error}; "
                                  f"download it again") from error
        self.infos: Mapping[str, TensorInfo] = {name: TensorInfo(view.dtype, view.shape)
                                                for name, view in self._views.items()}

    def raw(self, name: str, rows: slice | None = None) -> np.ndarray:
        """Bits of the named tensor, or of some of its rows."""
        view = self._views[name]
        try:
            with zipfile.ZipFile(self.path) as archive:
                flat = np.frombuffer(archive.read(f"{self._root}data/{view.key}"), dtype=STORED[view.dtype])
        except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
            raise CheckpointError(f"{self.path} is damaged at {name}: {error}; download it again") from error
        last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
        if 0 not in view.shape and (min(view.strides, default=0) < 0 or not 0 <= view.offset <= last < flat.size):
            raise CheckpointError(f"{self.path} is damaged: {name} reaches outside its numbers; download it again")
        byte_strides = tuple(s * flat.itemsize for s in view.strides)
        tensor = np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, byte_strides, writeable=False)
        return np.array(tensor if rows is None else tensor[rows])


def _views(state: Any) -> dict[str, _View]:
    """The tensors of a state_dict, or of one that is wrapped in a dictionary under `state_dict`."""
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(view, _View) for view in state.values()):
        raise ValueError("it is not a dictionary of tensors (a state_dict)")
    return {str(name): view for name, view in state.items()}


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a saved state_dict of either kind, 16-bit floats as float32. Raises CheckpointError."""
    if path.is_file() and not zipfile.is_zipfile(path):
        return read_legacy(path)
    file = TorchZipFile(path)
    return {name: to_numbers(file.raw(name), info.dtype) for name, info in file.infos.items()}


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
