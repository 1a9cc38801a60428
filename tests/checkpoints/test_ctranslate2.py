from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.ctranslate2 import read_variables, whisper_config, whisper_tensors
from minicpm_o.errors import CheckpointError

E, FFN, V, M = 8, 12, 20, 5


@pytest.fixture
def variables(whisper_variables: Callable[..., dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A Whisper of one encoder and one decoder layer, as CTranslate2 lays it out."""
    return whisper_variables(width=E, ffn=FFN, vocab=V, mels=M, layers=1, frames=7, text_tokens=9)


@pytest.fixture
def model_bin(tmp_path: Path, write_ct2: Callable[..., Path], variables: dict[str, np.ndarray]) -> Path:
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"}
    return write_ct2(tmp_path / "model.bin", variables, aliases)


def test_variables_come_back_as_they_were_written(model_bin: Path, variables: dict[str, np.ndarray]) -> None:
    found = read_variables(model_bin)
    assert set(found) == {*variables, "decoder/projection/weight"}
    for name, values in variables.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_config(model_bin: Path) -> None:
    config = whisper_config(read_variables(model_bin))
    assert (config.width, config.heads, config.ffn, config.mel_bins, config.vocab_size) == (E, 2, FFN, M, V)
    assert (config.encoder_layers, config.decoder_layers) == (1, 1)
    assert (config.max_encoder_frames, config.max_text_tokens) == (7, 9)


def test_stacked_projections_are_split(model_bin: Path, variables: dict[str, np.ndarray]) -> None:
    tensors = whisper_tensors(read_variables(model_bin))
    stacked = variables["decoder/layer_0/self_attention/linear_0/weight"].astype(np.float32)
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        found = tensors[f"model.decoder.layers.0.self_attn.{name}.weight"]
        np.testing.assert_array_equal(found, stacked[i * E : (i + 1) * E])
    cross = variables["decoder/layer_0/attention/linear_1/weight"].astype(np.float32)
    np.testing.assert_array_equal(tensors["model.decoder.layers.0.encoder_attn.v_proj.weight"], cross[E:])


def test_names_and_shapes_are_those_of_transformers(model_bin: Path) -> None:
    expected: dict[str, tuple[int, ...]] = {
        "encoder.conv1.weight": (E, M, 3),
        "encoder.conv1.bias": (E,),
        "encoder.conv2.weight": (E, E, 3),
        "encoder.conv2.bias": (E,),
        "encoder.embed_positions.weight": (7, E),
        "decoder.embed_positions.weight": (9, E),
        "decoder.embed_tokens.weight": (V, E),
    }
    attentions = [("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "encoder_attn")]
    for half, attention in attentions:
        prefix = f"{half}.layers.0.{attention}"
        expected |= {f"{prefix}.{name}_proj.weight": (E, E) for name in ("q", "k", "v", "out")}
        expected |= {f"{prefix}.{name}_proj.bias": (E,) for name in ("q", "v", "out")}
        expected |= {f"{prefix}_layer_norm.{leaf}": (E,) for leaf in ("weight", "bias")}
    for half in ("encoder", "decoder"):
        layer = f"{half}.layers.0"
        expected |= {f"{layer}.fc1.weight": (FFN, E), f"{layer}.fc1.bias": (FFN,)}
        expected |= {f"{layer}.fc2.weight": (E, FFN), f"{layer}.fc2.bias": (E,)}
        expected |= {f"{layer}.final_layer_norm.{leaf}": (E,) for leaf in ("weight", "bias")}
        expected |= {f"{half}.layer_norm.{leaf}": (E,) for leaf in ("weight", "bias")}
    found = {name.removeprefix("model."): t.shape for name, t in whisper_tensors(read_variables(model_bin)).items()}
    assert found == expected


def test_a_key_bias_is_refused(tmp_path: Path, write_ct2: Callable[..., Path],
                               variables: dict[str, np.ndarray]) -> None:
    variables["decoder/layer_0/attention/linear_1/bias"][0] = 1
    with pytest.raises(CheckpointError, match=r"k_proj\.bias is not zero"):
        whisper_tensors(read_variables(write_ct2(tmp_path / "model.bin", variables, {})))


@pytest.mark.parametrize("cut", [1, 100, 3_000])
def test_truncated(model_bin: Path, cut: int) -> None:
    model_bin.write_bytes(model_bin.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match="inside a record; fetch it again"):
        read_variables(model_bin)


def test_empty_missing_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "foreign").write_bytes(b"\x06\0\0\0\x04\0abcd" + bytes(100))
    for name, words in (("empty", "is empty"), ("foreign", "not a CTranslate2 model"), ("none", "does not exist")):
        with pytest.raises(CheckpointError, match=words):
            read_variables(tmp_path / name)


def test_old_version_wrong_size_and_dangling_alias(tmp_path: Path, write_ct2: Callable[..., Path]) -> None:
    one = {"encoder/conv1/bias": np.zeros(4, np.float32)}
    with pytest.raises(CheckpointError, match="version 4 to 6"):
        read_variables(write_ct2(tmp_path / "a", one, {}, version=2))
    with pytest.raises(CheckpointError, match="alias"):
        read_variables(write_ct2(tmp_path / "b", one, {"x": "y"}))
    path = write_ct2(tmp_path / "c", one, {})
    path.write_bytes(path.read_bytes().replace(b"\x01\x04\0\0\0\0\x10", b"\x01\x05\0\0\0\0\x10"))
    with pytest.raises(CheckpointError, match="cannot have 16 bytes"):
        read_variables(path)


def test_unknown_variable_is_refused() -> None:
    with pytest.raises(CheckpointError, match="weight_scale"):
        whisper_tensors({"encoder/layer_0/ffn/linear_0/weight_scale": np.zeros(3, np.float32)})
