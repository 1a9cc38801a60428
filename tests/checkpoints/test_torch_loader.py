"""Official weights into the torch network and back out: bit by bit, on one device, with words when they do not fit."""

from __future__ import annotations

import json
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.checkpoints import torch_loader  # noqa: E402
from minicpm_o.checkpoints.official import INDEX, Checkpoint  # noqa: E402
from minicpm_o.checkpoints.official_layout import expected_tensors, to_official  # noqa: E402
from minicpm_o.checkpoints.random_official import write_random_checkpoint  # noqa: E402
from minicpm_o.checkpoints.safetensors_file import bfloat16_to_float32, pending_array, write_shards  # noqa: E402
from minicpm_o.checkpoints.torch_loader import (  # noqa: E402
    Placement,
    check_fits,
    dispatch,
    empty_weights,
    load_official,
    place,
    save_official,
)
from minicpm_o.errors import CheckpointError, DiskFullError, MissingExtraError  # noqa: E402
from minicpm_o.model.omni import OmniModel  # noqa: E402


@pytest.fixture(scope="module", params=["2.6", "4.5"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("loader") / request.param
    write_random_checkpoint(folder, request.param)
    return Checkpoint.open(folder)


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().view(torch.int16).numpy().view(np.uint16)


def test_every_tensor_arrives(checkpoint: Checkpoint) -> None:
    model = load_official(checkpoint)
    state = model.state_dict()
    assert {to_official(name, checkpoint.config.version) for name in state} == set(expected_tensors(checkpoint.config))
    for name, tensor in state.items():
        kind, bits = checkpoint.bits(to_official(name, checkpoint.config.version)) or ("", np.zeros(0))
        assert kind == "BF16" and tensor.dtype == torch.bfloat16
        np.testing.assert_array_equal(bits_of(tensor), bits)
    assert not model.training
    assert all(tensor.device.type == "cpu" for tensor in [*model.parameters(), *model.buffers()])


def test_another_dtype_is_cast(checkpoint: Checkpoint) -> None:
    model = load_official(checkpoint, dtype=torch.float32)
    _, bits = checkpoint.bits("llm.model.norm.weight") or ("", np.zeros(0))
    np.testing.assert_array_equal(model.language.model.norm.weight.detach().numpy(), bfloat16_to_float32(bits))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_loading_is_as_torch_loads(checkpoint: Checkpoint) -> None:
    """The same module, built and filled by torch's own means, gives the same numbers."""
    ours = load_official(checkpoint, dtype=torch.float32)
    plain = OmniModel(checkpoint.config).eval()
    plain.load_state_dict(ours.state_dict())
    ids = torch.tensor([[1, 5, 9, 2]])
    with torch.inference_mode():
        got, expected = (model.language(inputs_embeds=model.embed(ids)).logits for model in (ours, plain))
    assert torch.isfinite(got).all() and got.std() > 0.1
    torch.testing.assert_close(got, expected, atol=0, rtol=0)


def test_rotary_frequencies_stay_exact(checkpoint: Checkpoint) -> None:
    buffers = dict(load_official(checkpoint).named_buffers())
    frequencies = buffers["language.model.rotary_emb.inv_freq"]
    half = len(frequencies)
    expected = checkpoint.config.language.rope_theta ** -(np.arange(half) / half)
    np.testing.assert_allclose(frequencies.numpy(), expected, rtol=1e-6)


def test_building_takes_no_memory(checkpoint: Checkpoint) -> None:
    config = replace(checkpoint.config, language=replace(checkpoint.config.language, layers=4, width=1024, ffn=4096))
    with empty_weights():
        model = OmniModel(replace(config, vision=None, resampler=None, hearing=None, talker=None, chattts=None))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
    assert not torch.nn.Linear(2, 2).weight.is_meta


def test_parts_that_are_off_are_not_there(checkpoint: Checkpoint) -> None:
    model = load_official(Checkpoint.open(checkpoint.folder, vision=False, hearing=False, speech=False))
    assert {name.split(".")[0] for name in model.state_dict()} == {"language"}


def test_saved_is_loaded(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = load_official(checkpoint)
    files = save_official(model.state_dict(), checkpoint.config, tmp_path, values=checkpoint.values,
                          max_shard_bytes=1_000_000)
    assert len(files) > 1 and (tmp_path / INDEX).is_file()
    again = Checkpoint.open(tmp_path)
    assert again.config == checkpoint.config and again.values == checkpoint.values
    assert set(again.tensors) == set(checkpoint.tensors)
    for name in checkpoint.tensors:
        (kind, bits), (old_kind, old_bits) = again.bits(name) or ("", 0), checkpoint.bits(name) or ("", 1)
        assert kind == old_kind
        np.testing.assert_array_equal(bits, old_bits)


def test_saving_over_leaves_nothing_stale(checkpoint: Checkpoint, tmp_path: Path) -> None:
    state = load_official(checkpoint).state_dict()
    save_official(state, checkpoint.config, tmp_path, max_shard_bytes=1_000_000)
    save_official(state, checkpoint.config, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert len(Checkpoint.open(tmp_path).tensors) == len(state)


def test_float32_is_saved_as_float32(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_official(load_official(checkpoint, dtype=torch.float32).state_dict(), checkpoint.config, tmp_path,
                  values=checkpoint.values)
    again = Checkpoint.open(tmp_path)
    assert again.values["torch_dtype"] == "float32"
    assert (again.bits("llm.lm_head.weight") or ("",))[0] == "F32"
    assert load_official(again).language.lm_head.weight.dtype == torch.float32


def test_no_room_to_save(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minicpm_o.checkpoints.storage.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match="no room to write"):
        save_official(load_official(checkpoint).state_dict(), checkpoint.config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def rewrite(checkpoint: Checkpoint, folder: Path, without: set[str], **values: object) -> Checkpoint:
    """The checkpoint again, less some tensors."""
    folder.mkdir()
    kept = [(name, checkpoint.bits(name) or ("", np.zeros(0))) for name in checkpoint.tensors if name not in without]
    write_shards(folder, [pending_array(name, bits, kind) for name, (kind, bits) in kept], 10**9)
    (folder / "config.json").write_text(json.dumps({**checkpoint.values, **values}))
    return Checkpoint.open(folder)


def test_the_unread_table_may_be_absent(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name = "tts.model.embed_tokens.weight"
    thinner = rewrite(checkpoint, tmp_path / "thin", {name})
    assert name not in thinner
    model = load_official(thinner)
    speech = model.talker if checkpoint.config.talker else model.chattts
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert not speech.model.embed_tokens.weight.any()


def test_a_shared_head_is_one_table(checkpoint: Checkpoint, tmp_path: Path) -> None:
    shared = load_official(rewrite(checkpoint, tmp_path / "one", {"llm.lm_head.weight"}, tie_word_embeddings=True))
    assert shared.language.lm_head.weight is shared.language.model.embed_tokens.weight
    save_official(shared.state_dict(), shared.config, tmp_path / "saved")
    table, head = (Checkpoint.open(tmp_path / "saved").tensors[name].source
                   for name in ("llm.model.embed_tokens.weight", "llm.lm_head.weight"))
    assert table == head == "llm.model.embed_tokens.weight"
    own = load_official(rewrite(checkpoint, tmp_path / "two", set(), tie_word_embeddings=True))
    assert not torch.equal(own.language.lm_head.weight, own.language.model.embed_tokens.weight)


def test_a_tensor_is_read_once_and_alone(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the model itself, loading holds little more than its largest tensor."""
    total = checkpoint.num_bytes()
    largest = max(int(np.prod(stored.shape)) * 4 for stored in checkpoint.tensors.values())
    seen: list[str] = []
    bits = Checkpoint.bits
    monkeypatch.setattr(Checkpoint, "bits", lambda self, name: seen.append(name) or bits(self, name))
    tracemalloc.start()  # numpy's arrays, which become the model's memory
    try:
        model = load_official(checkpoint)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sorted(seen) == sorted(checkpoint.tensors)
    assert peak < total + largest + 20_000_000, (peak, total, largest)
    del model


def test_devices_by_name() -> None:
    table = {"": torch.device("cpu"), "language": torch.device("meta"), "language.model.layers.1": torch.device("cpu")}
    placement = Placement(table)
    assert placement("vision.embeddings.weight").type == "cpu"
    assert placement("language.lm_head.weight").type == "meta"
    assert placement("language.model.layers.1.mlp.up_proj.weight").type == "cpu"
    assert placement("language.model.layers.11.mlp.up_proj.weight").type == "meta"
    assert placement.is_split
    with pytest.raises(CheckpointError, match="no device for 'vision'; it has .'language'."):
        Placement({"language": torch.device("cpu")})("vision")


def test_several_devices_are_accelerates_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.ModuleDict({"vision": torch.nn.Linear(2, 2), "language": torch.nn.Linear(2, 2)})
    split = Placement({"vision": torch.device("cpu"), "language": torch.device("meta")}, main=torch.device("meta"))
    seen: list[tuple[object, dict[str, str], object]] = []
    fake = SimpleNamespace(dispatch_model=lambda model, table, *, main_device, force_hooks: seen.append(
        (model, table, main_device)))
    monkeypatch.setitem(sys.modules, "accelerate", fake)
    assert dispatch(model, Placement({"": torch.device("cpu")})) is model and not seen
    assert dispatch(model, split) is model
    assert seen == [(model, {"vision": "cpu", "language": "meta"}, torch.device("meta"))]
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match="needs the package accelerate"):
        dispatch(model, split)


@pytest.mark.parametrize("device_map, words", [
    ("gpu", "there is no device 'gpu'"), ({"": "nowhere"}, "there is no device 'nowhere'"),
    (2.5, "there is no device 2.5"),
])
def test_unknown_devices(device_map: object, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        place(torch.nn.Linear(2, 2), device_map, torch.float32)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="this machine has no cuda device that torch can use"):
        load_official(checkpoint, device_map="cuda:0")


def test_auto_finds_a_place(checkpoint: Checkpoint) -> None:
    model = load_official(checkpoint, device_map="auto", dtype=torch.float32)
    assert len({parameter.device for parameter in model.parameters()}) == 1


def test_weights_that_do_not_fit(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_loader, "free_bytes", lambda device: 1_000_000)
    read: list[str] = []
    monkeypatch.setattr(Checkpoint, "bits", lambda self, name: read.append(name))
    with pytest.raises(CheckpointError) as caught:
        load_official(checkpoint, dtype=torch.float32, device_map="cpu")
    text = str(caught.value)
    assert "the weights do not fit on cpu" in text and "language 0.0 GB" in text and "0.0 GB are free" in text
    assert "dtype=torch.bfloat16" in text and "minicpm-o export --bits 4" in text and "\n" not in text
    assert not read


def test_what_fits_is_let_through() -> None:
    model = torch.nn.Linear(1000, 1000)
    check_fits(model, Placement({"": torch.device("cpu")}), torch.float32)


def test_memory_that_runs_out_meanwhile(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch_loader, "read_tensor", fail)
    with pytest.raises(CheckpointError, match="ran out of memory while they were loaded"):
        load_official(checkpoint)


def test_a_dtype_that_is_none(checkpoint: Checkpoint, tmp_path: Path) -> None:
    odd = rewrite(checkpoint, tmp_path / "odd", set(), torch_dtype="int4")
    with pytest.raises(CheckpointError, match="says that the weights are 'int4', expected bfloat16"):
        load_official(odd)
