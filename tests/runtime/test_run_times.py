"""What runs take is learned from runs, and from nothing that disturbed one of them."""

from __future__ import annotations

import pytest

from minicpm_o.runtime.run_times import RUN_COSTS, RunTimes


def told(times: RunTimes, seconds: dict[int, float], rounds: int = 200) -> RunTimes:
    for _ in range(rounds):
        for num_tokens, taken in seconds.items():
            times.heard(num_tokens, taken)
    return times


def test_costs_become_those_of_the_machine() -> None:
    times = told(RunTimes(), {1: 0.010, 2: 0.011, 4: 0.030})
    assert times.step_s == pytest.approx(0.010, rel=0.05)
    assert times.costs[1] == pytest.approx(1.1, rel=0.05) and times.costs[3] == pytest.approx(3.0, rel=0.05)
    assert times.in_steps(0.005) == pytest.approx(0.5, rel=0.05)


def test_lengths_that_were_not_run_stay_between_those_that_were() -> None:
    costs = told(RunTimes(), {1: 0.010, 2: 0.011, 6: 0.012}).costs
    assert costs == sorted(costs) and costs[0] == 1.0 and costs[3] <= 1.25


def test_a_slower_machine_changes_no_cost() -> None:
    times = told(RunTimes(), {count + 1: 0.01 * cost for count, cost in enumerate(RUN_COSTS)})
    slower = told(times, {count + 1: 0.03 * cost for count, cost in enumerate(RUN_COSTS)})
    assert slower.costs == pytest.approx(RUN_COSTS, rel=0.05)


def test_one_disturbed_run_changes_little() -> None:
    times = told(RunTimes(), {1: 0.010, 3: 0.013})
    before = times.costs[2]
    times.heard(3, 5.0)
    assert times.costs[2] < 1.05 * before


def test_unknown_lengths_and_no_time_are_passed_over() -> None:
    times = RunTimes()
    times.heard(len(RUN_COSTS) + 1, 1.0)
    times.heard(1, 0.0)
    assert times.step_s is None and times.costs == list(RUN_COSTS) and times.in_steps(1.0) == 0.0


def test_without_a_rate_the_table_stays() -> None:
    times = told(RunTimes(learning_rate=0.0), {1: 0.01, 2: 0.05})
    assert times.costs == list(RUN_COSTS) and times.in_steps(1.0) == 0.0
