"""The phone's language graph: ids and media in, and what its numbers are worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from made_language import SHAPE, made_weights
from safetensors.numpy import save_file

from minicpm_o.checkpoints.embeddings import FILE_NAME as EMBEDDINGS
from minicpm_o.checkpoints.embeddings import quantise_rows
from minicpm_o.mobile.language_graph import INPUTS, TWIN_FILE, build_phone_language
from minicpm_o.runtime.engine import Embeddings

PLACEHOLDER = 9
IDS = np.array([[5, PLACEHOLDER, PLACEHOLDER, 70, 3]])
MEDIA = np.random.default_rng(3).normal(size=(1, 2, SHAPE.width)).astype(np.float32)
ROOM = 16


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With both graphs of a tiny model that a change is added to."""
    rng = np.random.default_rng(0)
    weights = made_weights(rng)
    save_file(quantise_rows(weights["model.embed_tokens.weight"]), tmp_path / EMBEDDINGS)
    change = {"model.layers.0.self_attn.k_proj.weight": tuple(
        rng.normal(0, 0.05, shape).astype(np.float16).astype(np.float32) for shape in ((4, 64), (32, 4)))}
    build_phone_language(weights, change, SHAPE, tmp_path, PLACEHOLDER)
    return tmp_path


def caches(tokens: int) -> dict[str, np.ndarray]:
    return {f"past_key_values.0.{kind}": np.zeros((1, SHAPE.kv_heads, tokens, SHAPE.head_width), np.float32)
            for kind in ("key", "value")}


def said(session: ort.InferenceSession, ids: np.ndarray, media: np.ndarray, total: int, past: dict[str, np.ndarray]
         ) -> dict[str, np.ndarray]:
    feeds = {"ids": ids, "media": media, "total_tokens": np.array([total], np.int32), **past}
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, feeds), strict=True))


def test_ids_and_media_become_what_python_gives(folder: Path) -> None:
    embeds = Embeddings.from_file(folder / EMBEDDINGS).rows(IDS[0])
    embeds[1:3] = MEDIA[0]
    feeds = {"inputs_embeds": embeds[None], "seqlens_k": np.array([4], np.int32),
             "total_sequence_length": np.array(5, np.int32), **caches(0)}
    expected = ort.InferenceSession(str(folder / TWIN_FILE)).run(["logits"], feeds)[0]
    found = said(ort.InferenceSession(str(folder / "language.onnx")), IDS, MEDIA, 5, caches(ROOM))
    np.testing.assert_array_equal(found["logits"], expected)


def test_inputs_and_outputs_are_those_of_the_description(folder: Path) -> None:
    session = ort.InferenceSession(str(folder / "language.onnx"))
    assert [value.name for value in session.get_inputs()] == [*INPUTS, *caches(0)]
    assert {value.name for value in session.get_outputs()} == {"logits", "present.0.key", "present.0.value"}


def test_reading_in_two_runs_is_reading_in_one(folder: Path) -> None:
    session = ort.InferenceSession(str(folder / "language.onnx"))
    whole = said(session, IDS, MEDIA, 5, caches(ROOM))
    first = said(session, IDS[:, :3], MEDIA, 3, caches(ROOM))
    past = {name.replace("present", "past_key_values"): array for name, array in first.items() if name != "logits"}
    second = said(session, IDS[:, 3:], MEDIA, 5, past)
    np.testing.assert_allclose(second["logits"], whole["logits"], atol=0.02 * np.abs(whole["logits"]).max())
    for name in ("present.0.key", "present.0.value"):
        assert second[name].shape[2] == ROOM
        np.testing.assert_allclose(second[name][:, :, :5], whole[name][:, :, :5], atol=1e-4)


def test_media_that_no_id_asks_for_change_nothing(folder: Path) -> None:
    session = ort.InferenceSession(str(folder / "language.onnx"))
    plain = np.array([[5, 6, 7, 70, 3]])
    one, other = (said(session, plain, media, 5, caches(ROOM))["logits"] for media in (MEDIA, 9 * MEDIA[:, :1]))
    np.testing.assert_array_equal(one, other)
