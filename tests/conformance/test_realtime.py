"""The real `openai` client's realtime connection: every event is of its own types, in the order that it documents."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from live_server import RATE_HZ, Running, spoken
from openai import AsyncOpenAI

from minicpm_o.api import MiniCPMO
from minicpm_o.server.media import pcm16

PATIENCE_S = 60.0
PIECE = RATE_HZ // 10


def talk(server: Running, act: Callable[[Any], Awaitable[Any]]) -> Any:
    """Run one connection."""
    async def run() -> Any:
        client = AsyncOpenAI(base_url=server.base_url, api_key="none")
        async with client.realtime.connect(model="nano") as connection:
            return await asyncio.wait_for(act(connection), PATIENCE_S)

    return asyncio.run(run())


async def until(connection: Any, kind: str) -> list[Any]:
    """Events up to and with the first of a kind; none of them an error, each of the client's own types."""
    events: list[Any] = []
    while not events or events[-1].type != kind:
        events.append(await connection.recv())
        assert events[-1].type != "error", events[-1]
        assert type(events[-1]).__module__.startswith("openai.types.realtime"), events[-1]
    return events


async def say(connection: Any, waveform: np.ndarray, pace: float = 0.0) -> None:
    for start in range(0, len(waveform), PIECE):
        piece = base64.b64encode(pcm16(waveform[start : start + PIECE])).decode()
        await connection.input_audio_buffer.append(audio=piece)
        await asyncio.sleep(pace)


async def write(connection: Any, text: str, *before: dict[str, str]) -> None:
    content = [*before, {"type": "input_text", "text": text}]
    await connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})


def kinds(events: list[Any]) -> list[str]:
    """Types in order, runs of deltas as one."""
    found = [event.type for event in events]
    return [kind for place, kind in enumerate(found) if place == 0 or found[place - 1] != kind]


def test_typed_words_are_answered_in_text(server: Running) -> None:
    async def act(connection: Any) -> None:
        assert (await connection.recv()).type == "session.created"
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        updated = (await until(connection, "session.updated"))[-1]
        assert updated.session.output_modalities == ["text"]
        await write(connection, "What is the capital of France?")
        assert kinds(await until(connection, "conversation.item.done")) == [
            "conversation.item.added", "conversation.item.done"]
        await connection.response.create()
        events = await until(connection, "response.done")
        assert kinds(events) == [
            "response.created", "response.output_item.added", "conversation.item.added", "response.content_part.added",
            "response.output_text.delta", "response.output_text.done", "response.content_part.done",
            "response.output_item.done", "conversation.item.done", "response.done"]
        done = events[-1].response
        assert done.status == "completed" and "Paris" in done.output[0].content[0].text
        assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens

    talk(server, act)


def test_a_spoken_question_is_answered_aloud(server: Running, model: MiniCPMO) -> None:
    async def act(connection: Any) -> None:
        await until(connection, "session.created")
        await connection.session.update(session={"type": "realtime", "audio": {"input": {"transcription": {}}}})
        await until(connection, "session.updated")
        await say(connection, spoken(model, 0.5, "What is the capital of France?", 1.5))
        events = await until(connection, "response.done")
        order = [kind for kind in kinds(events) if "delta" not in kind]
        assert order[:4] == ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped",
                             "input_audio_buffer.committed", "conversation.item.added"]
        said = next(event for event in events if event.type.endswith("transcription.completed"))
        assert "capital" in said.transcript.lower()
        deltas = [event.delta for event in events if event.type == "response.output_audio.delta"]
        sound = b"".join(map(base64.b64decode, deltas))
        heard = np.frombuffer(sound, "<i2").astype(np.float32) / 32768
        assert "paris" in model.transcribe(heard, rate_hz=RATE_HZ).text.lower()
        assert events[-1].response.output[0].content[0].transcript.strip().startswith("The capital of France is Paris")

    talk(server, act)


