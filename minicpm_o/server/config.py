"""What a server allows, and how much. Values alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from ..errors import OptionError


@dataclass(frozen=True)
class Limits:
    """What one server takes on; beyond it callers wait, and beyond that they are told to come back."""

    max_running: int = 4
    """Answers computed side by side."""
    batch: int = 2
    """Answers whose words are computed in one run of the language model; 1 computes them one after the other."""
    max_waiting: int = 32
    """Requests that may wait for their turn."""
    max_sessions: int = 4
    """Live sessions that are answered; others wait in line."""
    max_sockets: int = 2000
    """Open WebSockets, idle ones too."""
    max_body_mb: float = 64.0
    """Of one HTTP request."""
    max_event_mb: float = 16.0
    """Of one WebSocket message; OpenAI takes 15 MB of audio."""
    max_media_s: float = 600.0
    """Of one sound or video."""
    max_tokens: int = 4096
    """Of one answer."""
    session_memory_mb: float = 256.0
    """Of pictures and sounds that one live session keeps."""
    session_idle_s: float = 900.0
    """A live session without any event for so long is closed."""
    drain_s: float = 30.0
    """What running answers get to end after SIGTERM."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise OptionError(f"{item.name} is {value}; it must be above 0")


@dataclass(frozen=True)
class ServerConfig:
    """Where a server listens and whom it serves."""

    host: str = "127.0.0.1"
    port: int = 8000
    served_name: str | None = None
    """Name of the model in the API; by default its own."""
    api_keys: tuple[str, ...] = ()
    """Callers must bring one of these as a bearer token; none: everybody who reaches the port is served."""
    origins: tuple[str, ...] = ()
    """Pages of other addresses that may call, as "https://example.org"; "*" for all. The server's own always may."""
    allow_urls: bool = False
    """Fetch pictures and sounds from public http(s) addresses; those of private networks never."""
    media_folder: Path | None = None
    """file:// addresses are read below this folder alone; None: never."""
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    with_page: bool = True
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise OptionError(f"port is {self.port}; it must lie between 0 and 65535")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise OptionError("TLS needs both a certificate (ssl_certfile) and its key (ssl_keyfile)")
        for path in (self.ssl_certfile, self.ssl_keyfile, self.media_folder):
            if path is not None and not Path(path).exists():
                raise OptionError(f"there is nothing at {os.fspath(path)!r}; check the path")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in ("127.0.0.1", "::1", "localhost")
