"""A legacy (non-zip) PyTorch `.pth` of plain tensors to numpy arrays, without PyTorch.

Knows nothing of models. The unpickler builds only ordered dictionaries and tensors of the known storage types; any
other class or function in the file is refused, so a hostile file can run nothing. Source: the layout written by
`torch.save(..., _use_new_zipfile_serialization=False)`: magic number, protocol, system information, the object with
storages named by key, the list of keys, then each storage as an element count and raw little-endian numbers.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import CheckpointError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_STORAGES: dict[str, np.dtype[Any]] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}


@dataclass
class _Storage:
    """Numbers that come later in the file than the tensors which view them."""

    dtype: np.dtype[Any]
    numel: int
    values: np.ndarray | None = None


@dataclass(frozen=True)
class _View:
    """One tensor: where it lies in its storage. offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def to_array(self) -> np.ndarray:
        flat = self.storage.values
        if flat is None:
            raise CheckpointError("a tensor's numbers are not in the file")
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if 0 not in self.shape and (min(self.strides, default=0) < 0 or not 0 <= self.offset <= last < flat.size):
            raise CheckpointError("a tensor reaches outside its numbers")
        byte_strides = tuple(s * flat.itemsize for s in self.strides)
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, byte_strides, writeable=False)
        return np.array(view)


class _TensorUnpickler(pickle.Unpickler):
    """Builds dictionaries of tensors and nothing else."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not a plain tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, numel, view = pid
        if kind != "storage" or view is not None or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("it shares storages in a way that plain weights do not")
        return self.storages.setdefault(key, _Storage(dtype, numel))


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a saved state_dict, by its name; the caller owns the arrays.

    Raises CheckpointError when the file is missing, cut short, of the newer zip kind, or holds more than tensors.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            _check_header(file, path)
            unpickler = _TensorUnpickler(file)
            state = unpickler.load()
            _fill_storages(file, unpickler.storages)
        return _to_arrays(state)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; give the path of a .pth file") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (pickle.UnpicklingError, EOFError, struct.error, ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path} is not a whole legacy PyTorch file of plain tensors: {error}") from error


def _check_header(file: BinaryIO, path: Path) -> None:
    if file.read(2) == b"PK":
        raise CheckpointError("it is of the newer zip kind; only the legacy kind can be read")
    file.seek(0)
    if _load_plain(file) != _MAGIC or _load_plain(file) != _PROTOCOL:
        raise CheckpointError("it does not start as a legacy PyTorch file")
    if not _load_plain(file).get("little_endian", False):
        raise CheckpointError("it was written on a big-endian machine")


def _load_plain(file: BinaryIO) -> Any:
    return _TensorUnpickler(file).load()


def _fill_storages(file: BinaryIO, storages: dict[str, _Storage]) -> None:
    """Read the numbers, in the order of the key list, into the storages that the tensors view."""
    keys = _load_plain(file)
    for key in keys:
        storage = storages[key]
        numel = struct.unpack("<q", file.read(8))[0]
        raw = file.read(numel * storage.dtype.itemsize) if numel == storage.numel else b""
        if numel != storage.numel or len(raw) != numel * storage.dtype.itemsize:
            raise CheckpointError("it is cut short; fetch it again")
        storage.values = np.frombuffer(raw, dtype=storage.dtype)


def _to_arrays(state: Any) -> dict[str, np.ndarray]:
    if not isinstance(state, dict) or not all(isinstance(view, _View) for view in state.values()):
        raise CheckpointError("it is not a dictionary of tensors (a state_dict)")
    return {str(name): view.to_array() for name, view in state.items()}


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_unused: Any) -> _View:
    """Stands in for PyTorch's function of that name; gradients and hooks are of no use here."""
    return _View(storage, int(offset), tuple(shape), tuple(strides))


def _rebuild_parameter(data: _View, *_unused: Any) -> _View:
    return data
