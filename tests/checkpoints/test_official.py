"""Tensors of the official checkpoints: the tables against the published lists, and folders that are not whole."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.official import INDEX, Checkpoint
from minicpm_o.checkpoints.official_config import config_from_official, official_values
from minicpm_o.checkpoints.official_layout import expected_tensors, to_official, to_ours
from minicpm_o.checkpoints.safetensors_file import (
    SafetensorsFile,
    bfloat16_to_float32,
    float32_to_bfloat16,
    is_finite,
    pending_array,
    write_file,
    write_shards,
)
from minicpm_o.checkpoints.voice_layout import flow_tensors, hift_tensors
from minicpm_o.errors import CheckpointError
from minicpm_o.model.config import (
    FlowConfig,
    HiftConfig,
    LanguageConfig,
    OfficialConfig,
    SiglipConfig,
    WhisperEncoderConfig,
)

KEYS_VARIABLE = "MINICPM_O_KEYS"
"""A folder with keys-2.6.txt, keys-4.5.txt, keys-token2wav-flow.txt and keys-token2wav-hift.txt."""
DIGESTS = {
    "keys-2.6.txt": (1599, "c75d7409acac721b4d4b9dc19d22c7378a5413ee8d9f83f5f0bf57e05f7065fe"),
    "keys-4.5.txt": (1414, "57800282cfcfe09887f3bf4e1786b3953e128623b7d3bf3d3a6457be5a70ccaa"),
    "keys-token2wav-flow.txt": (605, "7390fae5c6c0c09d9ebe75c89c5af5947f082a8fcf1d37ab61b7173d2a54e396"),
    "keys-token2wav-hift.txt": (328, "a75160fe347428cca1df94f63bb77ac04dcb82f2661256267c2b9b684041ca4c"),
}
PARTS = {
    "2.6": {"llm": 339, "vpm": 437, "resampler": 13, "apm": 367, "audio_projection_layer": 4, "tts": 439},
    "4.5": {"llm": 399, "vpm": 437, "resampler": 13, "apm": 367, "audio_projection_layer": 4, "tts": 194},
}


def full(version: str) -> OfficialConfig:
    return config_from_official({"model_type": "minicpmo", "version": version})


def small(version: str = "4.5") -> OfficialConfig:
    """A model without a voice, small enough to write for every test."""
    kind = "qwen3" if version == "4.5" else "qwen2"
    return replace(
        full(version), talker=None, chattts=None, flow=None, hift=None, vocos=None,
        language=LanguageConfig(kind=kind, vocab_size=50, width=128, layers=2, heads=2, kv_heads=1, head_width=64,
                                ffn=48, norm_eps=1e-6, rope_theta=1e6, context_tokens=512, tied_head=False),
        vision=SiglipConfig(width=16, ffn=24, layers=2, heads=2, image_px=28, patch_px=14),
        hearing=WhisperEncoderConfig(width=16, heads=2, layers=1, ffn=32, max_frames=20))


def tables() -> dict[str, dict[str, tuple[int, ...]]]:
    return {"keys-2.6.txt": expected_tensors(full("2.6")), "keys-4.5.txt": expected_tensors(full("4.5")),
            "keys-token2wav-flow.txt": flow_tensors(FlowConfig()),
            "keys-token2wav-hift.txt": hift_tensors(HiftConfig())}


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a folder of random weights; `change` may alter the tensors, `values` the config.json."""

    def make(config: OfficialConfig, *, change: Callable[[dict[str, np.ndarray]], None] = lambda tensors: None,
             max_bytes: int = 10**9, **values: object) -> Path:
        random = np.random.default_rng(7)
        tensors = {name: random.standard_normal(shape).astype(np.float32)
                   for name, shape in expected_tensors(config).items()}
        change(tensors)
        write_shards(tmp_path, [pending_array(name, tensor) for name, tensor in tensors.items()], max_bytes)
        (tmp_path / "config.json").write_text(json.dumps(official_values(config) | values))
        return tmp_path

    return make


def complaint(folder: Path, **switches: bool) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder, **switches)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", DIGESTS)
def test_tables_are_those_of_the_published_lists(name: str) -> None:
    table = tables()[name]
    text = "\n".join(sorted(f"{tensor} {shape}" for tensor, shape in table.items()))
    assert (len(table), hashlib.sha256(text.encode()).hexdigest()) == DIGESTS[name]


