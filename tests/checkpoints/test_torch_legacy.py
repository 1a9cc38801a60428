from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.torch_legacy import open_state_dict, read_state_dict
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


@pytest.mark.parametrize("zipped", [False, True])
def test_same_as_torch(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    table = torch.randn(4, 6)
    saved = {"a": torch.randn(3, 5).t(), "b": torch.arange(4), "c": torch.randn(2, 3, dtype=torch.float16),
             "row": table[2], "table": table, "none": torch.zeros(0, 3), "scalar": torch.tensor(2.5)}
    torch.save(saved, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    state = read_state_dict(tmp_path / "a.pth")
    assert list(state) == list(saved)
    for name, values in saved.items():
        assert state[name].dtype == values.numpy().dtype and type(state[name]) is np.ndarray
        np.testing.assert_array_equal(state[name], values.numpy(), err_msg=name)


@pytest.mark.parametrize("zipped", [False, True])
def test_bfloat16_and_a_wrapped_state(tmp_path: Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    weight = torch.randn(3, 4).bfloat16()
    torch.save({"state_dict": {"weight": weight}}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    state = read_state_dict(tmp_path / "a.pth")
    assert state["weight"].dtype == np.float32
    np.testing.assert_array_equal(state["weight"], weight.float().numpy())


def test_zip_of_a_module_is_read_tensor_by_tensor(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "module.pt")
    state = open_state_dict(tmp_path / "module.pt")
    assert list(state) == list(module.state_dict()) and len(state) == 7
    weight = state["0.weight"]
    np.testing.assert_array_equal(weight, module[0].weight.detach().numpy())
    weight[:] = 0                                                           # one's own copy, not the file
    assert state["0.weight"].any()


def test_zip_without_tensors_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.ones(2), "step": 3}, tmp_path / "training.pt")
    with pytest.raises(CheckpointError, match="not a dictionary of tensors"):
        read_state_dict(tmp_path / "training.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "code.pt")
    with pytest.raises(CheckpointError, match=r"it wants torch\.nn"):
        read_state_dict(tmp_path / "code.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match="not one that PyTorch wrote"):
        read_state_dict(tmp_path / "other.pt")


@pytest.mark.parametrize("kept", [100, -4, -300])
def test_truncated_zip(tmp_path: Path, kept: int) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "tiny.pt"
    torch.save({"weight": torch.ones(200)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"tiny\.pt"):
        read_state_dict(path)


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


def test_missing_cut_zip_foreign_and_not_a_state_dict(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_state_dict(tmp_path / "none.pth")
    (tmp_path / "zip.pth").write_bytes(b"PK\x03\x04" + bytes(30))
    with pytest.raises(CheckpointError, match="cut short"):
        read_state_dict(tmp_path / "zip.pth")
    (tmp_path / "other.pth").write_bytes(pickle.dumps(12) * 3)
    with pytest.raises(CheckpointError, match="does not start as a PyTorch file"):
        read_state_dict(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not a dictionary of tensors"):
        read_state_dict(write(tmp_path / "text.pth", {"x": word("no tensor")}, {}))
