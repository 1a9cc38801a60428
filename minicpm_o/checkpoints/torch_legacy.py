"""A PyTorch file (`.pt`, `.pth`) of plain tensors to numpy arrays, without PyTorch.

Knows nothing of models. The unpickler builds only ordered dictionaries and tensors of the known storage types; any
other class or function in the file is refused, so a hostile file can run nothing.

Source: the two layouts of `torch.save`. Legacy: magic number, protocol, system information, the object with storages
named by key, the list of keys, then each storage as an element count and raw little-endian numbers. Zip, since PyTorch
1.6: an archive that is not compressed, with the object in `<name>/data.pkl` and each storage in `<name>/data/<key>`;
its storages are mapped, so that reading one tensor costs the memory of one.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import CheckpointError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LOCAL_HEADER_BYTES = 30
"""Head of a file in a zip archive; the lengths of the name and of the padding that follow it are its last two words."""

_BFLOAT16 = np.dtype([("high_half", "<u2")])
"""numpy has no such number: it is the high half of a float32, and is read as one."""

_STORAGES: dict[str, np.dtype[Any]] = {
    "BFloat16Storage": _BFLOAT16,
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
        if view.dtype == _BFLOAT16:
            return (view["high_half"].astype(np.uint32) << 16).view(np.float32)
        return np.array(view)


class _TensorUnpickler(pickle.Unpickler):
    """Builds dictionaries of tensors and nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
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
        kind, dtype, key, _device, numel, *view = pid                       # the zip kind has no views
        if kind != "storage" or view not in ([], [None]) or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError("it shares storages in a way that plain weights do not")
        return self.storages.setdefault(key, _Storage(dtype, numel))


class StateDict(Mapping[str, np.ndarray]):
    """Tensors by name; each look-up returns an array of its own, which the caller owns."""

    def __init__(self, views: dict[str, _View], file: str) -> None:
        self._views, self._file = views, file

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._views[name].to_array()
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError(f"{name} in {self._file} holds numbers that are not finite (NaN or infinity); the "
                                  f"file is damaged, download it again")
        return array

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor; none is read."""
        return {name: view.shape for name, view in self._views.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a saved state_dict, by its name; the caller owns the arrays.

    Raises CheckpointError when the file is missing, cut short, or holds more than tensors.
    """
    state = open_state_dict(path)
    try:
        return {name: state[name] for name in state}
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def open_state_dict(path: str | Path) -> StateDict:
    """As `read_state_dict`, but the tensors of a zip are read when they are looked up."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            state = _load_zip(file, path) if zipfile.is_zipfile(file) else _load_legacy(file)
        return StateDict(_check_state(state), path.name)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; give the path of a .pth file") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (pickle.UnpicklingError, EOFError, struct.error, ValueError, TypeError, AttributeError, KeyError, IndexError,
            zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is not a whole PyTorch file of plain tensors: {error}; download it again"
                              ) from error


def _load_legacy(file: IO[bytes]) -> Any:
    file.seek(0)
    _check_header(file)
    unpickler = _TensorUnpickler(file)
    state = unpickler.load()
    _fill_storages(file, unpickler.storages)
    return state


def _load_zip(file: IO[bytes], path: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        folder = next((name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")), None)
        if folder is None:
            raise CheckpointError("it is a zip archive, but not one that PyTorch wrote")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise CheckpointError("it was written on a big-endian machine")
        with archive.open(f"{folder}data.pkl") as pickled:
            unpickler = _TensorUnpickler(pickled)
            state = unpickler.load()
        for key, storage in unpickler.storages.items():
            _map_storage(file, path, entries[f"{folder}data/{key}"], storage)
    return state


def _map_storage(file: IO[bytes], path: Path, entry: zipfile.ZipInfo, storage: _Storage) -> None:
    """Let a storage's numbers be the bytes of the file where the archive keeps them."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != storage.numel * storage.dtype.itemsize:
        raise CheckpointError(f"{entry.filename} has {entry.file_size} bytes, expected {storage.numel} plain numbers")
    if not storage.numel:                                                   # no memory can be mapped to nothing
        storage.values = np.zeros(0, storage.dtype)
        return
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    name_bytes, padding_bytes = struct.unpack("<HH", header[-4:])
    start = entry.header_offset + _LOCAL_HEADER_BYTES + name_bytes + padding_bytes
    storage.values = np.memmap(path, storage.dtype, mode="r", offset=start, shape=(storage.numel,))


def _check_header(file: IO[bytes]) -> None:
    if file.read(2) == b"PK":
        raise CheckpointError("it is a zip archive that is cut short; fetch it again")
    file.seek(0)
    if _load_plain(file) != _MAGIC or _load_plain(file) != _PROTOCOL:
        raise CheckpointError("it does not start as a PyTorch file")
    if not _load_plain(file).get("little_endian", False):
        raise CheckpointError("it was written on a big-endian machine")


def _load_plain(file: IO[bytes]) -> Any:
    return _TensorUnpickler(file).load()


def _fill_storages(file: IO[bytes], storages: dict[str, _Storage]) -> None:
    """Read the numbers, in the order of the key list, into the storages that the tensors view."""
    keys = _load_plain(file)
    for key in keys:
        storage = storages[key]
        numel = struct.unpack("<q", file.read(8))[0]
        raw = file.read(numel * storage.dtype.itemsize) if numel == storage.numel else b""
        if numel != storage.numel or len(raw) != numel * storage.dtype.itemsize:
            raise CheckpointError("it is cut short; fetch it again")
        storage.values = np.frombuffer(raw, dtype=storage.dtype)


def _check_state(state: Any) -> dict[str, _View]:
    """The tensors by name; a training's checkpoint has them one level down, under `state_dict`."""
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(view, _View) for view in state.values()):
        raise CheckpointError("it is not a dictionary of tensors (a state_dict)")
    return {str(name): view for name, view in state.items()}


def _rebuild_tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_unused: Any) -> _View:
    """Stands in for PyTorch's function of that name; gradients and hooks are of no use here."""
    return _View(storage, int(offset), tuple(shape), tuple(strides))


def _rebuild_parameter(data: _View, *_unused: Any) -> _View:
    return data
