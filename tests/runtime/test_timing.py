"""Stopwatch and memory: what is counted and what is left out."""

from __future__ import annotations

import pytest

from minicpm_o.runtime import timing
from minicpm_o.runtime.timing import Stopwatch, peak_rss_mb


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that is moved by hand: [now]."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_times_of_an_answer(clock: list[float]) -> None:
    watch = Stopwatch(started=clock[0])
    for moment in (103.0, 103.5, 104.0):
        clock[0] = moment
        watch.token()
        watch.word()
    clock[0] = 104.25
    taken = watch.timing(load_s=2.0)
    assert (taken.load_s, taken.ttft_s, taken.total_s) == (2.0, 1.0, 4.25)
    assert taken.tokens_per_s == 2.0, "two tokens came in the second after the first"


def test_the_first_word_may_come_later_than_the_first_token(clock: list[float]) -> None:
    watch = Stopwatch(started=clock[0])
    for moment in (101.0, 101.5, 102.0):
        clock[0] = moment
        watch.token()
    watch.word()
    taken = watch.timing(load_s=0.0)
    assert (taken.ttft_s, taken.tokens_per_s) == (2.0, 2.0), "beams give all words at the end"


def test_no_word_has_no_time(clock: list[float]) -> None:
    taken = Stopwatch(started=clock[0]).timing(load_s=0.0)
    assert (taken.ttft_s, taken.tokens_per_s) == (None, None)


def test_one_word_has_no_rate(clock: list[float]) -> None:
    watch = Stopwatch(started=clock[0])
    watch.token()
    assert watch.timing(0.0).tokens_per_s is None


def test_peak_memory_grows_with_use() -> None:
    before = peak_rss_mb()
    if before is None:
        pytest.skip("this system does not tell")
    held = bytearray(int(before * 1e6) + 50_000_000)
    held[::4096] = b"x" * len(held[::4096])
    assert peak_rss_mb() > before + 40
