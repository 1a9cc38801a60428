"""POST /v1/audio/speech: a text to a sound file, sent clause by clause while it is being spoken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from ..runtime.speech.speaker import Speech
from . import voices
from .device import Job
from .errors import ApiError, as_api_error
from .media import to_base64
from .metrics import RequestWatch
from .schema import SpeechRequest
from .sound_formats import SoundWriter, format_of
from .sse import data
from .state import owner_of, state_of

router = APIRouter()


@router.post("/v1/audio/speech")
async def speech(body: SpeechRequest, request: Request) -> StreamingResponse:
    """Speak a text."""
    state = state_of(request)
    state.check_model(body.model)
    voice = voices.choose(state.model, body.voice)
    watch = state.metrics.watch()

    def spoken() -> Iterator[Speech]:
        return iter(state.model.speak_stream(body.input, voice=voice, speed=body.speed))

    job = state.device.submit(spoken, owner=owner_of(request))
    sound = aiter(job)
    try:
        first: Speech = await anext(sound)  # what cannot be spoken is refused before any byte is sent
    except StopAsyncIteration:
        job.close()
        raise ApiError("there is nothing to say in the input", param="input", code="invalid_value") from None
    except Exception as error:
        raise as_api_error(error, "input") from error
    writer = SoundWriter(body.response_format, first.rate_hz)
    if body.stream_format == "sse":
        return StreamingResponse(_events(job, sound, first, writer, watch), media_type="text/event-stream")
    headers = {"X-Sample-Rate": str(first.rate_hz)}
    return StreamingResponse(_bytes(job, sound, first, writer, watch), media_type=format_of(body.response_format).mime,
                             headers=headers)


async def _bytes(job: Job, sound: AsyncIterator[Any], first: Speech, writer: SoundWriter,
                 watch: RequestWatch) -> AsyncIterator[bytes]:
    try:
        watch.sound(first.seconds)
        yield writer.write(first.waveform)
        async for piece in sound:
            watch.sound(piece.seconds)
            yield writer.write(piece.waveform)
        yield writer.close()
        watch.end("stop")
    finally:
        job.close()


async def _events(job: Job, sound: AsyncIterator[Any], first: Speech, writer: SoundWriter,
                  watch: RequestWatch) -> AsyncIterator[bytes]:
    """OpenAI's speech.audio.delta and .done."""
    num_tokens = len(first.phonemes)
    try:
        async for piece in _bytes(job, sound, first, writer, watch):
            if piece:
                yield data({"type": "speech.audio.delta", "audio": to_base64(piece)})
        usage = {"input_tokens": num_tokens, "output_tokens": 0, "total_tokens": num_tokens}
        yield data({"type": "speech.audio.done", "usage": usage})
    except Exception as error:  # noqa: BLE001 - the status was sent already: told as an event
        yield data({"type": "error", "error": as_api_error(error).body()})
