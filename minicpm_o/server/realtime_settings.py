"""A realtime session's settings: OpenAI's session object, checked, and what it means for a live session.

Names and shapes as of the GA Realtime API; `extra_body` holds what it has not, under vLLM-Omni's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, ValidationError

from ..runtime.live.gate import GateConfig
from ..runtime.live.session import LiveConfig
from . import voices
from .errors import ApiError
from .schema import Function, Strict, Tool
from .state import ServerState
from .tools import call_schema, introduction, tools_form

DEFAULT_INSTRUCTIONS = "Answer in one or two short sentences, as in a spoken conversation."
EAGERNESS_MS = {"low": 1200.0, "medium": 700.0, "high": 350.0, "auto": 700.0}
"""`semantic_vad` is not known here: its eagerness becomes the silence that ends a turn."""


class PcmFormat(Strict):
    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[16000, 24000] = 24000


class TurnDetection(Strict):
    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    prefix_padding_ms: int = Field(default=300, ge=0, le=10_000)
    silence_duration_ms: int = Field(default=500, ge=100, le=10_000)
    idle_timeout_ms: None = None
    create_response: bool = True
    interrupt_response: bool = True
    eagerness: Literal["low", "medium", "high", "auto"] | None = None


class Transcription(Strict):
    """Turns it on. The recogniser is the model's own, whatever is named."""

    model: str | None = None
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    prompt: None = None


class AudioInput(Strict):
    format: PcmFormat = PcmFormat()
    noise_reduction: None = None
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = TurnDetection()


class AudioOutput(Strict):
    format: PcmFormat = PcmFormat()
    voice: str | dict[str, Any] | None = None
    speed: float = Field(default=1.0, ge=0.25, le=2.0)


class Audio(Strict):
    input: AudioInput = AudioInput()
    output: AudioOutput = AudioOutput()


class RealtimeTool(Function):
    type: Literal["function"]


class Extra(Strict):
    """What OpenAI has no name for."""

    native_duplex: bool = False
    """Tell listen and speak decisions, and take playback acknowledgements."""


class Settings(Strict):
    """The session object."""

    type: Literal["realtime"] = "realtime"
    model: str | None = None
    instructions: str = DEFAULT_INSTRUCTIONS
    output_modalities: list[Literal["text", "audio"]] = Field(default=["audio"], min_length=1, max_length=1)
    audio: Audio = Audio()
    tools: list[RealtimeTool] = Field(default=[])
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] = "auto"
    max_output_tokens: int | Literal["inf"] = "inf"
    temperature: float | None = Field(default=None, ge=0, le=2)
    truncation: Literal["auto"] | None = None
    tracing: None = None
    include: list[str] = Field(default=[], max_length=0)
    prompt: None = None
    parallel_tool_calls: bool | None = None
    extra_body: Extra = Extra()

    @property
    def speaks(self) -> bool:
        return "audio" in self.output_modalities


def updated(settings: Settings, change: Mapping[str, Any]) -> Settings:
    """Settings with a change merged in, object by object as OpenAI does. Raises ApiError for what is wrong in it."""
    try:
        return Settings.model_validate(_merged(settings.model_dump(), change))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        code = "unknown_parameter" if first["type"] == "extra_forbidden" else "invalid_value"
        words = "is not known" if first["type"] == "extra_forbidden" else str(first["msg"])
        raise ApiError(f"session.{place}: {words}", param=f"session.{place}", code=code) from error


def _merged(old: Any, new: Any) -> Any:
    """Objects are merged, anything else is replaced; a null where an object may not be absent means its defaults."""
    if isinstance(old, dict) and isinstance(new, Mapping):
        return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}
    return new


def as_object(settings: Settings, session_id: str, state: ServerState) -> dict[str, Any]:
    """The session as `session.created` and `session.updated` show it, with what this server can do."""
    shown = settings.model_dump(exclude_none=True)
    detection = settings.audio.input.turn_detection
    shown["audio"]["input"]["turn_detection"] = None if detection is None else _shown_detection(detection)
    return {**shown, "id": session_id, "object": "realtime.session", "model": state.model_name,
            "capabilities": capabilities()}


def _shown_detection(detection: TurnDetection) -> dict[str, Any]:
    """Only what belongs to its kind."""
    other = ({"eagerness"} if detection.type == "server_vad"
             else {"threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms"})
    return detection.model_dump(exclude=other)


def capabilities() -> dict[str, Any]:
    """What clients may branch on, under vLLM-Omni's names."""
    return {"implementation_level": "session", "chunk_period_ms": 1000, "supports_barge_in": True,
            "supports_audio_truncate": True, "supports_playback_ack": True, "supports_session_resume": False,
            "supports_tools": True, "supports_video": True, "supports_proactive": True}


def live_config(settings: Settings, state: ServerState) -> LiveConfig:
    """What the settings mean for a live session. Raises ApiError for a voice or a tool that is not there."""
    detection = settings.audio.input.turn_detection
    tools = [Tool(type="function", function=Function(**tool.model_dump(exclude={"type"}))) for tool in settings.tools]
    tools = [] if settings.tool_choice == "none" else tools
    words = "\n\n".join(filter(None, [settings.instructions, introduction(tools) if tools else ""]))
    most = state.config.limits.max_tokens
    limit = 256 if settings.max_output_tokens == "inf" else min(settings.max_output_tokens, most)
    config = LiveConfig(
        instructions=words, voice=voices.choose(state.model, settings.audio.output.voice),
        speed=settings.audio.output.speed, speaks=settings.speaks, max_tokens=max(1, limit),
        temperature=settings.temperature, keep_mb=state.config.limits.session_memory_mb,
        form=_form(tools, settings.tool_choice), language=_language(settings, state))
    if detection is None:
        return replace(config, detects=False, answers=False, barge_in=False)
    return replace(config, gate=_gate(detection), answers=detection.create_response,
                   barge_in=detection.interrupt_response)


def _language(settings: Settings, state: ServerState) -> str | None:
    """The language that the user speaks, where it was told. Raises ApiError for one that nobody here understands."""
    asked = settings.audio.input.transcription
    language = None if asked is None else asked.language
    if language is not None and language not in state.model.parts.recogniser.vocabulary.languages:
        raise ApiError(f"the recogniser does not know the language {language!r}; leave it out to have it found",
                       param="session.audio.input.transcription.language", code="invalid_value")
    return language


def _form(tools: list[Tool], choice: Any) -> Any:
    if not tools:
        return None
    if choice == "auto":
        return tools_form(tools)
    wanted = choice.get("name") if isinstance(choice, Mapping) else None
    chosen = [tool for tool in tools if wanted is None or tool.function.name == wanted]
    if not chosen:
        raise ApiError(f"tool_choice asks for {wanted!r}, which is not among tools", param="session.tool_choice",
                       code="invalid_value")
    return call_schema(chosen)


def _gate(detection: TurnDetection) -> GateConfig:
    if detection.type == "semantic_vad":
        return GateConfig(silence_ms=EAGERNESS_MS[detection.eagerness or "auto"])
    return GateConfig(threshold=detection.threshold, prefix_ms=float(detection.prefix_padding_ms),
                      silence_ms=float(detection.silence_duration_ms))