@pytest.mark.parametrize("name", DIGESTS)
def test_tables_equal_the_published_lists(name: str) -> None:
    if not os.environ.get(KEYS_VARIABLE):
        pytest.skip(f"{KEYS_VARIABLE} names no folder with {name}")
    lines = (Path(os.environ[KEYS_VARIABLE]) / name).read_text().splitlines()
    published = {line.split(" ", 1)[0]: tuple(map(int, re.findall(r"\d+", line.split(" ", 1)[1]))) for line in lines}
    assert tables()[name] == published


@pytest.mark.parametrize("version", PARTS)
def test_parts_have_their_counts(version: str) -> None:
    names = expected_tensors(full(version))
    assert Counter(name.split(".")[0] for name in names) == PARTS[version]


@pytest.mark.parametrize("version", PARTS)
def test_names_go_to_ours_and_back(version: str) -> None:
    names = list(expected_tensors(full(version)))
    ours = [to_ours(name, version) for name in names]
    assert len(set(ours)) == len(names)
    assert [to_official(name, version) for name in ours] == names
    roots = {name.split(".")[0] for name in ours}
    assert roots == {"language", "vision", "hearing", "connectors", "talker" if version == "4.5" else "chattts"}
    with pytest.raises(KeyError):
        to_ours("model.layers.0.weight", version)
    with pytest.raises(KeyError):
        to_official("lm_head.weight", version)


@pytest.mark.parametrize("version", PARTS)
@pytest.mark.parametrize("max_bytes", [10**9, 20_000])
def test_reads_what_was_written(write: Write, version: str, max_bytes: int) -> None:
    kept: dict[str, np.ndarray] = {}
    folder = write(small(version), change=kept.update, max_bytes=max_bytes)
    checkpoint = Checkpoint.open(folder)
    assert (folder / INDEX).is_file() == (max_bytes < 10**9)
    assert checkpoint.config == small(version)
    assert set(checkpoint.tensors) == set(kept)
    for name, tensor in kept.items():
        np.testing.assert_array_equal(checkpoint.read(name), tensor)
    part = checkpoint.part("vpm.")
    assert set(part) == {name[4:] for name in kept if name.startswith("vpm.")}
    assert part.shape("post_layernorm.bias") == (16,)
    np.testing.assert_array_equal(part.rows("encoder.layers.1.mlp.fc1.weight", 3, 9),
                                  kept["vpm.encoder.layers.1.mlp.fc1.weight"][3:9])
    with pytest.raises(KeyError):
        part["lm_head.weight"]
    with pytest.raises(CheckpointError, match="has no tensor 'tts.emb_text.weight'"):
        checkpoint.read("tts.emb_text.weight")


def test_kinds_of_numbers(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0, 3.0e-3], [0.0, 1e30, -7.25]], dtype=np.float32)
    write_file(tmp_path / "a.safetensors", [
        pending_array("bf16", float32_to_bfloat16(values), "BF16"), pending_array("f32", values),
        pending_array("i32", np.array([-3, 9], dtype=np.int32)), pending_array("scalar", np.array(2.5))])
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert {name: info.dtype for name, info in file.infos.items()} == {"bf16": "BF16", "f32": "F32", "i32": "I32",
                                                                       "scalar": "F64"}
    np.testing.assert_allclose(bfloat16_to_float32(file.raw("bf16")), values, rtol=2**-8)
    np.testing.assert_array_equal(file.raw("f32", slice(1, 2)), values[1:])
    np.testing.assert_array_equal(file.raw("i32"), [-3, 9])
    assert file.raw("scalar") == 2.5


def test_bfloat16_rounds_to_the_nearest_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF80FFFF], dtype=np.uint32)
    np.testing.assert_array_equal(float32_to_bfloat16(bits.view(np.float32)), [0x3F80, 0x3F82, 0x3F81, 0xBF81])
    exact = np.arange(0x3000, 0x4000, 7, dtype=np.uint16)
    np.testing.assert_array_equal(float32_to_bfloat16(bfloat16_to_float32(exact)), exact)


def test_safetensors_reads_what_we_write(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b.c": np.array([7], dtype=np.int64)}
    write_file(tmp_path / "a.safetensors", [pending_array(name, value) for name, value in values.items()])
    loaded = load_file(tmp_path / "a.safetensors")
    assert set(loaded) == set(values)
    for name, value in values.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_a_part_that_is_switched_off_is_not_looked_for(write: Write) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if name.startswith(("vpm.", "resampler."))]:
            del tensors[name]

    folder = write(small(), change=change)
    assert "vision=False" in complaint(folder)
    checkpoint = Checkpoint.open(folder, vision=False)
    assert checkpoint.config.vision is None and checkpoint.config.resampler is None
    assert not checkpoint.part("vpm.")


