"""One WebSocket as a stream of JSON events: what is no event is answered with an error, slow readers are let go.

Events to send wait in a queue, so that nobody who computes waits for a network; a client that leaves too much unread is
closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from ..inputs.sources import MIB
from ..runtime.live.session import new_id
from .config import Limits
from .errors import ApiError

MOST_UNSENT_MB = 32.0
TRY_AGAIN_LATER = 1013


class Channel:
    """Sends and receives events of one socket."""

    def __init__(self, socket: WebSocket, limits: Limits) -> None:
        self.socket = socket
        self.limits = limits
        self.is_open = True
        self.last_event_s = asyncio.get_running_loop().time()
        self._unsent: asyncio.Queue[str | None] = asyncio.Queue()
        self._unsent_bytes = 0
        self._sender: asyncio.Task[None] | None = None
        self._close_code = 1000
        self._close_reason = ""

    async def accept(self) -> None:
        """Open the socket, with the protocol that OpenAI's clients offer."""
        offered = [name.strip() for name in self.socket.headers.get("sec-websocket-protocol", "").split(",")]
        await self.socket.accept(subprotocol="realtime" if "realtime" in offered else None)
        self._sender = asyncio.create_task(self._send_all())

    def send(self, kind: str, **fields: Any) -> None:
        """Queue one event; it gets an id of its own."""
        if not self.is_open:
            return
        text = json.dumps({"type": kind, "event_id": new_id("event"), **fields}, ensure_ascii=False)
        self._unsent_bytes += len(text)
        if self._unsent_bytes > MOST_UNSENT_MB * MIB:
            self.close(TRY_AGAIN_LATER, "events were not read fast enough")
            return
        self._unsent.put_nowait(text)

    def error(self, error: ApiError, event_id: Any = None) -> None:
        """Tell of an error; the socket stays open."""
        self.send("error", error={**error.body(), "event_id": event_id if isinstance(event_id, str) else None})

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End after what is queued; at once where the queue is why."""
        if not self.is_open:
            return
        self.is_open = False
        self._close_code, self._close_reason = code, reason[:120]
        self._unsent.put_nowait(None)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """What the client sends, until it leaves or the channel is closed."""
        while self.is_open:
            try:
                message = await self.socket.receive()
            except (WebSocketDisconnect, RuntimeError):
                return
            if message["type"] == "websocket.disconnect":
                return
            self.last_event_s = asyncio.get_running_loop().time()
            event = self._event(message)
            if event is not None:
                yield event

    def _event(self, message: Any) -> dict[str, Any] | None:
        """A frame to an event, or None where it is none and the client was told."""
        text = message.get("text")
        if text is None:
            self.error(ApiError("binary frames are not understood; send events as JSON text", code="binary_frame"))
            return None
        if len(text) > self.limits.max_event_mb * MIB:
            self.error(ApiError(f"the event is larger than {self.limits.max_event_mb:g} MB; send the sound in smaller "
                                "pieces", status=413, code="event_too_large"))
            return None
        try:
            event = json.loads(text)
        except (ValueError, RecursionError) as cause:
            self.error(ApiError(f"the event is no valid JSON: {str(cause)[:200]}", code="invalid_json"))
            return None
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            self.error(ApiError("an event is an object with a 'type'", code="invalid_event"))
            return None
        return event

    async def _send_all(self) -> None:
        """On a task of its own, so that a slow network holds nobody up."""
        try:
            while (text := await self._unsent.get()) is not None:
                await self.socket.send_text(text)
                self._unsent_bytes -= len(text)
        except (WebSocketDisconnect, RuntimeError):
            self.is_open = False

    async def finish(self) -> None:
        """Send what is queued, then close; a reader that takes nothing is not waited for long."""
        self.close(self._close_code, self._close_reason)
        if self._sender is not None:
            try:
                await asyncio.wait_for(self._sender, timeout=2.0)
            except (TimeoutError, asyncio.TimeoutError):
                self._sender.cancel()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await self.socket.close(self._close_code, self._close_reason)
