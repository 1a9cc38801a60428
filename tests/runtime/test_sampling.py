"""Token choice: supports, reproducibility and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.runtime.sampling import SamplingConfig, sample

VOCABULARY = 50


def random_logits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)


def draws(logits: np.ndarray, config: SamplingConfig, count: int = 2000, history: tuple[int, ...] = ()) -> list[int]:
    rng = config.rng()
    return [sample(logits, history, config, rng) for _ in range(count)]


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    weights = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    return weights / weights.sum()


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_argmax(seed: int) -> None:
    logits = random_logits(seed)
    assert draws(logits, SamplingConfig(), 3) == [int(logits.argmax())] * 3


def test_greedy_ignores_the_filters() -> None:
    logits = random_logits()
    config = SamplingConfig(temperature=0.0, top_k=3, top_p=0.1, min_p=0.5)
    assert sample(logits, (), config, config.rng()) == int(logits.argmax())


@pytest.mark.parametrize("top_k", [1, 2, 5, VOCABULARY, 10 * VOCABULARY])
def test_top_k_draws_from_the_k_best(top_k: int) -> None:
    logits = random_logits()
    allowed = set(np.argsort(-logits)[:top_k].tolist())
    drawn = set(draws(logits, SamplingConfig(temperature=5.0, top_k=top_k, seed=1)))
    assert drawn <= allowed
    assert len(drawn) >= min(top_k, 5)


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
def test_top_p_draws_from_the_smallest_nucleus(top_p: float) -> None:
    logits = random_logits()
    order = np.argsort(-logits)
    size = 1 + int((np.cumsum(probabilities(logits)[order]) < top_p).sum())
    drawn = set(draws(logits, SamplingConfig(temperature=1.0, top_p=top_p, seed=1), 4000))
    assert drawn == set(order[:size].tolist())


def test_min_p_draws_what_is_likely_enough() -> None:
    logits = random_logits()
    likely = probabilities(logits)
    drawn = set(draws(logits, SamplingConfig(temperature=1.0, min_p=0.2, seed=1), 4000))
    assert drawn == set(np.flatnonzero(likely >= 0.2 * likely.max()).tolist())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_distribution(temperature: float) -> None:
    logits = random_logits(3)[:6]
    counts = np.bincount(draws(logits, SamplingConfig(temperature=temperature, seed=7), 20_000), minlength=6)
    np.testing.assert_allclose(counts / 20_000, probabilities(logits, temperature), atol=0.015)


def test_tiny_temperature_is_greedy() -> None:
    logits = random_logits()
    assert set(draws(logits, SamplingConfig(temperature=1e-6, seed=0), 20)) == {int(logits.argmax())}


def test_same_seed_same_draws() -> None:
    logits, config = random_logits(), SamplingConfig(temperature=1.0, seed=11)
    assert draws(logits, config, 50) == draws(logits, config, 50)
    assert draws(logits, config, 50) != draws(logits, SamplingConfig(temperature=1.0, seed=12), 50)


def test_repetition_penalty_lowers_what_was_said() -> None:
    logits = np.array([3.0, 2.5, -1.0], np.float32)
    config = SamplingConfig(repetition_penalty=2.0)
    assert sample(logits, [0, 0], config, config.rng()) == 1
    assert sample(logits, [0, 1, 1], config, config.rng()) == 0  # 1.5 against 1.25
    negative = np.array([-1.0, -1.5], np.float32)
    assert sample(negative, [0], config, config.rng()) == 1  # a negative logit becomes more negative


def test_logits_are_left_as_they_are() -> None:
    logits = random_logits()
    before = logits.copy()
    draws(logits, SamplingConfig(temperature=1.0, top_k=5, repetition_penalty=1.5), 3, history=(1, 2))
    np.testing.assert_array_equal(logits, before)


def test_impossible_tokens_are_never_drawn() -> None:
    logits = np.full(5, -np.inf, np.float32)
    logits[3] = 0.0
    assert set(draws(logits, SamplingConfig(temperature=2.0, seed=0), 100)) == {3}


@pytest.mark.parametrize("logits", [[np.nan, 0.0], [-np.inf, -np.inf]])
def test_broken_logits_are_refused(logits: list[float]) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        sample(np.array(logits, np.float32), (), SamplingConfig(), np.random.default_rng(0))


@pytest.mark.parametrize("options", [
    {"temperature": -0.1}, {"temperature": float("nan")}, {"top_k": -1}, {"top_k": 1.5}, {"top_p": 0.0},
    {"top_p": 1.01}, {"min_p": -0.1}, {"min_p": 1.1}, {"repetition_penalty": 0.0}, {"seed": -1}, {"seed": 1.5},
])
def test_options_out_of_range_are_named(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        SamplingConfig(**options)  # type: ignore[arg-type]
