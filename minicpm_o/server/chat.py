"""POST /v1/chat/completions: pictures, sounds, videos and text in; text and speech out, whole or as a stream."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from ..api import MiniCPMO, Reply
from ..inputs.messages import Message
from ..inputs.sources import Source
from ..runtime.live.events import AudioChunk, TextPiece
from ..runtime.live.voice import speak_along, words_of
from ..runtime.speech.speaker import Speech
from . import voices
from .device import Job
from .errors import ApiError, as_api_error
from .media import pcm16, to_base64
from .metrics import RequestWatch
from .schema import ChatRequest, Tool
from .sound_formats import whole
from .sse import DONE, comment, data
from .state import ServerState, owner_of, state_of
from .tools import Form, answer_form, plain_messages, tool_calls, usable_tools

router = APIRouter()

ChatEvent: TypeAlias = "TextPiece | AudioChunk | Reply"
FINISH: Mapping[str, str] = {"stop": "stop", "stop_string": "stop", "length": "length", "cancelled": "stop"}
LEAST_TEMPERATURE = 1e-3
LINE_TOLD_S = 2.0
"""How often a stream that waits in line says where it stands."""


@dataclass(frozen=True)
class Answer:
    """What is to be computed for one request."""

    model: MiniCPMO
    messages: Sequence[Message]
    options: dict[str, Any]
    voice: Source | None
    speaks: bool
    tools: Sequence[Tool]
    cancel: threading.Event = field(default_factory=threading.Event)

    def events(self) -> Iterator[ChatEvent]:
        """Words, sound behind each clause, and the whole reply last."""
        replies: list[Reply] = []
        by_itself = self.speaks and not self.model.voices()  # an official checkpoint speaks what it thought
        events = self.model.chat(self.messages, stream=True, cancel=self.cancel, generate_audio=by_itself,
                                 **self.options)

        def say(clause: str) -> Iterator[Speech]:
            return iter(self.model.speak_stream(clause, voice=self.voice))

        yield from speak_along(words_of(events, replies), say if self.speaks and not by_itself else None)
        reply = replies[-1]
        if reply.speech is not None:
            yield AudioChunk(reply.speech.waveform, reply.speech.rate_hz, reply.text)
        yield reply


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, request: Request) -> Any:
    """Answer a conversation."""
    state = state_of(request)
    state.check_model(body.model)
    watch = state.metrics.watch()
    try:
        answer = await asyncio.to_thread(_prepare, state, body)
        job = state.device.submit(answer.events, owner=owner_of(request))
    except Exception as error:
        watch.failed(as_api_error(error, "messages").code or "refused")
        raise
    reply = _Writer(state, body, answer, watch)
    if body.stream:
        return StreamingResponse(reply.stream(job), media_type="text/event-stream",
                                 headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    return await reply.whole(job, request)


def _prepare(state: ServerState, body: ChatRequest) -> Answer:
    """The request checked and its media read; refusals come from here, before anything waits."""
    limit = state.config.limits.max_tokens
    if (body.token_limit or 0) > limit:
        raise ApiError(f"max_tokens is {body.token_limit}; this server gives at most {limit}", param="max_tokens",
                       code="invalid_value")
    tools = usable_tools(body)
    messages = state.reader.messages(plain_messages(body.messages, tools))
    form: Form | None = answer_form(body)
    stop = [body.stop] if isinstance(body.stop, str) else list(body.stop or ())
    usual = min(state.model.parts.defaults().max_tokens, limit)
    options = {"max_tokens": body.token_limit or usual, "temperature": _settled(body.temperature), "top_p": body.top_p,
               "top_k": body.top_k, "min_p": body.min_p, "repetition_penalty": body.repetition_penalty,
               "seed": body.seed, "stop": stop, "form": form}
    voice = voices.choose(state.model, body.audio.voice if body.audio else None) if body.wants_audio else None
    return Answer(state.model, messages, options, voice, body.wants_audio, tools)


def _settled(temperature: float | None) -> float | None:
    """Next to nothing is nothing: dividing by it would leave no finite number."""
    return 0.0 if temperature is not None and temperature < LEAST_TEMPERATURE else temperature


@dataclass
class _Writer:
    """Events to the answer's JSON."""

    state: ServerState
    body: ChatRequest
    answer: Answer
    watch: RequestWatch
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex[:24]}")
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    sound: list[AudioChunk] = field(default_factory=list)
    reply: Reply | None = None

    def take(self, event: ChatEvent) -> None:
        """Note an event."""
        if isinstance(event, TextPiece):
            self.text += event.text
            self.watch.word()
        elif isinstance(event, AudioChunk):
            self.sound.append(event)
            self.watch.sound(event.ms / 1000)
        else:
            self.reply = event
            usage = event.usage
            self.watch.end(FINISH[event.finish_reason], usage.prompt, usage.cached, usage.output)

    # --- at once

    async def whole(self, job: Job, request: Request) -> JSONResponse:
        try:
            async for event in job:
                self.take(event)
                if await request.is_disconnected():
                    break
        except Exception as error:
            told = as_api_error(error, "messages")
            self.watch.failed(told.code or "failed")
            raise told from error
        finally:
            self.answer.cancel.set()
        if self.reply is None:  # the caller left
            return JSONResponse({"error": ApiError("the request was given up").body()}, 499)
        return JSONResponse(self._object("chat.completion", [self._choice()], self._usage()))

    def _choice(self) -> dict[str, Any]:
        reply = self._reply
        calls = tool_calls(reply.text, self.answer.tools)
        message: dict[str, Any] = {"role": "assistant", "content": None if calls else reply.text, "refusal": None}
        if calls:
            message["tool_calls"] = calls
        if self.answer.speaks:
            message |= {"content": None, "audio": self._audio()}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish(bool(calls))}

    def _audio(self) -> dict[str, Any] | None:
        if not self.sound:
            return None
        name, expires = self.state.spoken.remember(self._reply.text)
        rate_hz = self.sound[0].rate_hz
        waveform = _joined(self.sound)
        chosen = self.body.audio.format if self.body.audio else "wav"
        return {"id": name, "data": to_base64(whole(chosen, waveform, rate_hz)), "expires_at": expires,
                "transcript": self._reply.text}

    # --- as a stream

    async def stream(self, job: Job) -> AsyncIterator[bytes]:
        try:
            async for line in self._in_line(job):
                yield line
            yield self._chunk({"role": "assistant", "content": "" if not self.answer.speaks else None})
            name, expires = self.state.spoken.remember("") if self.answer.speaks else ("", 0)
            if self.answer.speaks:
                yield self._chunk({"audio": {"id": name}})
            async for event in job:
                self.take(event)
                for delta in self._deltas(event, name):
                    yield self._chunk(delta)
            for delta in self._last_deltas(name, expires):
                yield self._chunk(delta)
            yield self._chunk({}, self._finish(bool(tool_calls(self._reply.text, self.answer.tools))))
            if self.body.stream_options and self.body.stream_options.include_usage:
                yield data(self._object("chat.completion.chunk", [], self._usage()))
            yield DONE
        except Exception as error:  # noqa: BLE001 - the status was sent already: told as an event
            told = as_api_error(error, "messages")
            self.watch.failed(told.code or "failed")
            yield data({"error": told.body()})
        finally:
            self.answer.cancel.set()
            job.close()

    async def _in_line(self, job: Job) -> AsyncIterator[bytes]:
        """Comments that tell where a waiting request stands; SSE clients skip them."""
        while (place := self.state.device.place(job)).position:
            yield comment(f"position {place.position} in line, about {place.eta_s:.0f} s")
            await asyncio.sleep(min(LINE_TOLD_S, max(0.05, place.eta_s / 4)))

    def _deltas(self, event: ChatEvent, name: str) -> Iterator[dict[str, Any]]:
        if isinstance(event, AudioChunk):
            yield {"audio": {"id": name, "data": to_base64(pcm16(event.waveform))}}
        elif isinstance(event, TextPiece) and self.answer.speaks:
            yield {"audio": {"id": name, "transcript": event.text}}
        elif isinstance(event, TextPiece) and not self._may_be_call:
            yield {"content": event.text}

    def _last_deltas(self, name: str, expires: int) -> Iterator[dict[str, Any]]:
        """What can be told only at the end: a call, text that might have been one, when the sound is forgotten."""
        reply = self._reply
        if self.answer.speaks:
            self.state.spoken.texts[name] = (float(expires), reply.text)
            yield {"audio": {"id": name, "expires_at": expires}}
        elif calls := tool_calls(reply.text, self.answer.tools):
            yield {"tool_calls": [{"index": place, **call} for place, call in enumerate(calls)]}
        elif self._may_be_call:
            yield {"content": reply.text}

    @property
    def _may_be_call(self) -> bool:
        """A call begins with a brace; until it is known whether one comes, its text is held back."""
        return bool(self.answer.tools) and self.text.lstrip().startswith("{")

    # --- common

    @property
    def _reply(self) -> Reply:
        if self.reply is None:
            raise ApiError("the answer broke off", status=500, code="internal_error")
        return self.reply

    def _finish(self, is_call: bool) -> str:
        return "tool_calls" if is_call else FINISH[self._reply.finish_reason]

    def _chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return data(self._object("chat.completion.chunk", [choice]))

    def _object(self, kind: str, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        made: dict[str, Any] = {"id": self.id, "object": kind, "created": self.created, "model": self.state.model_name,
                                "system_fingerprint": f"fp_{self.state.model.fingerprint[:10]}", "choices": choices}
        warnings = list(self.reply.warnings) if self.reply is not None else []
        return {**made, **({"usage": usage} if usage else {}), **({"warnings": warnings} if warnings else {})}

    def _usage(self) -> dict[str, Any]:
        usage = self._reply.usage
        spoken_ms = sum(chunk.ms for chunk in self.sound)
        return {"prompt_tokens": usage.prompt, "completion_tokens": usage.output,
                "total_tokens": usage.prompt + usage.output,
                "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": usage.audio,
                                          "image_tokens": usage.image + usage.video},
                "completion_tokens_details": {"audio_tokens": 0, "reasoning_tokens": 0,
                                              "audio_ms": round(spoken_ms)}}


def _joined(chunks: Sequence[AudioChunk]) -> Any:
    import numpy as np

    return np.concatenate([chunk.waveform for chunk in chunks])
