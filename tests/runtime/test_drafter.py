"""The network that guesses answers: its graph against numpy, its trust in itself, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.errors import CheckpointError
from minicpm_o.runtime.device import DevicePlan, make_session
from minicpm_o.runtime.drafter import (
    DraftNetwork,
    LearnedDrafter,
    build_drafter,
    packaged_path,
    read_drafter,
)
from minicpm_o.runtime.speculate import Guess

PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())
WIDTH, LAYER, WORDS = 16, 32, 12


def random_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"enter": (LAYER, 2 * WIDTH), "middle": (LAYER, LAYER), "leave": (WIDTH, LAYER), "words": (WORDS, WIDTH)}
    tensors = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": rng.normal(0, 0.2, shape[0]).astype(np.float32) for name, shape in shapes.items()}
    return {**tensors, "word_ids": np.arange(100, 100 + WORDS, dtype=np.int32),
            "scales": np.array([0.5, 2.0], np.float32)}


def expected(tensors: dict[str, np.ndarray], state: np.ndarray, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The network in numpy."""
    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return np.asarray(x @ tensors[name].T + tensors[f"{name}.bias"])

    def silu(x: np.ndarray) -> np.ndarray:
        return np.asarray(x / (1 + np.exp(-x)))

    entered = silu(linear("enter", np.concatenate([state, said], -1)))
    after = 0.5 * state + linear("leave", entered + silu(linear("middle", entered)))
    return after, linear("words", after)


def embed(ids: object) -> np.ndarray:
    (token_id,) = ids  # type: ignore[misc]
    return np.random.default_rng(token_id).normal(size=(1, WIDTH)).astype(np.float32)


def test_graph_is_the_network(tmp_path: Path) -> None:
    tensors = random_tensors()
    build_drafter(tensors, tmp_path / "d.onnx", bits=None)
    session = make_session(tmp_path / "d.onnx", PLAN, kind="language")
    state, said = (np.random.default_rng(seed).normal(size=(1, WIDTH)).astype(np.float32) for seed in (1, 2))
    got = session.run(["next_state", "logits"], {"state": state, "embedding": said})
    for one, other in zip(got, expected(tensors, state, said), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_guesses_are_the_networks_likeliest_words() -> None:
    tensors = random_tensors()
    drafter = LearnedDrafter(DraftNetwork.open(tensors, embed, PLAN))
    hidden = np.random.default_rng(3).normal(size=WIDTH).astype(np.float32)
    guesses = drafter.draft([7, 8], hidden, 4)
    state, token_id = 0.5 * hidden[None], 8
    assert guesses
    for guess in guesses:
        state, logits = expected(tensors, state, 2.0 * embed([token_id]))
        shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
        assert shares[guess.token_id - 100] > shares.max() - 0.1, "8 bits may confuse words that are nearly as likely"
        assert guess.probability == pytest.approx(min(0.98, shares.max()), abs=0.1)
        token_id = guess.token_id
    first = guesses[0].token_id
    assert LearnedDrafter(drafter.network, never={first}).draft([7, 8], hidden, 4) == []
    assert drafter.draft([7, 8], hidden, 1) == guesses[:1]


def test_trust_follows_what_was_right() -> None:
    network = DraftNetwork.open(random_tensors(), embed, PLAN)
    trusting, doubting = LearnedDrafter(network), LearnedDrafter(network)
    for _ in range(50):
        trusting.learn([Guess(1, 0.5), Guess(2, 0.5)], 2)
        doubting.learn([Guess(1, 0.5), Guess(2, 0.5)], 0)
    hidden = np.random.default_rng(3).normal(size=WIDTH).astype(np.float32)
    new = LearnedDrafter(network).draft([7], hidden, 1)[0].probability
    assert doubting.draft([7], hidden, 1)[0].probability < new / 2
    assert trusting.draft([7], hidden, 1)[0].probability > 1.5 * new


def test_what_comes_with_the_package() -> None:
    tensors = read_drafter(packaged_path())
    assert tensors["leave"].shape[0] == 576 and len(tensors["word_ids"]) == len(tensors["words"])
    assert packaged_path().stat().st_size < 8e6


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for content in (b"no tensors", None):
        path = tmp_path / "drafter.safetensors"
        path.write_bytes(content) if content else path.unlink()
        with pytest.raises(CheckpointError, match=r"drafter\.safetensors"):
            read_drafter(path)