def test_tensors_of_a_part_that_is_off_are_left_alone(write: Write) -> None:
    checkpoint = Checkpoint.open(write(small(), init_audio=False))
    assert checkpoint.config.hearing is None
    assert not checkpoint.part("apm.") and checkpoint.part("vpm.")


def test_the_eye_may_drop_its_last_layer(write: Write) -> None:
    checkpoint = Checkpoint.open(write(small(), drop_vision_last_layer=True))
    assert checkpoint.config.vision is not None and checkpoint.config.vision.layers == 1
    assert "encoder.layers.0.layer_norm1.bias" in checkpoint.part("vpm.")
    assert "encoder.layers.1.layer_norm1.bias" not in checkpoint.part("vpm.")


def test_a_stored_head_counts_and_a_shared_one_is_found(write: Write) -> None:
    folder = write(small(), tie_word_embeddings=True)
    weights = Checkpoint.open(folder).part("llm.")
    assert not np.array_equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    folder = write(small(), change=lambda tensors: tensors.__delitem__("llm.lm_head.weight"),
                   tie_word_embeddings=True)
    weights = Checkpoint.open(folder).part("llm.")
    np.testing.assert_array_equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])


def test_missing_tensors_are_named(write: Write) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        for name in ("llm.lm_head.weight", "apm.conv1.bias", "llm.model.norm.weight", "vpm.post_layernorm.bias"):
            del tensors[name]

    text = complaint(write(small(), change=change))
    total = len(expected_tensors(small()))
    assert f"4 of {total} tensors are missing (apm.conv1.bias, llm.lm_head.weight, llm.model.norm.weight, …)" in text
    assert "download it again" in text


def test_unknown_tensors_are_named(write: Write) -> None:
    text = complaint(write(small(), change=lambda tensors: tensors.update({"llm.extra.weight": np.zeros(3)})))
    assert "1 are not of this model (llm.extra.weight)" in text


def test_a_wrong_shape_is_named(write: Write) -> None:
    text = complaint(write(small(), change=lambda tensors: tensors.update({
        "audio_projection_layer.linear1.bias": np.zeros(5, dtype=np.float32)})))
    assert "1 have another shape (audio_projection_layer.linear1.bias has (5,), expected (128,))" in text
    assert "config.json of another size" in text


def test_the_other_version_is_recognised(write: Write) -> None:
    text = complaint(write(small("4.5"), version="2.6"))
    assert "it looks like the weights of 4.5 beside the config.json of 2.6" in text
    text = complaint(write(small("2.6"), version="4.5", head_dim=64, stream_input=True))
    assert "it looks like the weights of 2.6 beside the config.json of 4.5" in text


def test_another_models_weights_are_recognised(write: Write) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors.clear()
        tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((2, 2), dtype=np.float32)

    assert "the weights of another model" in complaint(write(small(), change=change))


