from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.errors import CheckpointError
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.speech.piper import BESIDE_LATENTS, SAMPLES_PER_LATENT, Piper, to_ipa


@pytest.mark.parametrize(
    ("phonemes", "ipa"),
    [
        ("fˈAs", "fˈeɪs"),
        ("tʃ", "tʃ"),
        ("ʧˈIld", "tʃˈaɪld"),
        ("wˈɜɹld", "wˈɜːld"),
        ("bˈɛɾəɹ", "bˈɛɾɚ"),
        ("kˈɑɹ", "kˈɑːɹ"),
        ("ʃˈip", "ʃˈiːp"),
        ("hˈæpi", "hˈæpi"),
        ("blˈu", "blˈuː"),
        ("lˈɪɾᵊl…", "lˈɪɾəl."),
    ],
)
def test_symbols_become_ipa(phonemes: str, ipa: str) -> None:
    assert to_ipa(phonemes) == ipa


@pytest.mark.parametrize("settings", [None, "", "{}", '{"audio": 3}'])
def test_bad_settings(tmp_path: Path, settings: str | None) -> None:
    if settings is not None:
        (tmp_path / "voice.onnx.json").write_text(settings, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"voice\.onnx\.json"):
        Piper.open(tmp_path / "voice.onnx", plan_device(threads=1))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Piper:
    """A voice that says four latents for every symbol, each a wave as high as the symbol's id, smeared over the latents
    beside it as far as a real vocoder looks."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    symbols = "_^$ .,abcdefghijklmnopqrstuvwxyz"
    reach = BESIDE_LATENTS - 2
    smear = np.full((1, 1, 2 * reach + 1), 1 / (2 * reach + 1), np.float32)
    wave = (0.02 * np.sin(np.arange(SAMPLES_PER_LATENT))).astype(np.float32)[None, None]
    values = {"dec.conv_pre.weight": smear, "wave": wave, "axis": np.array([1]), "four": np.array([1, 1, 4, 1]),
              "flat": np.array([1, 1, -1])}
    nodes = [helper.make_node("Cast", ["input"], ["height"], to=TensorProto.FLOAT),
             helper.make_node("Unsqueeze", ["height", "axis"], ["one"]),
             helper.make_node("Unsqueeze", ["one", "axis"], ["row"]),
             helper.make_node("Tile", ["row", "four"], ["rows"]),
             helper.make_node("Reshape", ["rows", "flat"], ["latents"]),
             helper.make_node("Conv", ["latents", "dec.conv_pre.weight"], ["smeared"], pads=[reach, reach]),
             helper.make_node("ConvTranspose", ["smeared", "wave"], ["output"], strides=[SAMPLES_PER_LATENT])]
    inputs = [helper.make_tensor_value_info("input", TensorProto.INT64, [1, "n"]),
              helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
              helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3])]
    graph = helper.make_graph(nodes, "toy", inputs, [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(value, name) for name, value in values.items()])
    path = tmp_path_factory.mktemp("piper") / "toy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    settings = {"inference": {"noise_scale": 0.6, "length_scale": 1.0, "noise_w": 0.8}, "audio": {"sample_rate": 22050},
                "phoneme_id_map": {symbol: [place] for place, symbol in enumerate(symbols)}}
    path.with_name("toy.onnx.json").write_text(json.dumps(settings), encoding="utf-8")
    return Piper.open(path, plan_device(threads=1))


def test_sound_of_a_few_latents_at_a_time_is_the_sound_of_all(toy: Piper) -> None:
    latents = toy.latents("the cat sat on the mat, and the dog sat on the cat.")
    pieces = list(toy.sounds(latents))
    whole = np.concatenate(list(toy.sounds(latents, first=latents.shape[2])))
    assert len(pieces) > 2 and len(pieces[0]) < len(pieces[1])
    assert len(whole) == latents.shape[2] * SAMPLES_PER_LATENT
    assert np.allclose(np.concatenate(pieces), whole, atol=1e-6)


def test_pieces_say_what_is_still_to_come(toy: Piper) -> None:
    pieces = list(toy.pieces("the cat sat on the mat, and the dog sat on the cat."))
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    rests = [piece.rest_s for piece in pieces]
    assert rests == sorted(rests, reverse=True) and rests[-1] == 0
    assert rests[0] == pytest.approx(sum(len(piece.waveform) for piece in pieces[1:]) / 24_000, abs=0.2)


def test_a_file_that_is_no_voice(tmp_path: Path, toy_graph_path: Path) -> None:
    settings = {"inference": {"noise_scale": 1, "length_scale": 1, "noise_w": 1}, "audio": {"sample_rate": 22050},
                "phoneme_id_map": {}}
    path = tmp_path / "voice.onnx"
    path.with_name("voice.onnx.json").write_text(json.dumps(settings), encoding="utf-8")
    for content in (b"", b"no graph", toy_graph_path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="no Piper voice"):
            Piper.open(path, plan_device(threads=1))
