"""A model to a live session: full duplex where the model was taught it, else turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from ..decide import DecideConfig
from .duplex_session import SYSTEM_PROMPT, DuplexConfig, DuplexSession, open_duplex
from .session import LiveConfig, LiveModel, LiveSession, SessionEvent

AnySession: TypeAlias = "LiveSession | DuplexSession"
DUPLEX_VERSION = "4.5"
"""Of the official models, the one that was taught full duplex."""


class OpenModel(LiveModel, Protocol):
    """What is asked of a model beside what its session asks; `MiniCPMO` is one."""

    @property
    def parts(self) -> Any: ...

    def voices(self) -> Sequence[Any]: ...


def can_be_live(model: OpenModel) -> bool:
    """Whether `open_session` opens one."""
    return bool(model.voices()) or getattr(model.parts.config, "version", "") == DUPLEX_VERSION


def open_session(model: OpenModel, config: LiveConfig) -> AnySession:
    """A session that nobody has told anything yet. Raises OptionError for models that do neither."""
    if model.voices():
        return LiveSession(model, model.parts.recogniser.detector, config)
    return open_duplex(model.parts, instructions=config.instructions or SYSTEM_PROMPT, ref_audio=config.voice,
                       config=DuplexConfig(_deciding(config), seed=config.seed), speaks=config.speaks)


def open_told(model: OpenModel, told: str, config: LiveConfig) -> tuple[AnySession, list[SessionEvent]]:
    """A session that is told something before its stream begins, and the work of answering that.

    Where there are turns it is the first of them; full duplex has it as its instructions. Raises OptionError."""
    if not model.voices():
        return open_session(model, replace(config, instructions=told)), []
    session = LiveSession(model, model.parts.recogniser.detector, config)
    return session, session.read(told)


def _deciding(config: LiveConfig) -> DecideConfig:
    """How full duplex chooses, where the caller says how."""
    if config.temperature is None:
        return DecideConfig()
    return DecideConfig(temperature=config.temperature) if config.temperature else DecideConfig(greedy=True)