def test_another_models_config(write: Write) -> None:
    text = complaint(write(small(), model_type="qwen3"))
    assert "is of a model of type 'qwen3', expected 'minicpmo'" in text
    folder = write(small())
    (folder / "config.json").write_text("[1]")
    assert "config.json is damaged" in complaint(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in complaint(folder)


def test_an_absent_shard_is_named(write: Write) -> None:
    folder = write(small(), max_bytes=200_000)
    shards = sorted(folder.glob("model-*.safetensors"))
    shards[1].unlink()
    assert f"lacks 1 of its {len(shards)} shards ({shards[1].name})" in complaint(folder)


def test_a_truncated_shard_is_named(write: Write) -> None:
    folder = write(small(), max_bytes=200_000)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    size = shard.stat().st_size
    with shard.open("r+b") as file:
        file.truncate(size - 100)
    text = complaint(folder)
    assert shard.name in text and f"it has {size - 100} bytes, its header promises {size}" in text


@pytest.mark.parametrize("content, words", [
    (b"", "damaged"), (b"\xff" * 64, "damaged"), (struct.pack("<Q", 10) + b"not json!!", "damaged header"),
    (struct.pack("<Q", 99) + b'{"a":1}', "damaged"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
])
def test_a_corrupt_header_is_one_sentence(write: Write, content: bytes, words: str) -> None:
    folder = write(small())
    (folder / "model.safetensors").write_bytes(content)
    text = complaint(folder)
    assert words in text and "model.safetensors" in text


@pytest.mark.parametrize("entry", [
    {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [2]}, {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}, 5,
])
def test_an_impossible_tensor_is_named(write: Write, entry: object) -> None:
    folder = write(small())
    header = json.dumps({"a": entry}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "damaged header" in complaint(folder)


def test_an_index_that_lies_is_named(write: Write) -> None:
    folder = write(small(), max_bytes=200_000)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["llm.extra"] = index["weight_map"]["llm.lm_head.weight"]
    (folder / INDEX).write_text(json.dumps(index))
    assert "names 1 tensors that are not in their shards (llm.extra)" in complaint(folder)
    index["weight_map"] = {"a": "../elsewhere.safetensors"}
    (folder / INDEX).write_text(json.dumps(index))
    assert "lacks 1 of its 1 shards" in complaint(folder)
    (folder / INDEX).write_text("{")
    assert f"{INDEX} is damaged" in complaint(folder)


def test_no_weights_at_all(write: Write) -> None:
    folder = write(small())
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert f"no {INDEX} that says what is in them" in complaint(folder)
    (folder / "weights.safetensors").rename(folder / "pytorch_model.bin")
    assert "it has pytorch_model.bin, and this reads safetensors alone" in complaint(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "has no weights" in complaint(folder)


@pytest.mark.parametrize("field, value, words", [
    ("vision_config", [1], "is damaged"), ("audio_config", 3, "is damaged"), ("rope_parameters", "a", "is damaged"),
    ("num_hidden_layers", float("inf"), "is damaged"), ("hidden_size", 0, "width of language is 0, expected 1 or more"),
    ("num_hidden_layers", -1, "layers of language is -1"), ("num_attention_heads", 0, "heads of language is 0"),
    ("rms_norm_eps", float("nan"), "norm_eps of language is nan, expected a finite number above 0"),
    ("rope_theta", 0, "rope_theta of language is 0.0"), ("audio_pool_step", 0, "pool_step of hearing is 0"),
    ("num_key_value_heads", 3, "the 2 heads of language cannot share 3 heads of keys"),
    ("vision_config", {"hidden_size": 16, "num_attention_heads": 3},
     "the width 16 of vision cannot be shared by 3 heads"),
])
def test_an_impossible_config_is_one_sentence(write: Write, field: str, value: object, words: str) -> None:
    text = complaint(write(small(), **{field: value}))
    assert words in text and text.endswith("download it again")


def test_numbers_that_are_not_finite_are_refused(write: Write) -> None:
    name = "vpm.encoder.layers.1.mlp.fc1.weight"

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[name][3, 2] = -np.inf

    checkpoint = Checkpoint.open(write(small(), change=spoil))
    for read in (checkpoint.read, checkpoint.bits):
        with pytest.raises(CheckpointError, match=f"{name} in .* holds numbers that are not finite"):
            read(name)
    assert checkpoint.read(name, slice(0, 3)).shape == (3, 16)
    assert checkpoint.read("vpm.encoder.layers.0.mlp.fc1.weight").shape == (24, 16)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_finite_bits(dtype: str) -> None:
    large = np.array([0.0, -0.0, 1, -1, 6e4, -6e4])
    kinds = {"F64": np.float64, "F32": np.float32, "F16": np.float16}

    def bits(values: np.ndarray) -> np.ndarray:
        if dtype == "BF16":
            return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(kinds[dtype])

    assert is_finite(bits(large), dtype) and is_finite(bits(large[:0]), dtype)
    for bad in (np.nan, -np.nan, np.inf, -np.inf):
        assert not is_finite(bits(np.append(large, bad)), dtype)


def test_whole_numbers_for_weights_are_refused(write: Write) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors["llm.model.layers.0.mlp.up_proj.weight"] = np.ones((48, 128), np.int8)

    text = complaint(write(small(), change=spoil))
    assert "1 tensors of whole numbers" in text and "(llm.model.layers.0.mlp.up_proj.weight)" in text


def test_an_unknown_kind_of_numbers_is_no_damage(write: Write) -> None:
    folder = write(small(), change=lambda tensors: tensors.update({"llm.x": np.ones(8, np.uint8)}))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"U8","shape":[8]', b'"F8","shape":[8]'))
    text = complaint(folder)
    assert "holds numbers of kind F8 (llm.x)" in text and "use the release with ordinary weights" in text
