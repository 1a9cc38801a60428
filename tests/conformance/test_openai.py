"""The real `openai` client against a real server: everything parses with its own types."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import openai
import pytest
from live_server import Running
from openai import OpenAI

from minicpm_o.api import MiniCPMO
from minicpm_o.inputs.audio import load_audio

PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age"],
          "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0}}}
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city.", "parameters": {
        "type": "object", "additionalProperties": False, "required": ["city"],
        "properties": {"city": {"type": "string", "maxLength": 20}}}}}


@pytest.fixture(scope="module")
def client(server: Running) -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key="none", max_retries=0)


def ask(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def data_url(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_models_are_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").owned_by == "minicpm-o"


def test_a_question_is_answered_with_its_usage(client: OpenAI) -> None:
    reply = client.chat.completions.create(model="nano", messages=ask("What is the capital of France?"), max_tokens=30)
    assert "Paris" in reply.choices[0].message.content and reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 10


def test_a_stream_says_what_the_whole_says(client: OpenAI, model: MiniCPMO) -> None:
    asked = {"model": "nano", "messages": ask("Name three colours."), "max_tokens": 24}
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed.strip() == client.chat.completions.create(**asked).choices[0].message.content
    assert streamed.strip() == model.chat("Name three colours.", max_tokens=24).text
    assert chunks[-1].usage.completion_tokens <= 24


def test_stop_and_limit_end_an_answer(client: OpenAI) -> None:
    short = client.chat.completions.create(model="nano", messages=ask("Tell me about the sea."), max_tokens=3)
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 3
    stopped = client.chat.completions.create(model="nano", messages=ask("What is the capital of France?"), stop=["Par"])
    assert "Paris" not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop"


def test_a_seed_draws_the_same_twice(client: OpenAI) -> None:
    drawn = [client.chat.completions.create(model="nano", messages=ask("Tell me a joke."), max_tokens=16, seed=7,
                                            temperature=1.0).choices[0].message.content for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_pictures_and_sounds_are_looked_at(client: OpenAI, samples: Path) -> None:
    photo = {"type": "image_url", "image_url": {"url": data_url(samples / "photo.jpg", "image/jpeg")}}
    sound = {"type": "input_audio", "input_audio": {
        "data": base64.b64encode((samples / "speech.wav").read_bytes()).decode(), "format": "wav"}}
    words = {"type": "text", "text": "What animal is in the picture?"}
    seen = client.chat.completions.create(model="nano", max_tokens=20, messages=[
        {"role": "user", "content": [photo, words]}])
    assert "cat" in seen.choices[0].message.content.lower()
    heard = client.chat.completions.create(model="nano", max_tokens=20, messages=[{"role": "user", "content": [sound]}])
    assert heard.usage.prompt_tokens_details.audio_tokens > 0 and heard.choices[0].message.content


def test_an_answer_is_spoken_whole_and_as_a_stream(client: OpenAI) -> None:
    asked = {"model": "nano", "messages": ask("What is the capital of France?"), "max_tokens": 30,
             "modalities": ["text", "audio"]}
    whole = client.chat.completions.create(**asked, audio={"voice": "alloy", "format": "wav"}).choices[0].message
    assert "Paris" in whole.audio.transcript and len(load_audio(base64.b64decode(whole.audio.data))) > 16_000
    chunks = [chunk.choices[0].delta for chunk in client.chat.completions.create(
        **asked, audio={"voice": "alloy", "format": "pcm16"}, stream=True) if chunk.choices]
    sounds = [delta.audio for delta in chunks if delta.audio]
    samples = np.frombuffer(b"".join(base64.b64decode(part.data) for part in sounds if part.data), "<i2")
    assert len(samples) > 24_000 and np.abs(samples).max() > 1000
    assert "".join(part.transcript or "" for part in sounds).strip() == whole.audio.transcript
    assert sounds[0].id and sounds[-1].expires_at
    again = client.chat.completions.create(model="nano", max_tokens=20, messages=[
        *ask("What is the capital of France?"), {"role": "assistant", "audio": {"id": sounds[0].id}},
        *ask("And of Italy?")])
    assert again.usage.prompt_tokens > 20


def test_an_answer_holds_to_a_schema(client: OpenAI) -> None:
    reply = client.chat.completions.create(
        model="nano", messages=ask("Bob is 30 years old. Who is it?"), max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}})
    told = json.loads(reply.choices[0].message.content)
    assert set(told) == {"name", "age"} and isinstance(told["age"], int)


def test_a_function_is_called_and_its_result_read(client: OpenAI) -> None:
    asked = ask("What is the weather in Paris?")
    reply = client.chat.completions.create(model="nano", messages=asked, tools=[WEATHER], tool_choice="required",
                                           max_tokens=60)
    call = reply.choices[0].message.tool_calls[0]
    assert reply.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    chunks = list(client.chat.completions.create(model="nano", messages=asked, tools=[WEATHER], tool_choice="required",
                                                 max_tokens=60, stream=True))
    assert any(chunk.choices[0].delta.tool_calls for chunk in chunks)
    done = client.chat.completions.create(model="nano", max_tokens=20, messages=[
        *asked, reply.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny, 21 degrees"}])
    assert done.choices[0].message.content


@pytest.mark.parametrize("name", ["mp3", "opus", "aac", "flac", "wav"])
def test_speech_is_read_back(client: OpenAI, model: MiniCPMO, name: str) -> None:
    sound = client.audio.speech.create(model="nano", voice="nova", input="The weather is fine today.",
                                       response_format=name).content
    assert "weather" in model.transcribe(sound).text.lower()


def test_speech_comes_as_samples_and_as_events(client: OpenAI, server: Running) -> None:
    samples = client.audio.speech.create(model="nano", voice="nova", input="Hello.", response_format="pcm").content
    assert len(samples) % 2 == 0 and len(samples) > 12_000
    with client.audio.speech.with_streaming_response.create(
            model="nano", voice="nova", input="Hello.", response_format="pcm", stream_format="sse") as reply:
        events = [json.loads(line[6:]) for line in reply.iter_lines() if line.startswith("data: ")]
    assert [event["type"] for event in events][-1] == "speech.audio.done"
    assert b"".join(base64.b64decode(event["audio"]) for event in events[:-1])[:100] == samples[:100]


def test_sounds_are_written_down_in_every_format(client: OpenAI, samples: Path) -> None:
    def write(**options):
        with (samples / "speech.wav").open("rb") as file:
            return client.audio.transcriptions.create(model="nano", file=file, **options)

    text = write().text
    assert text and write(response_format="text").strip() == text
    assert write(response_format="srt").startswith("1\n00:00:0")
    assert write(response_format="vtt").startswith("WEBVTT\n\n00:00:0")
    whole = write(response_format="verbose_json")
    assert whole.language == "en" and whole.segments[0].end > whole.segments[0].start
    events = list(write(stream=True))
    assert events[-1].type == "transcript.text.done" and events[-1].text == text


def test_refusals_are_of_the_client_s_own_kinds(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'nano'"):
        client.chat.completions.create(model="gpt-4o", messages=ask("Hello."))
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        client.chat.completions.create(model="nano", messages=ask("Hello."), logprobs=True)
    with pytest.raises(openai.BadRequestError, match="data: address"):
        client.chat.completions.create(model="nano", messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "/etc/hostname"}}]}])
    with pytest.raises(openai.BadRequestError, match="af_heart"):
        client.audio.speech.create(model="nano", voice="nobody", input="Hello.")
    with pytest.raises(openai.BadRequestError, match="not a sound"):
        client.audio.transcriptions.create(model="nano", file=("noise.wav", b"this is no sound"))
