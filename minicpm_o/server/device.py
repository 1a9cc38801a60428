"""One model for everybody: answers are computed a step at a time, in turn, on as many threads as the model serves.

    job = device.submit(work, owner=..., live=True)      waits in line beyond the limit, refused beyond the queue
    async for event in job: ...                          the job rests while its reader does not keep up

A step is what the work's iterator does until its next event: a word, a clause of sound. Whoever's sound is about to
run out comes first, then whoever waited longest. Work is whatever iterates; this knows neither models nor sockets.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..runtime.device import give_back_memory
from .config import Limits
from .errors import ApiError

logger = logging.getLogger("minicpm_o.server")

MOST_UNREAD = 256
"""Events that wait for a slow reader before its job rests."""
URGENT_LEAD_S = 0.7
"""A live answer with less sound ahead than this goes first."""
TIDY_S = 10.0
"""After so long without work, freed memory goes back to the system: longer than a conversation rests, for it takes
time to get it again."""
USUAL_JOB_S = 2.0
"""How long an answer is thought to take before any has been seen."""

Work: TypeAlias = "Callable[[], Iterator[Any]]"


class _End:
    """Marks the last event."""


_END = _End()


@dataclass(eq=False)
class Job:
    """Work that is waiting or running; iterate over it for its events, in the loop that submitted it."""

    work: Work
    owner: str
    live: bool
    lead_s: Callable[[], float] | None
    """Seconds of sound ahead of a live answer; None where it has no sound."""
    loop: asyncio.AbstractEventLoop
    device: Device
    events: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    iterator: Iterator[Any] | None = None
    num_sent: int = 0
    """Counted by the device's thread alone, as `num_read` is by the loop: no count is changed by two."""
    num_read: int = 0
    is_closed: bool = False
    submitted_s: float = field(default_factory=time.monotonic)
    started_s: float | None = None
    served_s: float = 0.0

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._events()

    async def _events(self) -> AsyncIterator[Any]:
        try:
            while True:
                event = await self.events.get()
                self.num_read += 1
                if self.num_read % (MOST_UNREAD // 4) == 0:
                    self.device.wake()
                if event is _END:
                    return
                if isinstance(event, _Failure):
                    raise event.error
                yield event
        finally:
            self.close()

    def close(self) -> None:
        """Nobody reads on: the work ends at its next step, or is never begun. Safe to call twice."""
        self.is_closed = True
        self.device.leave(self)

    @property
    def is_urgent(self) -> bool:
        return self.live and (self.lead_s is None or self.lead_s() < URGENT_LEAD_S)

    @property
    def can_step(self) -> bool:
        return self.is_closed or self.num_sent - self.num_read < MOST_UNREAD


@dataclass(frozen=True)
class _Failure:
    error: BaseException


@dataclass(frozen=True)
class Place:
    """Where in line a job stands."""

    position: int
    """Jobs before it; 0 is running."""
    eta_s: float


class Device:
    """Runs jobs on a thread of its own. `start` and `stop` it; `submit` from an event loop."""

    def __init__(self, limits: Limits | None = None, workers: int = 1) -> None:
        """workers: steps that are computed at the same time."""
        self.limits = limits or Limits()
        self.workers = workers
        self._changed = threading.Condition()
        self._running: list[Job] = []
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        """By owner; owners take turns."""
        self._threads: list[threading.Thread] = []
        self._stepping: set[Job] = set()
        self._is_stopping = False
        self._is_draining = False
        self._is_tidy = True
        self._worked_s = 0.0
        self._usual_s = USUAL_JOB_S

    # --- from the event loop ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work; once."""
        self._threads = [threading.Thread(target=self._work, name=f"minicpm-o-device-{number}", daemon=True)
                         for number in range(self.workers)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End after the current step; jobs that are left are refused."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=30)
        for job in [*self._running, *(job for line in self._waiting.values() for job in line)]:
            self._send(job, _Failure(ApiError("the server is shutting down", status=503, code="shutting_down")))

    def refuse_new(self) -> None:
        """Take no new jobs; those that run or wait go on."""
        self._is_draining = True

    @property
    def is_alive(self) -> bool:
        return bool(self._threads) and all(thread.is_alive() for thread in self._threads)

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return sum(len(line) for line in self._waiting.values())

    def submit(self, work: Work, *, owner: str = "", live: bool = False,
               lead_s: Callable[[], float] | None = None) -> Job:
        """Queue work; live work has places of its own and never waits in line.

        Raises ApiError 503 while draining, 429 when the line is full.
        """
        job = Job(work, owner, live, lead_s, asyncio.get_running_loop(), self)
        with self._changed:
            if self._is_draining or self._is_stopping:
                raise ApiError("the server is shutting down; try another or come back", status=503,
                               code="shutting_down", headers={"Retry-After": "5"})
            if not live and self.num_waiting >= self.limits.max_waiting + self._free_places():
                wait_s = self._eta_s(self.num_waiting)
                raise ApiError(f"{self.num_running} answers are running and {self.num_waiting} wait, which is all this "
                               f"server takes; come back in about {wait_s:.0f} s", status=429, code="queue_full",
                               headers={"Retry-After": str(max(1, round(wait_s)))})
            if live:
                self._begin(job)
            else:
                self._waiting.setdefault(owner, deque()).append(job)
            self._changed.notify_all()
        return job

    def place(self, job: Job) -> Place:
        """Where a job stands in line, owners taking turns."""
        with self._changed:
            if job.started_s is not None:
                return Place(0, 0.0)
            order = self._order()
            position = order.index(job) + 1 if job in order else 0
            return Place(position, self._eta_s(position))

    def leave(self, job: Job) -> None:
        """A reader left; its job gives up its place."""
        with self._changed:
            if job.started_s is None and job in self._waiting.get(job.owner, ()):
                self._leave_line(job)
            self._changed.notify_all()

    def wake(self) -> None:
        """Something changed: a reader has caught up."""
        with self._changed:
            self._changed.notify_all()

    # --- on the device's threads -----------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                job = self._next()
                while job is None and not self._is_stopping:
                    self._changed.wait(timeout=0.5)
                    self._tidy()
                    job = self._next()
                if self._is_stopping or job is None:
                    return
                self._stepping.add(job)
            self._step(job)
            with self._changed:
                self._stepping.discard(job)
                self._is_tidy, self._worked_s = False, time.monotonic()
                self._changed.notify_all()

    def _free_places(self) -> int:
        """Answers that may begin at once; the device's threads let them in."""
        return max(0, self.limits.max_running - sum(not job.live for job in self._running))

    def _tidy(self) -> None:
        """Nothing to do for a while: hand back what the last work left, once."""
        if not self._is_tidy and not self._running and time.monotonic() - self._worked_s > TIDY_S:
            self._is_tidy = True
            give_back_memory()

    def _next(self) -> Job | None:
        """The job whose turn it is; moves waiting ones in where there is room."""
        while self._free_places() and (order := self._order()):
            self._leave_line(order[0])
            self._begin(order[0])
        ready = [job for job in self._running if job.can_step and job not in self._stepping]
        if any(job.is_urgent for job in self._stepping):  # whose sound runs out gets all the cores
            ready = [job for job in ready if job.is_urgent or job.is_closed]
        return min(ready, key=lambda job: (not job.is_closed, not job.is_urgent, job.served_s), default=None)

    def _step(self, job: Job) -> None:
        """One event of a job, or its end. Whatever it raises reaches its reader and nobody else."""
        try:
            if job.is_closed:
                self._finish(job)
                return
            job.iterator = job.iterator or iter(job.work())
            event = next(job.iterator, _END)
            job.served_s = time.monotonic()
            self._send(job, event)
            if event is _END:
                self._finish(job)
        except BaseException as error:  # noqa: BLE001 - a failed answer must not end the others
            self._send(job, _Failure(error))
            self._finish(job)

    def _finish(self, job: Job) -> None:
        close = getattr(job.iterator, "close", None)
        if close is not None:
            try:
                close()
            except BaseException:
                logger.exception("an answer could not be closed")
        job.iterator = iter(())
        with self._changed:
            if job in self._running:
                self._running.remove(job)
            if job.started_s is not None and not job.live:
                self._usual_s += 0.2 * (time.monotonic() - job.started_s - self._usual_s)

    def _begin(self, job: Job) -> None:
        job.started_s = job.served_s = time.monotonic()
        self._running.append(job)

    def _leave_line(self, job: Job) -> None:
        """Out of the line; its owner goes behind the others."""
        line = self._waiting[job.owner]
        line.remove(job)
        del self._waiting[job.owner]
        if line:
            self._waiting[job.owner] = line

    def _order(self) -> list[Job]:
        """Who is next: one of each owner in turn."""
        lines = list(map(list, self._waiting.values()))
        longest = max(map(len, lines), default=0)
        return [line[place] for place in range(longest) for line in lines if place < len(line)]

    def _eta_s(self, position: int) -> float:
        return self._usual_s * position / self.limits.max_running

    def _send(self, job: Job, event: Any) -> None:
        job.num_sent += 1
        try:
            job.loop.call_soon_threadsafe(job.events.put_nowait, event)
        except RuntimeError:  # the loop has ended: nobody reads
            job.is_closed = True
