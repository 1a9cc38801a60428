"""What all handlers of one server share: the model, the device that runs it, what is remembered between requests."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request, WebSocket

from .channel import Channel
from .config import ServerConfig
from .device import Device
from .errors import ApiError
from .media import MediaReader
from .metrics import Metrics
from .slots import Slots

if TYPE_CHECKING:
    from ..api import MiniCPMO

SPOKEN_S = 3600
"""How long a spoken answer can be referred to."""
MOST_SPOKEN = 1000


@dataclass
class SpokenAnswers:
    """Transcripts of spoken answers by name, so that later messages may refer to them."""

    texts: OrderedDict[str, tuple[float, str]] = field(default_factory=OrderedDict)

    def remember(self, text: str) -> tuple[str, int]:
        """Returns the name and when it is forgotten, in seconds of the epoch."""
        name, expires = f"audio_{uuid.uuid4().hex[:24]}", time.time() + SPOKEN_S
        self.texts[name] = (expires, text)
        while len(self.texts) > MOST_SPOKEN:
            self.texts.popitem(last=False)
        return name, int(expires)

    def text(self, name: str) -> str | None:
        expires, text = self.texts.get(name, (0.0, None))
        return text if expires > time.time() else None


@dataclass
class ServerState:
    """One per application."""

    model: MiniCPMO
    config: ServerConfig
    device: Device
    metrics: Metrics
    spoken: SpokenAnswers
    reader: MediaReader
    created_s: int
    slots: Slots
    channels: set[Channel] = field(default_factory=set)
    """Sockets that are open."""

    @classmethod
    def of(cls, model: MiniCPMO, config: ServerConfig) -> ServerState:
        spoken = SpokenAnswers()
        workers = config.limits.batch if config.limits.batch > 1 and model.share(config.limits.batch) else 1
        model.keep_conversations(config.limits.max_sessions + config.limits.max_running)
        return cls(model, config, Device(config.limits, workers), Metrics(config.served_name or model.name), spoken,
                   MediaReader(config, spoken.text), int(time.time()), Slots(config.limits.max_sessions))

    @property
    def model_name(self) -> str:
        return self.config.served_name or self.model.name

    def check_model(self, name: str) -> None:
        """Raises ApiError for a model that is not served here."""
        if name not in (self.model_name, self.model.name, "default"):
            raise ApiError(f"the model {name!r} is not served here; this server has {self.model_name!r}", status=404,
                           param="model", code="model_not_found")


def state_of(request: Request | WebSocket) -> ServerState:
    """The state of the application that a request came to."""
    state: ServerState = request.app.state.server
    return state


def owner_of(request: Request | WebSocket) -> str:
    """Whose turn a request takes: the key's, or the address's."""
    return request.headers.get("authorization") or (request.client.host if request.client else "")
