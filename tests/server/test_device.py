"""Jobs on one device: order, fairness, back-pressure, failures that stay their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from minicpm_o.server import device as devices
from minicpm_o.server.config import Limits
from minicpm_o.server.device import MOST_UNREAD, Device
from minicpm_o.server.errors import ApiError


def on_device(act: Callable[[Device], Awaitable[Any]], **limits: Any) -> Any:
    async def run() -> Any:
        device = Device(Limits(**limits))
        device.start()
        try:
            return await asyncio.wait_for(act(device), 20)
        finally:
            await asyncio.to_thread(device.stop)

    return asyncio.run(run())


def counting(count: int, log: list[Any] | None = None, name: str = "") -> Callable[[], Iterator[int]]:
    def work() -> Iterator[int]:
        for number in range(count):
            if log is not None:
                log.append((name, number))
            yield number

    return work


def holding() -> tuple[threading.Event, Callable[[], Iterator[int]]]:
    """Work that stands still until its event is set."""
    gate = threading.Event()

    def held() -> Iterator[int]:
        gate.wait(5)
        yield 0

    return gate, held


async def collected(job: Any) -> list[Any]:
    return [event async for event in job]


def test_a_device_at_rest_gives_memory_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(devices, "TIDY_S", 0.0)
    monkeypatch.setattr(devices, "give_back_memory", lambda: given.append(time.monotonic()))

    async def act(device: Device) -> None:
        await asyncio.sleep(0.7)
        assert not given, "nothing was done, so nothing is left over"
        for _ in range(2):
            await collected(device.submit(counting(3)))
            await asyncio.sleep(1.6)

    on_device(act)
    assert len(given) == 2


def test_places_that_nobody_has_taken_yet_are_no_reason_to_refuse() -> None:
    async def act(device: Device) -> int:
        jobs = [device.submit(counting(1)) for _ in range(3)]  # all before a thread of the device has woken
        return sum([len(await collected(job)) for job in jobs])

    assert on_device(act, max_running=2, max_waiting=1) == 3


def test_a_job_gives_its_events_in_order() -> None:
    async def act(device: Device) -> list[int]:
        return await collected(device.submit(counting(1000)))

    assert on_device(act) == list(range(1000))


def test_running_jobs_take_turns_step_by_step() -> None:
    log: list[Any] = []
    gate = threading.Event()

    def held() -> Iterator[int]:
        gate.wait(5)
        yield from ()

    async def act(device: Device) -> None:
        first = device.submit(held, owner="x")
        jobs = [device.submit(counting(20, log, name), owner=name) for name in "ab"]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(*(collected(job) for job in [first, *jobs]))

    on_device(act)
    order = [name for name, _ in log]
    assert all(abs(order[:place].count("a") - order[:place].count("b")) <= 1 for place in range(40))


def test_owners_take_turns_in_line() -> None:
    log: list[Any] = []
    gate, held = holding()

    async def act(device: Device) -> None:
        jobs = [device.submit(held)]
        await asyncio.sleep(0.05)
        jobs += [device.submit(counting(1, log, f"greedy{place}"), owner="greedy") for place in range(3)]
        modest = device.submit(counting(1, log, "modest"), owner="modest")
        assert device.place(modest).position == 2 and device.place(modest).eta_s > 0
        assert device.place(jobs[0]).position == 0
        gate.set()
        await asyncio.gather(*(collected(job) for job in [*jobs, modest]))

    on_device(act, max_running=1)
    assert [name for name, _ in log] == ["greedy0", "modest", "greedy1", "greedy2"]


def test_a_full_line_is_told_when_to_come_back() -> None:
    gate, held = holding()

    async def act(device: Device) -> None:
        jobs = [device.submit(held)]
        await asyncio.sleep(0.05)
        jobs.append(device.submit(counting(1)))
        with pytest.raises(ApiError, match="come back") as refused:
            device.submit(counting(1))
        assert refused.value.status == 429 and int(refused.value.headers["Retry-After"]) >= 1
        live = device.submit(counting(3), live=True)  # live work has a place of its own
        gate.set()
        assert await collected(live) == [0, 1, 2]
        await asyncio.gather(*map(collected, jobs))

    on_device(act, max_running=1, max_waiting=1)


def test_live_work_that_runs_out_of_sound_goes_first() -> None:
    log: list[Any] = []

    def slowly(name: str) -> Callable[[], Iterator[int]]:
        def work() -> Iterator[int]:
            for number in range(15):
                log.append(name)
                time.sleep(0.005)
                yield number

        return work

    async def act(device: Device) -> None:
        calm = device.submit(slowly("calm"), live=True, lead_s=lambda: 10.0)
        urgent = device.submit(slowly("urgent"), live=True, lead_s=lambda: 0.1)
        await asyncio.gather(collected(calm), collected(urgent))

    on_device(act)
    last_urgent = len(log) - 1 - log[::-1].index("urgent")
    assert log[: last_urgent + 1].count("calm") <= 3


def test_a_reader_that_sleeps_holds_its_own_job_alone() -> None:
    made: list[int] = []

    def endless() -> Iterator[int]:
        for number in range(10_000):
            made.append(number)
            yield number

    async def act(device: Device) -> None:
        sleeping = device.submit(endless)
        other = device.submit(counting(2000))
        assert len(await collected(other)) == 2000
        assert len(made) <= MOST_UNREAD + 1
        assert len(await collected(sleeping)) == 10_000  # it goes on when somebody reads

    on_device(act)


def test_a_reader_that_leaves_ends_its_job() -> None:
    closed = threading.Event()

    def work() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    async def act(device: Device) -> None:
        job = device.submit(work)
        async for _ in job:
            break
        job.close()
        await asyncio.to_thread(closed.wait, 5)
        assert closed.is_set()
        for _ in range(100):
            if not device.num_running:
                break
            await asyncio.sleep(0.01)
        assert device.num_running == 0

    on_device(act)


def test_a_waiting_job_that_is_given_up_leaves_the_line() -> None:
    gate, held = holding()

    async def act(device: Device) -> None:
        running = device.submit(held)
        await asyncio.sleep(0.05)
        waiting = device.submit(counting(1))
        waiting.close()
        waiting.close()
        assert device.num_waiting == 0
        gate.set()
        await collected(running)

    on_device(act, max_running=1)


def test_a_failure_reaches_its_reader_and_nobody_else() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("lost")

    async def act(device: Device) -> None:
        fine = device.submit(counting(100))
        failing = device.submit(broken)
        with pytest.raises(KeyError):
            await collected(failing)
        assert len(await collected(fine)) == 100 and device.is_alive

    on_device(act)


def test_a_draining_device_finishes_and_takes_nothing_new() -> None:
    async def act(device: Device) -> None:
        job = device.submit(counting(50))
        device.refuse_new()
        with pytest.raises(ApiError) as refused:
            device.submit(counting(1))
        assert refused.value.status == 503
        assert len(await collected(job)) == 50

    on_device(act)


def test_what_is_left_at_the_end_is_refused_not_forgotten() -> None:
    gate, held = holding()

    async def run() -> None:
        device = Device(Limits(max_running=1))
        device.start()
        device.submit(held)
        await asyncio.sleep(0.05)
        waiting = device.submit(counting(1))
        stopping = asyncio.create_task(asyncio.to_thread(device.stop))
        await asyncio.sleep(0.2)
        gate.set()  # the step that was running ends; nothing is begun any more
        await stopping
        with pytest.raises(ApiError, match="shutting down"):
            await asyncio.wait_for(collected(waiting), 5)

    asyncio.run(run())
