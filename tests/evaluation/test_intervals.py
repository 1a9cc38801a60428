from __future__ import annotations

import pytest

from minicpm_o.evaluation.intervals import bootstrap_ratio, wilson


def test_wilson_against_published_values() -> None:
    """81 of 263: Newcombe (1998), table I, method 3 gives 0.2553 to 0.3662."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilson_of_nothing_is_none() -> None:
    assert wilson(0, 0) is None


def test_bootstrap_of_a_mean_is_near_the_normal_interval() -> None:
    values = [0.0, 1.0] * 200
    low, high = bootstrap_ratio(values) or (0, 0)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.01)


def test_bootstrap_weighs_by_the_denominators() -> None:
    low, high = bootstrap_ratio([1, 2, 4], [10, 20, 40]) or (0, 0)
    assert low == pytest.approx(0.1) and high == pytest.approx(0.1)


def test_bootstrap_repeats_itself_and_needs_two_items() -> None:
    values = [0.1, 0.7, 0.3, 0.9]
    assert bootstrap_ratio(values) == bootstrap_ratio(values)
    assert bootstrap_ratio([1.0]) is None