def test_turns_without_detection_are_committed_by_the_client(server: Running, model: MiniCPMO) -> None:
    async def act(connection: Any) -> None:
        await until(connection, "session.created")
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"], "audio": {"input": {
            "turn_detection": None, "transcription": {}, "format": {"type": "audio/pcm", "rate": 24000}}}})
        await until(connection, "session.updated")
        await say(connection, spoken(model, 0.3, "What is the capital of Italy?", 0.3))
        await connection.input_audio_buffer.commit()
        events = await until(connection, "conversation.item.input_audio_transcription.completed")
        assert "Italy" in events[-1].transcript
        item = next(event.item_id for event in events if event.type == "input_audio_buffer.committed")
        await connection.response.create(response={"max_output_tokens": 12})
        await until(connection, "response.done")
        await connection.conversation.item.retrieve(item_id=item)
        shown = (await until(connection, "conversation.item.retrieved"))[-1].item
        assert "Italy" in shown.content[0].transcript
        await connection.conversation.item.delete(item_id=item)
        await until(connection, "conversation.item.deleted")
        await say(connection, np.zeros(2400, np.float32))
        await connection.input_audio_buffer.clear()
        await until(connection, "input_audio_buffer.cleared")

    talk(server, act)


def test_speech_cuts_an_answer_short_and_the_history_with_it(server: Running, model: MiniCPMO) -> None:
    async def act(connection: Any) -> None:
        await until(connection, "session.created")
        await say(connection, spoken(model, 0.5, "Tell me a long story about the sea.", 1.0))
        events = await until(connection, "response.output_audio.delta")
        item = events[-1].item_id
        await say(connection, spoken(model, 0.2, "Stop. That is enough.", 0.1))
        events = await until(connection, "input_audio_buffer.speech_started")
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=400)
        events += await until(connection, "conversation.item.truncated")
        done = [event for event in events if event.type == "response.done"]
        if done and done[0].response.status == "cancelled":
            assert done[0].response.status_details.reason == "turn_detected"
        await connection.conversation.item.retrieve(item_id=item)
        kept = (await until(connection, "conversation.item.retrieved"))[-1].item.content[0].text
        assert len(kept.split()) <= 4

    talk(server, act)


def test_an_answer_can_be_cancelled_and_asked_for_again(server: Running) -> None:
    async def act(connection: Any) -> None:
        await until(connection, "session.created")
        await write(connection, "Tell me about the sea.")
        await connection.response.create()
        await until(connection, "response.output_audio_transcript.delta")
        await connection.response.cancel()
        done = (await until(connection, "response.done"))[-1].response
        assert done.status == "cancelled" and done.status_details.reason == "client_cancelled"
        await connection.response.create(response={"output_modalities": ["text"], "max_output_tokens": 5})
        events = await until(connection, "response.done")
        assert "response.output_text.delta" in kinds(events)  # asked for of this one alone
        again = events[-1].response
        assert again.status == "incomplete" and again.status_details.reason == "max_output_tokens"

    talk(server, act)


def test_a_function_is_called_live(server: Running) -> None:
    tool = {"type": "function", "name": "set_light", "description": "Switch the light.", "parameters": {
        "type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}}

    async def act(connection: Any) -> None:
        await until(connection, "session.created")
        await connection.session.update(session={"type": "realtime", "tools": [tool], "tool_choice": "required"})
        await until(connection, "session.updated")
        await write(connection, "Switch the light on.")
        await connection.response.create()
        events = await until(connection, "response.done")
        call = next(event for event in events if event.type == "response.function_call_arguments.done")
        assert call.name == "set_light" and call.arguments in ('{"on": true}', '{"on": false}')
        item = events[-1].response.output[0]
        assert item.type == "function_call" and item.call_id == call.call_id
        await connection.conversation.item.create(item={"type": "function_call_output", "call_id": item.call_id,
                                                        "output": "done"})
        await until(connection, "conversation.item.done")

    talk(server, act)


def test_a_picture_is_looked_at_live(server: Running, samples: Path) -> None:
    url = f"data:image/jpeg;base64,{base64.b64encode((samples / 'photo.jpg').read_bytes()).decode()}"

    async def act(connection: Any) -> None:
        await until(connection, "session.created")
        await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
        await write(connection, "What animal is in the picture?", {"type": "input_image", "image_url": url})
        await connection.response.create()
        done = (await until(connection, "response.done"))[-1].response
        assert "cat" in done.output[0].content[0].text.lower()

    talk(server, act)
