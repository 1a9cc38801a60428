"""Own ears at run time: the words of a sound, heard at once or second by second."""

from __future__ import annotations

import numpy as np
import pytest
from hearing_shapes import hearing_shapes

from minicpm_o.checkpoints.graphs.hearing import build_ears
from minicpm_o.model.config import tiny
from minicpm_o.model.letters import LETTERS, NUM_CLASSES
from minicpm_o.runtime.device import DevicePlan, make_session
from minicpm_o.runtime.encoders import EncoderOut
from minicpm_o.runtime.own_ears import OwnEars
from minicpm_o.runtime.word_search import WordModel, WordSearch

CONFIG = tiny()
SEARCH = WordSearch(WordModel({"hi": 3, "there": 2}, {}))
PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> OwnEars:
    path, rng = tmp_path_factory.mktemp("ears") / "ears.onnx", np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in hearing_shapes(CONFIG).items()}
    build_ears(weights, CONFIG, path)
    return OwnEars(make_session(path, PLAN, kind="hearing"), SEARCH)


def frames(seconds: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, 50 * seconds, CONFIG.hearing.width)).astype(np.float32)


def test_a_stream_is_heard_as_the_whole_is(ears: OwnEars) -> None:
    x = frames(4)
    whole = ears.log_probs(EncoderOut(x))
    assert whole.shape == (200, NUM_CLASSES)
    for second in range(1, 4):
        with_one_before = ears.log_probs(EncoderOut(x[:, 50 * (second - 1) : 50 * (second + 1)]))
        np.testing.assert_allclose(with_one_before[50:], whole[50 * second : 50 * (second + 1)], atol=1e-5)


def test_log_probabilities_are_of_every_letter(ears: OwnEars) -> None:
    x = EncoderOut(frames(3))
    np.testing.assert_allclose(np.exp(ears.log_probs(x)).sum(-1), 1.0, atol=1e-5)
    assert isinstance(ears.words(x), str)


def test_words_are_what_the_search_makes_of_them() -> None:
    class Session:
        def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            path = [0, LETTERS.index("h") + 1, LETTERS.index("i") + 1, 0]
            return [9 * np.eye(NUM_CLASSES, dtype=np.float32)[path][None]]

    assert OwnEars(Session(), SEARCH).words(EncoderOut(frames(1))) == "hi"  # type: ignore[arg-type]
