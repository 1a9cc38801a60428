"""int4 releases: hand-computed words, and matrices that were packed here by the formats' definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.int4 import Quantisation, dequantise, quantisation_of, unpack_awq, unpack_words
from minicpm_o.checkpoints.official import Checkpoint
from minicpm_o.checkpoints.official_config import config_from_official, official_values
from minicpm_o.checkpoints.official_layout import expected_tensors
from minicpm_o.checkpoints.safetensors_file import pending_array, write_shards
from minicpm_o.errors import CheckpointError
from minicpm_o.model.config import LanguageConfig, OfficialConfig


def pack_lowest_first(levels: np.ndarray, bits: int) -> np.ndarray:
    """(rows, n) levels to (rows, n * bits / 32) words, one number at a time."""
    per_word = 32 // bits
    words = np.zeros((levels.shape[0], levels.shape[1] // per_word), dtype=np.uint32)
    for row in range(words.shape[0]):
        for column in range(words.shape[1]):
            for place in range(per_word):
                words[row, column] |= np.uint32(int(levels[row, column * per_word + place]) << (bits * place))
    return words.view(np.int32)


def pack_awq(levels: np.ndarray) -> np.ndarray:
    """(rows, n) levels to (rows, n / 8) words: the places of a word hold outputs 0 2 4 6 1 3 5 7."""
    mixed = levels.reshape(levels.shape[0], -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
    return pack_lowest_first(mixed.reshape(levels.shape), 4)


def quantised(random: np.random.Generator, outputs: int, inputs: int, group: int, bits: int = 4
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Levels (in, out), zero levels and steps (groups, out), and the matrix (out, in) that they stand for."""
    top = 2**bits
    levels = random.integers(0, top, (inputs, outputs))
    zeros = random.integers(1, top, (inputs // group, outputs))
    steps = (random.integers(1, 9, (inputs // group, outputs)) / 64).astype(np.float16)
    matrix = np.empty((outputs, inputs), dtype=np.float32)
    for i in range(inputs):
        for o in range(outputs):
            matrix[o, i] = (levels[i, o] - zeros[i // group, o]) * float(steps[i // group, o])
    return levels, zeros, steps, matrix


def test_awq_word_by_hand() -> None:
    # place: 7 6 5 4 3 2 1 0 of the word 0x76543210 holds output: 7 5 3 1 6 4 2 0
    np.testing.assert_array_equal(unpack_awq(np.array([[0x76543210]], dtype=np.int32)), [[0, 4, 1, 5, 2, 6, 3, 7]])


def test_words_by_hand() -> None:
    word = np.array([[0x8F543210 - (1 << 32)]], dtype=np.int64).astype(np.int32)  # negative as a signed word
    np.testing.assert_array_equal(unpack_words(word, 4), [[0, 1, 2, 3, 4, 5, 15, 8]])
    np.testing.assert_array_equal(unpack_words(word, 8), [[0x10, 0x32, 0x54, 0x8F]])
    np.testing.assert_array_equal(unpack_words(np.array([[0b11_10_01_00]], dtype=np.int32), 2)[0, :5], [0, 1, 2, 3, 0])


def test_gptq_matrix_by_hand() -> None:
    """Eight inputs, eight outputs, one group: levels 0..7 of the inputs, zero level 3 stored as 2, step 0.5."""
    words = np.full((1, 8), 0x76543210, dtype=np.int32)
    tensors = {"qweight": words, "qzeros": np.full((1, 1), 0x22222222, dtype=np.int32),
               "scales": np.full((1, 8), 0.5, dtype=np.float16)}
    weight = dequantise(tensors.__getitem__, Quantisation("gptq", 4, -1, zero_offset=1))
    np.testing.assert_array_equal(weight, np.tile((np.arange(8) - 3) * 0.5, (8, 1)))


def test_awq_matrix_by_hand() -> None:
    """Two inputs, eight outputs, one group: levels 0 4 1 5 2 6 3 7, zero level 1, step 2."""
    tensors = {"qweight": np.full((2, 1), 0x76543210, dtype=np.int32),
               "qzeros": np.full((1, 1), 0x11111111, dtype=np.int32), "scales": np.full((1, 8), 2, dtype=np.float16)}
    weight = dequantise(tensors.__getitem__, Quantisation("awq", 4, 2))
    np.testing.assert_array_equal(weight, np.repeat([[-2], [6], [0], [8], [2], [10], [4], [12]], 2, axis=1))


def test_awq_round_trip() -> None:
    levels, zeros, steps, matrix = quantised(np.random.default_rng(1), outputs=24, inputs=32, group=16)
    tensors = {"qweight": pack_awq(levels), "qzeros": pack_awq(zeros), "scales": steps}
    np.testing.assert_array_equal(dequantise(tensors.__getitem__, Quantisation("awq", 4, 16)), matrix)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("offset", [0, 1])
def test_gptq_round_trip(bits: int, offset: int) -> None:
    levels, zeros, steps, matrix = quantised(np.random.default_rng(2), outputs=32, inputs=32, group=16, bits=bits)
    tensors = {"qweight": pack_lowest_first(levels.T, bits).T, "qzeros": pack_lowest_first(zeros - offset, bits),
               "scales": steps}
    np.testing.assert_array_equal(dequantise(tensors.__getitem__, Quantisation("gptq", bits, 16, offset)), matrix)


def test_gptq_inputs_in_another_order() -> None:
    """With act-order, g_idx gives the group of every input."""
    random = np.random.default_rng(3)
    levels, zeros, steps, matrix = quantised(random, outputs=16, inputs=32, group=8)
    order = random.permutation(32)
    tensors = {"qweight": pack_lowest_first(levels[order].T, 4).T, "qzeros": pack_lowest_first(zeros - 1, 4),
               "scales": steps, "g_idx": (order // 8).astype(np.int32)}
    quantisation = Quantisation("gptq", 4, 8, zero_offset=1)
    np.testing.assert_array_equal(dequantise(tensors.__getitem__, quantisation, has_index=True), matrix[:, order])
    tensors["g_idx"] = tensors["g_idx"] + 1
    with pytest.raises(CheckpointError, match="has 4 groups, but its g_idx names groups 1 to 4"):
        dequantise(tensors.__getitem__, quantisation, has_index=True)


def test_what_config_says() -> None:
    assert quantisation_of({}) is None
    awq = {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}}
    assert quantisation_of(awq) == Quantisation("awq", 4, 128)
    gptq = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True}}
    assert quantisation_of(gptq) == Quantisation("gptq", 4, 64, zero_offset=1)
    gptq["quantization_config"]["checkpoint_format"] = "gptq_v2"
    assert quantisation_of(gptq) == Quantisation("gptq", 4, 64)


@pytest.mark.parametrize("fields, words", [
    ({"quant_method": "bitsandbytes"}, "quantised by bitsandbytes"), ({}, "an unnamed method"),
    ({"quant_method": "awq", "version": "marlin"}, "AWQ of kind 'marlin'"), ("int4", "no table"),
    ({"quant_method": "awq", "bits": 3}, "3 bits"), ({"quant_method": "gptq", "bits": 3}, "3 bits"),
    ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "format 'marlin'"),
    ({"quant_method": "gptq", "bits": "four"}, "'four' bits"), ({"quant_method": "gptq", "group_size": 0}, "groups of"),
])
def test_unknown_quantisation_is_one_sentence(fields: object, words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        quantisation_of({"quantization_config": fields})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def small() -> OfficialConfig:
    values = {"model_type": "minicpmo", "version": "2.6", "init_vision": False, "init_audio": False, "init_tts": False}
    config = config_from_official(values)
    language = LanguageConfig(kind="qwen2", vocab_size=40, width=64, layers=1, heads=2, kv_heads=1, head_width=32,
                              ffn=96, norm_eps=1e-6, rope_theta=1e6, context_tokens=128, tied_head=False)
    return OfficialConfig(**{**config.__dict__, "language": language})


def write_release(folder: Path, method: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A folder whose linear layers are quantised; returns its tensors and the ordinary ones that they stand for."""
    random = np.random.default_rng(5)
    stored: dict[str, np.ndarray] = {}
    ordinary: dict[str, np.ndarray] = {}
    for name, shape in expected_tensors(small()).items():
        if "_proj.weight" not in name:
            stored[name] = ordinary[name] = random.standard_normal(shape).astype(np.float16).astype(np.float32)
            continue
        levels, zeros, steps, ordinary[name] = quantised(random, *shape, group=32)
        matrix = name.removesuffix(".weight")
        stored[f"{matrix}.scales"] = steps
        if method == "awq":
            stored |= {f"{matrix}.qweight": pack_awq(levels), f"{matrix}.qzeros": pack_awq(zeros)}
        else:
            stored |= {f"{matrix}.qweight": pack_lowest_first(levels.T, 4).T,
                       f"{matrix}.qzeros": pack_lowest_first(zeros - 1, 4),
                       f"{matrix}.g_idx": (np.arange(shape[1]) // 32).astype(np.int32)}
    write(folder, stored, method)
    return stored, ordinary


def write(folder: Path, stored: dict[str, np.ndarray], method: str | None) -> None:
    fields = {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 32}} if method else {}
    (folder / "config.json").write_text(json.dumps(official_values(small()) | fields))
    write_shards(folder, [pending_array(name, np.ascontiguousarray(tensor)) for name, tensor in stored.items()], 10**9)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_release_reads_as_ordinary_weights(tmp_path: Path, method: str) -> None:
    _, ordinary = write_release(tmp_path, method)
    checkpoint = Checkpoint.open(tmp_path)
    assert set(checkpoint.tensors) == set(ordinary)
    for name, tensor in ordinary.items():
        np.testing.assert_array_equal(checkpoint.read(name), tensor)
    name = "llm.model.layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(checkpoint.read(name, slice(2, 5)), ordinary[name][2:5])
    assert checkpoint.bits(name) is None
    assert checkpoint.bits("llm.model.norm.weight") is not None


def test_a_release_without_its_steps(tmp_path: Path) -> None:
    stored, _ = write_release(tmp_path, "gptq")
    del stored["llm.model.layers.0.mlp.up_proj.scales"]
    write(tmp_path, stored, "gptq")
    with pytest.raises(CheckpointError, match="lacks llm.model.layers.0.mlp.up_proj.scales"):
        Checkpoint.open(tmp_path)


def test_a_release_of_other_groups(tmp_path: Path) -> None:
    stored, _ = write_release(tmp_path, "awq")
    name = "llm.model.layers.0.self_attn.q_proj.scales"
    stored[name] = stored[name][:1]
    write(tmp_path, stored, "awq")
    with pytest.raises(CheckpointError, match="in groups of 32 has .*scales.*expected"):
        Checkpoint.open(tmp_path)


def test_a_release_without_its_quantisation(tmp_path: Path) -> None:
    stored, _ = write_release(tmp_path, "awq")
    write(tmp_path, stored, None)
    with pytest.raises(CheckpointError, match="an int4 release whose config.json lost its quantization_config"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_a_release_becomes_ordinary_torch_weights(tmp_path: Path, method: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from minicpm_o.checkpoints.torch_loader import load_official

    _, ordinary = write_release(tmp_path, method)
    state = load_official(Checkpoint.open(tmp_path), dtype=torch.float32).state_dict()
    for name, tensor in ordinary.items():
        np.testing.assert_array_equal(state["language." + name.removeprefix("llm.")].numpy(), tensor)
