from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.torch_legacy import read_state_dict
from minicpm_o.errors import CheckpointError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
BIAS = np.array([1.5, -2.0, 3.25], dtype=np.float32)
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
STEPS = np.array(7, dtype=np.int64)


def word(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key: str, storage: str, numel: int, offset: int, shape: Sequence[int], strides: Sequence[int]) -> bytes:
    """The opcodes by which PyTorch pickles a tensor."""
    where = b"(" + word("storage") + f"ctorch\n{storage}\n".encode() + word(key) + word("cpu") + number(numel) + b"NtQ"
    view = number(offset) + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + where + view + b"\x89ccollections\nOrderedDict\n)RtR"


def write(path: Path, entries: dict[str, bytes], storages: dict[str, np.ndarray]) -> Path:
    header = b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, {"little_endian": True}))
    items = b"".join(word(name) + opcodes for name, opcodes in entries.items())
    state = b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."
    data = b"".join(struct.pack("<q", values.size) + values.tobytes() for values in storages.values())
    path.write_bytes(header + state + pickle.dumps(list(storages), 2) + data)
    return path


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    """Three tensors in three storages, and two more that view the same storage at an offset and turned."""
    entries = {
        "weight": tensor("10", "FloatStorage", 12, 0, (3, 4), (4, 1)),
        "last_row": tensor("10", "FloatStorage", 12, 8, (4,), (1,)),
        "turned": tensor("10", "FloatStorage", 12, 0, (4, 3), (1, 4)),
        "bias": tensor("11", "FloatStorage", 3, 0, (3,), (1,)),
        "steps": tensor("12", "LongStorage", 1, 0, (), ()),
    }
    return write(tmp_path / "tiny.pth", entries, {"10": WEIGHT, "11": BIAS, "12": STEPS})


def test_tensors_views_and_types(pth: Path) -> None:
    state = read_state_dict(pth)
    assert list(state) == ["weight", "last_row", "turned", "bias", "steps"]
    np.testing.assert_array_equal(state["weight"], WEIGHT)
    np.testing.assert_array_equal(state["last_row"], WEIGHT[2])
    np.testing.assert_array_equal(state["turned"], WEIGHT.T)
    np.testing.assert_array_equal(state["bias"], BIAS)
    assert state["steps"].dtype == np.int64 and state["steps"] == 7 and state["steps"].shape == ()
    assert state["weight"].flags.writeable


def test_same_as_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    saved = {"a": torch.randn(3, 5).t(), "b": torch.arange(4), "c": torch.randn(2, 3, dtype=torch.float16)}
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    state = read_state_dict(tmp_path / "a.pth")
    assert set(state) == set(saved)
    for name, values in saved.items():
        np.testing.assert_array_equal(state[name], values.numpy(), err_msg=name)


def test_code_in_the_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    evil = b"cpathlib\nPath.touch\n(cpathlib\nPath\n(" + word(str(marker)) + b"tRtR"
    with pytest.raises(CheckpointError, match=r"pathlib\.Path"):
        read_state_dict(write(tmp_path / "evil.pth", {"x": evil}, {}))
    assert not marker.exists()


def test_view_outside_its_numbers_is_refused(tmp_path: Path) -> None:
    for offset, shape, strides in ((1, (3,), (1,)), (0, (2, 2), (2, 1)), (-1, (2,), (1,)), (2, (2,), (-1,))):
        entries = {"bias": tensor("1", "FloatStorage", 3, offset, shape, strides)}
        with pytest.raises(CheckpointError, match="outside its numbers"):
            read_state_dict(write(tmp_path / "bad.pth", entries, {"1": BIAS}))


@pytest.mark.parametrize("kept", [0, 5, 60, -4, -30])
def test_truncated(pth: Path, kept: int) -> None:
    pth.write_bytes(pth.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"tiny\.pth"):
        read_state_dict(pth)


def test_missing_zip_foreign_and_not_a_state_dict(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_state_dict(tmp_path / "none.pth")
    (tmp_path / "zip.pth").write_bytes(b"PK\x03\x04" + bytes(30))
    with pytest.raises(CheckpointError, match="newer zip kind"):
        read_state_dict(tmp_path / "zip.pth")
    (tmp_path / "other.pth").write_bytes(pickle.dumps(12) * 3)
    with pytest.raises(CheckpointError, match="legacy PyTorch"):
        read_state_dict(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not a dictionary of tensors"):
        read_state_dict(write(tmp_path / "text.pth", {"x": word("no tensor")}, {}))
