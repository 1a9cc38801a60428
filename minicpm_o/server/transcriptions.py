"""POST /v1/audio/transcriptions: what is said in a sound, as text, JSON, subtitles, or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from ..errors import InputError
from ..inputs.audio import load_audio
from ..rates import AUDIO_RATE_HZ
from ..runtime.transcribe import Transcript
from .device import Job
from .errors import ApiError, as_api_error
from .sse import data
from .state import ServerState, owner_of, state_of

router = APIRouter()

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]


@router.post("/v1/audio/transcriptions")
async def transcriptions(
    request: Request,
    file: Annotated[UploadFile, File()],
    model: Annotated[str, Form()],
    language: Annotated[str | None, Form(pattern=r"^[a-z]{2,3}$")] = None,
    response_format: Annotated[ResponseFormat, Form()] = "json",
    temperature: Annotated[float | None, Form(ge=0, le=1)] = None,
    stream: Annotated[bool, Form()] = False,
    prompt: Annotated[str | None, Form()] = None,
) -> Response:
    """Write a sound down. The recogniser decides by itself when to draw anew, so temperature changes nothing."""
    state = state_of(request)
    state.check_model(model)
    await _refuse_unheeded(request, prompt)
    waveform = await _sound(state, file)
    job = state.device.submit(lambda: _work(state, waveform, language), owner=owner_of(request))
    if stream:
        return StreamingResponse(_stream(job), media_type="text/event-stream")
    try:
        found = [transcript async for transcript in job]
    except Exception as error:
        raise as_api_error(error, "file") from error
    return _written(found[-1], len(waveform) / AUDIO_RATE_HZ, response_format)


KNOWN = ("file", "model", "language", "response_format", "temperature", "stream", "prompt", "timestamp_granularities",
         "timestamp_granularities[]", "include", "include[]")


async def _refuse_unheeded(request: Request, prompt: str | None) -> None:
    """Raises ApiError for arguments that would change nothing here."""
    form = await request.form()
    for name in form:
        if name not in KNOWN:
            raise ApiError(f"unknown argument {name!r}; leave it out", param=name, code="unknown_parameter")
    if "word" in [*form.getlist("timestamp_granularities[]"), *form.getlist("timestamp_granularities")]:
        raise ApiError("times are known of segments, not of words", param="timestamp_granularities",
                       code="unsupported_parameter")
    if prompt or form.getlist("include[]") or form.getlist("include"):
        name = "prompt" if prompt else "include"
        raise ApiError(f"{name} is not heeded by this recogniser; leave it out", param=name,
                       code="unsupported_parameter")


async def _sound(state: ServerState, file: UploadFile) -> Any:
    content = await file.read()
    if not content:
        raise ApiError("the file is empty; send a sound with content", param="file", code="invalid_value")
    try:
        return await asyncio.to_thread(load_audio, content, max_seconds=state.config.limits.max_media_s)
    except InputError as error:
        raise ApiError(str(error), param="file", code="invalid_audio") from error


def _work(state: ServerState, waveform: Any, language: str | None) -> Iterator[Transcript]:
    yield state.model.transcribe(waveform, language, rate_hz=AUDIO_RATE_HZ)


def _written(transcript: Transcript, seconds: float, response_format: ResponseFormat) -> Response:
    if response_format == "text":
        return PlainTextResponse(transcript.text + "\n")
    if response_format in ("srt", "vtt"):
        return PlainTextResponse(subtitles(transcript, seconds, response_format))
    plain: dict[str, Any] = {"text": transcript.text, "usage": {"type": "duration", "seconds": round(seconds, 3)}}
    if response_format == "json":
        return JSONResponse(plain)
    segments = [{"id": place, "seek": 0, "start": item.start_s, "end": item.stop_s, "text": item.text, "tokens": [],
                 "temperature": 0.0, "avg_logprob": item.avg_logprob, "compression_ratio": 1.0,
                 "no_speech_prob": item.no_speech} for place, item in enumerate(transcript.segments)]
    return JSONResponse({**plain, "task": "transcribe", "language": transcript.language or "", "duration": seconds,
                         "segments": segments})


def subtitles(transcript: Transcript, seconds: float, kind: str) -> str:
    """SubRip or WebVTT, one cue a segment; a transcript without segments is one cue."""
    spans = [(item.start_s, item.stop_s, item.text) for item in transcript.segments]
    spans = spans or ([(0.0, seconds, transcript.text)] if transcript.text else [])
    comma = "," if kind == "srt" else "."
    cues = [f"{place}\n{_clock(start, comma)} --> {_clock(stop, comma)}\n{text.strip()}\n" if kind == "srt"
            else f"{_clock(start, comma)} --> {_clock(stop, comma)}\n{text.strip()}\n"
            for place, (start, stop, text) in enumerate(spans, 1)]
    return ("" if kind == "srt" else "WEBVTT\n\n") + "\n".join(cues)


def _clock(seconds: float, comma: str) -> str:
    whole_ms = round(seconds * 1000)
    minutes, ms = divmod(whole_ms, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}{comma}{ms % 1000:03d}"


async def _stream(job: Job) -> AsyncIterator[bytes]:
    """OpenAI's transcript.text.delta and .done: one delta a segment, as the recogniser writes them."""
    try:
        async for transcript in job:
            pieces = [item.text for item in transcript.segments] or [transcript.text]
            for place, piece in enumerate(pieces):
                yield data({"type": "transcript.text.delta", "delta": piece if place == 0 else f" {piece.strip()}"})
            yield data({"type": "transcript.text.done", "text": transcript.text})
    except Exception as error:  # noqa: BLE001 - the status was sent already: told as an event
        yield data({"type": "error", "error": as_api_error(error).body()})
    finally:
        job.close()
