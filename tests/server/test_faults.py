"""What goes wrong between a server and its callers: told in OpenAI's shape, nothing hangs, others go on."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import websockets
from live_server import RATE_HZ, Running, serving, spoken

from minicpm_o.api import MiniCPMO
from minicpm_o.server.config import Limits, ServerConfig
from minicpm_o.server.media import pcm16

QUESTION = {"model": "nano", "messages": [{"role": "user", "content": "Tell me about the sea."}], "max_tokens": 200}
STREAMED = {**QUESTION, "stream": True}
KEY = "sk-of-the-test"


@pytest.fixture(scope="module")
def server(model: MiniCPMO) -> Iterator[Running]:
    model.chat("Hello.", max_tokens=2)
    limits = Limits(max_body_mb=1, max_running=2, max_waiting=2, max_sessions=1, max_event_mb=1)
    with serving(model, ServerConfig(port=0, limits=limits)) as running:
        yield running


def live(server: Running, act: Any, **options: Any) -> Any:
    async def run() -> Any:
        async with websockets.connect(server.live_url, max_size=None, **options) as socket:
            return await asyncio.wait_for(act(socket), 60)

    return asyncio.run(run())


async def chosen_protocol(socket: Any) -> str | None:
    await next_of(socket, "session.created")
    return socket.subprotocol


async def next_of(socket: Any, kind: str) -> dict[str, Any]:
    while True:
        event = json.loads(await socket.recv())
        if event["type"] == kind:
            return event


def append(samples: bytes) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(samples).decode()})


def settled(server: Running) -> bool:
    """Whether the device comes to rest."""
    for _ in range(300):
        if not server.state.device.num_running + server.state.device.num_waiting:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("body", "status", "code"), [
    (b"{", 400, "invalid_json"), (b"[]", 400, "invalid_value"),
    (b'{"model": "nano"}', 400, "missing_required_parameter"),
    (b'{"model": "nano", "messages": []}', 400, "invalid_value"),
    (b'{"model": "nano", "messages": [{"role": "user", "content": "x"}], "n": 3}', 400, "invalid_value"),
    (b'{"model": "nano", "messages": [{"role": "user", "content": "x"}], "tempertaure": 1}', 400, "unknown_parameter"),
    (b'{"model": "nano", "messages": [{"role": "user", "content": "x"}], "max_tokens": 99999}', 400, "invalid_value"),
    (b'{"model": "nano", "messages": [{"role": "user", "content": ""}]}', 400, "invalid_value"),
    (b'{"model": "other", "messages": [{"role": "user", "content": "x"}]}', 404, "model_not_found"),
    (b'{"model": "nano", "messages": [{"role": "user", "content": "' + b"x" * 2_000_000 + b'"}]}', 413,
     "request_too_large"),
    (b'{"model": "nano", "messages": [{"role": "user", "content": "' + b"word " * 20_000 + b'"}]}', 400,
     "context_length_exceeded"),
])
def test_wrong_requests_are_refused_by_name(server: Running, body: bytes, status: int, code: str) -> None:
    reply = httpx.post(f"{server.base_url}/chat/completions", content=body, timeout=30,
                       headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text


def test_a_body_without_a_length_is_counted_too(server: Running) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 65_536

    reply = httpx.post(f"{server.base_url}/chat/completions", content=pieces(), timeout=30)
    assert reply.status_code == 413 and reply.json()["error"]["code"] == "request_too_large"


def test_unknown_paths_and_methods_have_the_same_shape(server: Running) -> None:
    assert httpx.get(f"{server.base_url}/embeddings").json()["error"]["code"] == "not_found"
    wrong = httpx.get(f"{server.base_url}/chat/completions").json()["error"]["code"]
    assert wrong in ("method_not_allowed", "not_found")


def test_foreign_pages_and_names_are_kept_out(server: Running) -> None:
    models = f"{server.base_url}/models"
    assert httpx.get(models, headers={"Origin": "https://evil.example"}).json()["error"]["code"] == "origin_not_allowed"
    assert httpx.get(models, headers={"Host": "evil.example"}).json()["error"]["code"] == "host_not_allowed"
    assert httpx.get(models, headers={"Origin": server.address}).status_code == 200
    with pytest.raises(websockets.exceptions.InvalidStatus):
        live(server, next_of, origin="https://evil.example")


def test_keys_are_asked_for_everywhere_but_health(model: MiniCPMO) -> None:
    config = ServerConfig(port=0, api_keys=(KEY,), origins=("https://friend.example",))
    with serving(model, config) as server:
        assert httpx.get(f"{server.address}/health").json()["status"] == "ok"
        assert b"minicpm_o:num_requests_running" in httpx.get(f"{server.address}/metrics").content
        refused = httpx.get(f"{server.base_url}/models")
        assert refused.status_code == 401 and refused.json()["error"]["type"] == "authentication_error"
        allowed = {"Authorization": f"Bearer {KEY}", "Origin": "https://friend.example"}
        reply = httpx.get(f"{server.base_url}/models", headers=allowed)
        assert reply.status_code == 200 and reply.headers["access-control-allow-origin"] == "https://friend.example"
        with pytest.raises(websockets.exceptions.InvalidStatus):
            live(server, lambda socket: next_of(socket, "session.created"))
        created = live(server, lambda socket: next_of(socket, "session.created"),
                       additional_headers={"Authorization": f"Bearer {KEY}"})
        assert created["session"]["model"] == "nano"
        for key, protocol in ((KEY, "realtime"), ("wrong", None)):  # browsers can set no header
            offered = ["realtime", f"openai-insecure-api-key.{key}"]
            if protocol is None:
                with pytest.raises(websockets.exceptions.InvalidStatus):
                    live(server, lambda socket: next_of(socket, "session.created"), subprotocols=offered)
                continue
            assert live(server, chosen_protocol, subprotocols=offered) == protocol


def test_too_many_questions_are_told_to_come_back(server: Running) -> None:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            asked = [client.post(f"{server.base_url}/chat/completions", json=QUESTION) for _ in range(8)]
            return await asyncio.gather(*asked)

    replies = asyncio.run(run())
    statuses = sorted(reply.status_code for reply in replies)
    assert statuses == [200] * 4 + [429] * 4
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert refused.json()["error"]["code"] == "queue_full" and int(refused.headers["retry-after"]) >= 1
    assert settled(server)


def test_a_caller_who_leaves_frees_the_device(server: Running) -> None:
    with httpx.stream("POST", f"{server.base_url}/chat/completions", json=STREAMED, timeout=30) as reply:
        next(reply.iter_lines())
        assert server.state.device.num_running == 1
    assert settled(server)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.base_url}/chat/completions", json=QUESTION, timeout=httpx.Timeout(30, read=0.01))
    assert settled(server)


def test_a_waiting_stream_hears_its_place_in_line(server: Running) -> None:
    url = f"{server.base_url}/chat/completions"

    async def run() -> list[str]:
        async with httpx.AsyncClient(timeout=60) as client:
            asked = [asyncio.create_task(client.post(url, json=QUESTION)) for _ in range(2)]
            await asyncio.sleep(0.2)
            async with client.stream("POST", url, json=STREAMED) as reply:
                lines = [line async for line in reply.aiter_lines()]
            await asyncio.gather(*asked)
            return lines

    lines = asyncio.run(run())
    assert lines[0].startswith(": position 1 in line") and lines[-2] == "data: [DONE]"


@pytest.mark.parametrize(("sent", "code"), [
    (b"\x00\x01", "binary_frame"), ("{", "invalid_json"), ("[]", "invalid_event"), ('{"type": 5}', "invalid_event"),
    ('{"type": "no.such.event"}', "unknown_event"), ('{"type": "session.update"}', "invalid_value"),
    ('{"type": "session.update", "session": {"colour": "red"}}', "unknown_parameter"),
    ('{"type": "session.update", "session": {"audio": {"output": {"voice": "nobody"}}}}', "voice_not_found"),
    ('{"type": "session.update", "session": {"audio": {"input": {"turn_detection": {"threshold": 7}}}}}',
     "invalid_value"),
    ('{"type": "input_audio_buffer.append"}', "invalid_value"),
    ('{"type": "input_audio_buffer.append", "audio": "!"}', "invalid_base64"),
    ('{"type": "input_audio_buffer.append", "video_frames": ["aGVsbG8="]}', "invalid_image"),
    ('{"type": "input_audio_buffer.append", "video_frames": "x"}', "invalid_value"),
    ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty"),
    ('{"type": "conversation.item.create"}', "invalid_value"),
    ('{"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": []}}',
     "invalid_value"),
    ('{"type": "conversation.item.delete", "item_id": "item_x"}', "item_not_found"),
    ('{"type": "conversation.item.truncate", "item_id": "item_x", "audio_end_ms": 5}', "item_not_found"),
    ('{"type": "conversation.item.truncate", "item_id": "item_x", "audio_end_ms": -5}', "invalid_value"),
    ('{"type": "response.cancel"}', "response_cancel_not_active"),
    ('{"type": "response.create", "response": {"conversation": "none"}}', "unsupported_parameter"),
    ('{"type": "playback.ack"}', "invalid_value"),
    ('{"type": "x", "pad": "' + "x" * 1_500_000 + '"}', "event_too_large"),
])
def test_wrong_events_are_told_and_the_session_goes_on(server: Running, sent: Any, code: str) -> None:
    async def act(socket: Any) -> None:
        await next_of(socket, "session.created")
        await socket.send(sent)
        error = await next_of(socket, "error")
        assert error["error"]["code"] == code, error
        await socket.send('{"type": "session.heartbeat"}')
        await next_of(socket, "session.heartbeat_ack")

    live(server, act)


def test_an_event_above_all_limits_closes_its_own_socket_alone(server: Running) -> None:
    async def act(socket: Any) -> None:
        await next_of(socket, "session.created")
        await socket.send("x" * 4_000_000)
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            await next_of(socket, "never")
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009

    live(server, act)
    assert httpx.get(f"{server.address}/health").status_code == 200


def test_errors_name_the_event_that_was_wrong(server: Running) -> None:
    async def act(socket: Any) -> None:
        await socket.send('{"type": "response.cancel", "event_id": "mine"}')
        assert (await next_of(socket, "error"))["error"]["event_id"] == "mine"

    live(server, act)


def test_a_second_live_session_waits_in_line(server: Running, model: MiniCPMO) -> None:
    quiet = append(pcm16(np.zeros(2400, np.float32)))

    async def run() -> None:
        async with websockets.connect(server.live_url) as first, websockets.connect(server.live_url) as second:
            await first.send(quiet)
            await asyncio.sleep(0.2)
            await second.send(quiet)
            error = (await next_of(second, "error"))["error"]
            assert error["code"] == "session_limit_reached" and error["position"] == 1 and error["eta_s"] > 0
            await first.close()
            await asyncio.sleep(0.3)
            await second.send(quiet)
            await second.send('{"type": "session.heartbeat"}')
            kinds = []
            while "session.heartbeat_ack" not in kinds:
                kinds.append(json.loads(await second.recv())["type"])
            assert "error" not in kinds

    asyncio.run(run())


def test_a_thousand_idle_sockets_harm_nobody(server: Running) -> None:
    async def run() -> int:
        sockets = await asyncio.gather(*(websockets.connect(server.live_url, open_timeout=60) for _ in range(300)))
        sockets += await asyncio.gather(*(websockets.connect(server.live_url, open_timeout=60) for _ in range(700)))
        async with httpx.AsyncClient(timeout=60) as client:
            reply = await client.post(f"{server.base_url}/chat/completions", json={**QUESTION, "max_tokens": 5})
            assert reply.status_code == 200
        count = len(server.state.channels)
        await asyncio.gather(*(socket.close() for socket in sockets))
        return count

    assert asyncio.run(run()) >= 1000
    for _ in range(200):
        if not server.state.channels:
            break
        time.sleep(0.05)
    assert not server.state.channels and not server.state.slots.taken


def test_a_vanished_speaker_leaves_nothing_behind(server: Running, model: MiniCPMO) -> None:
    sound = pcm16(spoken(model, 0.5, "Tell me a long story about the sea.", 1.0))

    async def run() -> None:
        socket = await websockets.connect(server.live_url)
        for start in range(0, len(sound), 9600):
            await socket.send(append(sound[start : start + 9600]))
        await next_of(socket, "response.output_audio.delta")
        socket.transport.abort()

    asyncio.run(run())
    assert settled(server)
    for _ in range(100):
        if not server.state.slots.taken:
            break
        time.sleep(0.05)
    assert not server.state.slots.taken


def test_the_dialect_of_the_official_demo(server: Running, model: MiniCPMO) -> None:
    import soxr

    sound = soxr.resample(spoken(model, 0.5, "What is the capital of France?", 2.2), RATE_HZ, 16_000)
    url = f"{server.live_url}?mode=audio&session_id=mine"

    async def run() -> tuple[str, int, list[str]]:
        async with websockets.connect(url, max_size=None) as socket:
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA"}))
            assert (await next_of(socket, "error"))["error"]["code"] == "not_ready"
            await socket.send(json.dumps({"type": "session.update", "session": {"instructions": "Be brief."}}))
            assert (await next_of(socket, "session.created"))["session_id"] == "mine"
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA"}))
            assert (await next_of(socket, "error"))["error"]["code"] == "invalid_payload"
            for start in range(0, len(sound) - 8000, 16_000):
                piece = sound[start : start + 16_000].astype("<f4").tobytes()
                await socket.send(append(piece))
            words, samples, kinds = "", 0, []
            while True:
                event = json.loads(await asyncio.wait_for(socket.recv(), 30))
                kinds.append(event["type"])
                if event["type"] == "response.output_audio.delta":
                    words += event["text"]
                    samples += len(base64.b64decode(event["audio"])) // 4
                    if event["end_of_turn"]:
                        break
            await socket.send('{"type": "session.close"}')
            assert (await next_of(socket, "session.closed"))["reason"] == "stopped"
            return words, samples, kinds

    words, samples, kinds = asyncio.run(run())
    assert "Paris" in words and samples > 20_000 and kinds[0] == "response.listen"


def test_sigterm_lets_answers_end_and_refuses_new_ones(nano: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "minicpm_o", "serve", "--port", "0", "--model", str(nano)],
                                   stderr=file, stdout=file, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        while "served at" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        address = log.read_text().split("served at ")[1].split()[0]

        async def run() -> tuple[httpx.Response, bool]:
            async with httpx.AsyncClient(timeout=60) as client:
                running = asyncio.create_task(client.post(f"{address}/v1/chat/completions", json=QUESTION))
                await asyncio.sleep(0.5)
                process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.3)
                try:
                    late = await client.post(f"{address}/v1/chat/completions", json=QUESTION)
                    was_refused = late.status_code == 503
                except httpx.TransportError:
                    was_refused = True
                return await running, was_refused

        reply, was_refused = asyncio.run(run())
        assert reply.status_code == 200 and len(reply.json()["choices"][0]["message"]["content"]) > 100 and was_refused
        assert process.wait(timeout=30) == 0, log.read_text()
    finally:
        process.kill()
