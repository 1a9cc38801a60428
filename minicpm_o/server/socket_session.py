"""What both dialects of a live socket share: events to handlers, answers to the device, and a clean end."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ..runtime.live.duplex_session import DuplexSession
from ..runtime.live.session import LiveSession, Work
from .channel import Channel
from .device import Job
from .errors import ApiError, as_api_error
from .state import ServerState


class SocketSession(ABC):
    """One client's session."""

    live: LiveSession | DuplexSession | None

    def __init__(self, state: ServerState, channel: Channel, owner: str) -> None:
        self.state = state
        self.channel = channel
        self.owner = owner
        self._tasks: dict[Work, asyncio.Task[None]] = {}
        self._confirmed: dict[Work, asyncio.Event] = {}
        self._handlers: dict[str, Callable[[dict[str, Any]], Any]] = {}

    @abstractmethod
    def _unknown(self, kind: str) -> ApiError:
        """What is told about an event that no handler is for."""

    @abstractmethod
    async def _told(self, work: Work, job: Job) -> None:
        """Tell an answer once its turn has really ended."""

    async def _handle(self, event: dict[str, Any]) -> None:
        """One client event; what is wrong with it is told with its id."""
        try:
            handler = self._handlers.get(event["type"])
            if handler is None:
                raise self._unknown(event["type"][:80])
            result = handler(event)
            if asyncio.iscoroutine(result):
                await result
        except Exception as error:  # noqa: BLE001 - told; the session goes on
            self.channel.error(as_api_error(error), event.get("event_id"))

    def _close(self, event: dict[str, Any]) -> None:
        self.channel.send("session.closed", reason="stopped")
        self.channel.close()

    def _start(self, work: Work) -> None:
        """Let the device compute an answer, and tell it when the turn has really ended."""
        live = self.live
        job = self.state.device.submit(work.run, owner=self.owner, live=True,
                                       lead_s=lambda: live.lead_s(work) if live else 0.0)
        self._confirmed[work] = asyncio.Event()
        if work.confirmed.is_set():
            self._confirmed[work].set()
        self._tasks[work] = asyncio.create_task(self._told(work, job))

    def _notice_confirmed(self) -> None:
        """Let those be told whose turn has ended by now."""
        for work, confirmed in self._confirmed.items():
            if work.confirmed.is_set():
                confirmed.set()

    def _finished(self, work: Work, job: Job) -> None:
        """Nothing more comes of an answer."""
        job.close()
        work.forget()
        self._tasks.pop(work, None)
        self._confirmed.pop(work, None)

    async def _end_all(self) -> None:
        """The client has left: nothing is computed for it any more."""
        for work, task in list(self._tasks.items()):
            work.cancel.set()
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self.state.slots.leave(self)
        self._handlers.clear()  # they hold the session, and it its sounds
