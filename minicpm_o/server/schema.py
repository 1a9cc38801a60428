"""Requests as OpenAI's API writes them. Arguments that would change the answer and are not heeded are refused by name;
those that change nothing (`user`, `metadata` ...) are taken and left.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Unknown arguments are errors: a misspelt one would be ignored otherwise."""

    model_config = ConfigDict(extra="forbid")


class ChatMessage(Strict):
    """One message; parts of `content` as in `media`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    audio: dict[str, Any] | None = None
    refusal: str | None = None
    function_call: None = None
    annotations: list[Any] | None = None


class VoiceChoice(Strict):
    """How the answer is spoken."""

    voice: str | dict[str, Any] | None = None
    format: Literal["wav", "mp3", "flac", "opus", "pcm16", "aac"] = "wav"


class Function(Strict):
    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(Strict):
    """POST /v1/chat/completions."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, lt=1)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    seed: int | None = None
    stop: str | list[str] | None = None
    modalities: list[Literal["text", "audio"]] | None = None
    audio: VoiceChoice | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    # of one value alone
    n: Literal[1] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: None = None
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    logit_bias: dict[str, float] | None = Field(None, max_length=0)
    # without effect on the answer
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ChatRequest:
        if self.wants_audio and self.stream and self.audio is not None and self.audio.format != "pcm16":
            raise ValueError(f"a streamed answer is spoken as pcm16, not {self.audio.format}; set audio.format")
        if self.wants_audio and self.response_format and self.response_format.get("type") != "text":
            raise ValueError("an answer that is spoken has no response_format; leave one of them out")
        return self

    @property
    def wants_audio(self) -> bool:
        return "audio" in (self.modalities or ())

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class SpeechRequest(Strict):
    """POST /v1/audio/speech."""

    model: str
    input: str = Field(min_length=1, max_length=4096)
    voice: str | dict[str, Any] | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: float = Field(1.0, ge=0.25, le=4.0)
    stream_format: Literal["audio", "sse"] = "audio"
    instructions: str | None = Field(None, max_length=0)
    """Not heeded by any voice here, so it is refused."""
