"""The browser's language graph: what is stored, what opening makes of it, and what its products are worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from made_language import SHAPE, made_weights, on_grid
from safetensors.numpy import save_file

from minicpm_o.checkpoints.embeddings import FILE_NAME as EMBEDDINGS
from minicpm_o.checkpoints.embeddings import quantise_rows
from minicpm_o.errors import CheckpointError
from minicpm_o.portable.language_graph import (
    DATA_FILE,
    GPU_FILE,
    WebLanguage,
    build_web_language,
    to_levels,
    unfold_language,
)


def made_feeds() -> dict[str, np.ndarray]:
    """Five tokens after none."""
    empty = np.zeros((1, SHAPE.kv_heads, 0, SHAPE.head_width), np.float32)
    return {"inputs_embeds": np.random.default_rng(2).normal(size=(1, 5, SHAPE.width)).astype(np.float32),
            "seqlens_k": np.array([4], np.int32), "total_sequence_length": np.array(5, np.int32),
            "past_key_values.0.key": empty, "past_key_values.0.value": empty}


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, WebLanguage, dict[str, np.ndarray]]:
    """A folder with the graph, what was written, and the float weights with the change added."""
    rng = np.random.default_rng(0)
    weights = made_weights(rng)
    save_file(quantise_rows(weights["model.embed_tokens.weight"]), tmp_path / EMBEDDINGS)
    name = "model.layers.0.self_attn.k_proj.weight"
    a, b = (rng.normal(0, 0.05, shape).astype(np.float16).astype(np.float32) for shape in ((4, 64), (32, 4)))
    language = build_web_language(weights, {name: (a, b)}, SHAPE, tmp_path)
    return tmp_path, language, {**weights, name: weights[name] + b @ a}


def test_four_bits_hold_a_q4_1_matrix_whole() -> None:
    weight = on_grid(np.random.default_rng(1), (8, 64))
    levels, scales, lows = to_levels(weight)
    restored = levels * scales.astype(np.float32) + lows.astype(np.float32)
    np.testing.assert_array_equal(restored.reshape(weight.shape), weight)


def test_opening_makes_eight_bits_of_the_changed_weights(written: tuple[Path, WebLanguage, dict[str, np.ndarray]]
                                                         ) -> None:
    folder, language, weights = written
    unfold_language(folder, folder / DATA_FILE, language)
    data = np.fromfile(folder / DATA_FILE, np.uint8)
    layer = "model.layers.0.self_attn"
    expected = np.concatenate([weights[f"{layer}.{part}_proj.weight"] for part in "qkv"])
    part = language.unfoldings[0]
    (columns, rows), at = part.levels.shape, part.levels.offset
    levels = data[at : at + rows * columns].reshape(columns, rows).astype(np.float32) - 128
    scales = data[part.scales.offset : part.scales.offset + 4 * rows].view(np.float32)
    assert np.abs((levels * scales).T - expected).max() <= scales.max() / 2 * 1.001


def test_the_graph_says_nearly_what_floats_say(written: tuple[Path, WebLanguage, dict[str, np.ndarray]]) -> None:
    from minicpm_o.checkpoints.graphs.language import build_language

    folder, language, weights = written
    unfold_language(folder, folder / DATA_FILE, language)
    floats = folder / "floats"
    floats.mkdir()
    build_language(weights, SHAPE, layer_bits=None, head_bits=None, block_size=32, folder=floats)
    said = [ort.InferenceSession(str(place / "language.onnx")).run(["logits"], made_feeds())[0]
            for place in (folder, floats)]
    assert np.abs(said[0] - said[1]).max() <= 0.02 * np.abs(said[1]).max()


def test_what_was_written_survives_json(written: tuple[Path, WebLanguage, dict[str, np.ndarray]]) -> None:
    _, language, _ = written
    assert WebLanguage.from_dict(language.to_dict()) == language


def test_a_change_of_another_shape_is_refused(tmp_path: Path) -> None:
    weights = made_weights(np.random.default_rng(0))
    save_file(quantise_rows(weights["model.embed_tokens.weight"]), tmp_path / EMBEDDINGS)
    updates = {"model.layers.0.mlp.up_proj.weight": (np.zeros((2, 8)), np.zeros((SHAPE.ffn, 2)))}
    with pytest.raises(CheckpointError, match="does not fit"):
        build_web_language(weights, updates, SHAPE, tmp_path)


def test_a_cut_off_file_is_refused(written: tuple[Path, WebLanguage, dict[str, np.ndarray]]) -> None:
    folder, language, _ = written
    (folder / "language.bits").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="export the model again"):
        unfold_language(folder, folder / DATA_FILE, language)


def test_biases_are_refused(tmp_path: Path) -> None:
    weights = made_weights(np.random.default_rng(0))
    save_file(quantise_rows(weights["model.embed_tokens.weight"]), tmp_path / EMBEDDINGS)
    biases = {f"model.layers.0.self_attn.{part}_proj.bias": np.zeros(rows, np.float32)
              for part, rows in (("q", 64), ("k", 32), ("v", 32))}
    with pytest.raises(CheckpointError, match="has a bias"):
        build_web_language({**weights, **biases}, {}, replace(SHAPE, kind="qwen2"), tmp_path)


def test_the_graph_for_webgpu_says_nearly_what_floats_say(written: tuple[Path, WebLanguage, dict[str, np.ndarray]]
                                                          ) -> None:
    folder, language, _ = written
    unfold_language(folder, folder / DATA_FILE, language)
    said = [ort.InferenceSession(str(folder / name)).run(["logits"], made_feeds())[0]
            for name in ("language.onnx", GPU_FILE)]
    assert np.abs(said[0] - said[1]).max() <= 0.02 * np.abs(said[1]).max()
