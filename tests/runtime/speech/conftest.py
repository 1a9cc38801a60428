"""What the tests of speech out share: a toy lexicon, the real one, and a toy of Kokoro's graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.lexicon import build_lexicon
from minicpm_o.runtime.speech.english import EnglishPhonemizer
from minicpm_o.runtime.speech.letters import LetterSounds
from minicpm_o.runtime.speech.lexicon import Lexicon

GOLD = {
    "cat": "kˈæt",
    "dog": "dˈɔɡ",
    "walk": "wˈɔk",
    "cup": "kˈʌp",
    "cake": "kˈAk",
    "London": "lˈʌndən",
    "read": {"DEFAULT": "ɹˈid", "VBN": "ɹˈɛd", "VBD": "ɹˈɛd"},
    "could": {"DEFAULT": "kʊd", "None": "kˈʊd"},
    "US": {"DEFAULT": "ˌʌs", "NOUN": None},
    "NASA": "nˈæsə",
    "A": "ˈA",
    "S": "ˈɛs",
    "U": "jˈu",
    **{word: f"{word[0]}ˈɑ{word[-1]}" for word in ("nine", "seventeen", "nineteen", "one", "two", "three", "forty")},
}
SILVER = {"cat": "WRONG", "zebra": "zˈibɹə"}


@pytest.fixture(scope="session")
def toy_lexicon_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lexicon")
    for name, words in (("gold", GOLD), ("silver", SILVER)):
        (folder / f"{name}.json").write_text(json.dumps(words), encoding="utf-8")
    build_lexicon(folder / "gold.json", folder / "silver.json", folder / "lexicon.txt.gz")
    return folder / "lexicon.txt.gz"


@pytest.fixture(scope="session")
def toy_lexicon(toy_lexicon_path: Path) -> Lexicon:
    return Lexicon.open(toy_lexicon_path)


@pytest.fixture(scope="session")
def english(nano: Path) -> EnglishPhonemizer:
    """The phonemizer with the real lexicon."""
    return EnglishPhonemizer(Lexicon.open(nano / "lexicon_en.txt.gz"), LetterSounds.open().sound_out)


@pytest.fixture(scope="session")
def toy_graph_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph with Kokoro's inputs: 600 samples for every token, of height 0.03 * (token % 7 + 1) * style[0],
    alternating in sign; their number is divided by the speed."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    wave = np.where(np.arange(600) % 2, -0.03, 0.03).astype(np.float32)
    constants = {
        "seven": np.array(7, np.int64),
        "one": np.array(1, np.float32),
        "axis": np.array([2], np.int64),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "flat": np.array([-1], np.int64),
        "wave": wave,
    }
    nodes = [
        helper.make_node("Mod", ["tokens", "seven"], ["small"]),
        helper.make_node("Cast", ["small"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["real", "one"], ["height"]),
        helper.make_node("Unsqueeze", ["height", "axis"], ["column"]),
        helper.make_node("Mul", ["column", "wave"], ["sound"]),
        helper.make_node("Slice", ["style", "first", "second", "second"], ["scale"]),
        helper.make_node("Mul", ["sound", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["long"]),
        helper.make_node("Shape", ["long"], ["length"]),
        helper.make_node("Cast", ["length"], ["length_real"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["length_real", "speed"], ["shorter"]),
        helper.make_node("Cast", ["shorter"], ["stop"], to=TensorProto.INT64),
        helper.make_node("Slice", ["long", "first", "stop", "first"], ["audio"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, "n"]),
            helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, 256]),
            helper.make_tensor_value_info("speed", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["samples"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = tmp_path_factory.mktemp("graph") / "speech.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def voices_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice for the toy graph, and one of half its loudness."""
    folder = tmp_path_factory.mktemp("voices")
    table = np.zeros((510, 256), np.float32)
    table[:, 0] = 1.0
    np.save(folder / "af_heart.npy", table)
    (table * 0.5).astype("<f4").tofile(folder / "jm_kumo.bin")
    return folder
