"""The network that guesses answers: its graph against torch, what it reads again, its trust in itself, damaged files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.errors import CheckpointError
from minicpm_o.runtime import drafter as module
from minicpm_o.runtime.cache import KVCache
from minicpm_o.runtime.device import DevicePlan
from minicpm_o.runtime.drafter import DraftNetwork, LearnedDrafter, network_config, packaged_path, read_drafter
from minicpm_o.runtime.speculate import Guess

PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())
WIDTH, FFN, WORDS, HEADS, KV_HEADS = 64, 96, 12, 4, 2


def random_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    layer, shared = "model.layers.0", KV_HEADS * WIDTH // HEADS
    shapes = {"enter": (WIDTH, 2 * WIDTH), f"{layer}.self_attn.q_proj": (WIDTH, WIDTH),
              f"{layer}.self_attn.k_proj": (shared, WIDTH), f"{layer}.self_attn.v_proj": (shared, WIDTH),
              f"{layer}.self_attn.o_proj": (WIDTH, WIDTH), f"{layer}.mlp.gate_proj": (FFN, WIDTH),
              f"{layer}.mlp.up_proj": (FFN, WIDTH), f"{layer}.mlp.down_proj": (WIDTH, FFN), "lm_head": (WORDS, WIDTH)}
    tensors = {f"{name}.weight": rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    for norm in (f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm", "model.norm"):
        tensors[f"{norm}.weight"] = rng.uniform(0.5, 1.5, WIDTH).astype(np.float32)
    return {**tensors, "enter.bias": rng.normal(0, 0.2, WIDTH).astype(np.float32),
            "word_ids": np.arange(100, 100 + WORDS, dtype=np.int32), "heads": np.array([HEADS, KV_HEADS], np.int32),
            "scales": np.array([0.5, 2.0], np.float32)}


def embed(ids: object) -> np.ndarray:
    rows = [np.random.default_rng(token_id).normal(size=WIDTH) for token_id in ids]  # type: ignore[attr-defined]
    return np.array(rows, np.float32)


def random_states(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(3).normal(size=(count, WIDTH)).astype(np.float32))


@pytest.fixture(scope="module")
def network() -> DraftNetwork:
    return DraftNetwork.open(random_tensors(), embed, PLAN)


def anew(network: DraftNetwork, ids: list[int], states: list[np.ndarray], most: int) -> list[int]:
    """Guesses without anything kept: all pairs, true and guessed, are read again for each."""
    scaled, said, guessed = [network.state_scale * state for state in states], ids[-len(states) :], []
    for _ in range(most):
        state, token_id, _ = network(np.stack(scaled), said, KVCache.empty(network.config, 64))
        scaled, said, guessed = [*scaled, state[0]], [*said, token_id], [*guessed, token_id]
    return guessed


def test_pairs_one_by_one_are_pairs_at_once(network: DraftNetwork) -> None:
    states, ids = np.stack(random_states(9)), list(range(9))
    whole = network(states, ids, KVCache.empty(network.config, 16))
    cache = KVCache.empty(network.config, 1)
    for start, stop in ((0, 4), (4, 5), (5, 9)):
        pieces = network(states[start:stop], ids[start:stop], cache)
    np.testing.assert_allclose(pieces[0], whole[0], atol=0.05)  # what is read is rounded otherwise
    assert pieces[1] == whole[1] and cache.length == 9


def test_guesses_go_on_from_guesses_and_leave_no_trace(network: DraftNetwork) -> None:
    drafter, ids, states = LearnedDrafter(network), [3, 5, 7, 8, 9, 11, 4, 2], random_states(7)
    for known in (3, 4, 7):  # after the second nothing was right, after the third some was
        guesses = drafter.draft(ids[: known + 1], states[:known], 4)
        assert [guess.token_id for guess in guesses] == anew(network, ids[: known + 1], states[:known], len(guesses))
    again = drafter.draft(ids, states, 4)
    assert guesses and [guess.token_id for guess in again] == [guess.token_id for guess in guesses]
    assert [guess.probability for guess in again] == pytest.approx([guess.probability for guess in guesses], abs=0.01)
    first = guesses[0].token_id
    assert LearnedDrafter(network, never={first}).draft(ids, states, 4) == []


def test_states_too_far_back_are_not_looked_at(network: DraftNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_READ", 4)
    ids, states = list(range(20, 40)), random_states(19)
    late = LearnedDrafter(network).draft(ids, states, 2)
    assert [guess.token_id for guess in late] == anew(network, ids, states[-4:], 2)[: len(late)]
    monkeypatch.setattr(module, "CONTEXT_PAIRS", 8)
    drafter = LearnedDrafter(network)
    for known in range(1, 20):  # the cache is full now and then, and begins anew
        drafter.draft(ids[: known + 1], states[:known], 2)
        assert drafter._cache.length <= 8


def test_trust_follows_what_was_right(network: DraftNetwork) -> None:
    trusting, doubting = LearnedDrafter(network), LearnedDrafter(network)
    for _ in range(50):
        trusting.learn([Guess(1, 0.5), Guess(2, 0.5)], 2)
        doubting.learn([Guess(1, 0.5), Guess(2, 0.5)], 0)
    states = random_states(1)
    new = LearnedDrafter(network).draft([6, 7], states, 1)[0].probability
    assert doubting.draft([6, 7], states, 1)[0].probability < new / 2
    assert trusting.draft([6, 7], states, 1)[0].probability >= min(0.98, 1.5 * new)


def test_what_comes_with_the_package() -> None:
    tensors = read_drafter(packaged_path())
    assert network_config(tensors).width == 576 and len(tensors["word_ids"]) == len(tensors["lm_head.weight"])
    assert packaged_path().stat().st_size < 8e6


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for content in (b"no tensors", None):
        path = tmp_path / "drafter.safetensors"
        path.write_bytes(content) if content else path.unlink()
        with pytest.raises(CheckpointError, match=r"drafter\.safetensors"):
            read_drafter(path)


