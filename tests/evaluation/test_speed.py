"""Figures of speed: medians, turns and ratios, with contestants whose clock is moved by hand."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from minicpm_o.errors import InputError
from minicpm_o.evaluation import speed
from minicpm_o.evaluation.speed import DECODE_TOKENS, Measure, race


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(speed.time, "sleep", lambda seconds: None)
    return now


class Runner:
    """Takes a fixed time for each token and notes its turns."""

    def __init__(self, name: str, clock: list[float], reading_s: float, writing_s: float, turns: list[str]) -> None:
        self.name, self.clock, self.turns = name, clock, turns
        self.reading_s, self.writing_s = reading_s, writing_s

    def read(self, ids: Sequence[int]) -> None:
        self.turns.append(self.name)
        self.clock[0] += self.reading_s * len(ids)

    def write(self, token_id: int) -> None:
        self.clock[0] += self.writing_s


def test_measure_reports_median_and_range() -> None:
    figure = Measure("first word", "s", (0.3, 0.1, 0.2), "warm")
    assert figure.to_dict() == {"name": "first word", "unit": "s", "median": 0.2, "min": 0.1, "max": 0.3, "n": 3,
                                "note": "warm"}


def test_race_takes_turns_and_leaves_out_the_warm_up(clock: list[float]) -> None:
    turns: list[str] = []
    runners = {"a": Runner("a", clock, 0.01, 0.1, turns), "b": Runner("b", clock, 0.02, 0.05, turns)}
    speeds = race(runners, list(range(100)), rounds=3)
    assert turns == ["a", "b"] * 4
    assert speeds["a"]["prefill"] == pytest.approx((100.0,) * 3)
    assert speeds["b"]["prefill"] == pytest.approx((50.0,) * 3)
    assert speeds["a"]["decode"] == pytest.approx((10.0,) * 3)
    assert speeds["b"]["decode"] == pytest.approx((20.0,) * 3)
    assert DECODE_TOKENS <= 100


def test_timed_leaves_out_the_first_round(clock: list[float]) -> None:
    lengths = iter([9.0, 1.0, 2.0])

    def work() -> None:
        clock[0] += next(lengths)

    assert speed._timed(work, 2) == (1.0, 2.0)


def test_a_describe_that_fails_says_why() -> None:
    with pytest.raises(InputError, match=r"no-such-model"):
        speed._describe("no-such-model", "a.jpg", 1)


def test_every_describe_is_a_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, '{"timing": {"load_s": 0.5, "peak_rss_mb": null}}', "")

    monkeypatch.setattr(speed.subprocess, "run", run)
    figures = list(speed.describe_process("nano", "photo.jpg", 2, 2))
    assert [figure.name for figure in figures] == ["describe, whole process", "describe, load"] and len(asked) == 2
    for command in asked:
        place = command.index("--prefix-cache-mb")
        assert command[place + 1] == "0", "what an earlier process kept would answer"
