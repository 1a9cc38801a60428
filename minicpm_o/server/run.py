"""Serve an application until it is told to stop: answers that are being given may end, new ones are refused."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from ..errors import OptionError
from ..inputs.sources import MIB
from .config import ServerConfig
from .errors import ApiError
from .state import ServerState

WEBSOCKET_QUEUE = 64
PING_S = 20.0


def open_port(config: ServerConfig) -> socket.socket:
    """The listening socket. Raises OptionError when the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as cause:
        listener.close()
        raise OptionError(f"cannot listen on {config.host} port {config.port}: {cause.strerror or cause}; choose "
                          "another with --port, 0 for any that is free") from cause
    return listener


class Server(uvicorn.Server):
    """uvicorn that first refuses new work, then lets answers end, then closes."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self.state = state

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn, after the device takes no more."""
        self.state.device.refuse_new()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell live clients, wait for answers that are being given, close what is left."""
        for server in self.servers:
            server.close()
        for channel in list(self.state.channels):
            channel.error(ApiError("the server is shutting down; what is being answered is answered still",
                                   status=503, code="shutting_down"))
        ends = time.monotonic() + self.state.config.limits.drain_s
        while self.state.device.num_running + self.state.device.num_waiting and time.monotonic() < ends:
            await asyncio.sleep(0.05)
            if self.force_exit:
                break
        await super().shutdown(sockets)


def serve(app: FastAPI, config: ServerConfig, listener: socket.socket) -> None:
    """Blocks until SIGINT or SIGTERM; running answers get `drain_s` to end. A SIGTERM ends it without an error."""
    server = Server(uvicorn_config(app, config), app.state.server)
    signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises the signal again when all is closed
    asyncio.run(server.serve(sockets=[listener]))


@contextmanager
def in_background(app: FastAPI, config: ServerConfig) -> Iterator[str]:
    """Serve in a thread while the block lasts; gives the address, as "http://127.0.0.1:8000"."""
    listener = open_port(config)
    server = uvicorn.Server(uvicorn_config(app, config))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise OptionError("the server ended before it listened; its log says why")
        time.sleep(0.01)
    try:
        yield f"{'https' if config.ssl_certfile else 'http'}://{config.host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)


def uvicorn_config(app: FastAPI, config: ServerConfig) -> uvicorn.Config:
    options: dict[str, Any] = {}
    if config.ssl_certfile is not None and config.ssl_keyfile is not None:
        options = {"ssl_certfile": str(config.ssl_certfile), "ssl_keyfile": str(config.ssl_keyfile)}
    return uvicorn.Config(app, log_level="warning", access_log=False, ws="websockets-sansio", lifespan="on",
                          ws_max_size=round(config.limits.max_event_mb * MIB) + MIB, ws_max_queue=WEBSOCKET_QUEUE,
                          ws_ping_interval=PING_S, ws_ping_timeout=PING_S,
                          timeout_graceful_shutdown=round(config.limits.drain_s), server_header=False, **options)
