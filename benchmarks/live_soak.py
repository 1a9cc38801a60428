"""Ten minutes of mixed load with faults: what of it is answered, what fails, and whether the memory comes back.

Chats (whole, streamed, spoken), transcriptions, speech, live sessions that are asked, spoken into and cut; and between
them broken JSON, wrong events, oversized bodies, clients that vanish in the middle. Every well-formed request must be
answered (or told to come back, and then be answered); no 5xx; at the end the server is as it was.

    python benchmarks/live_soak.py --minutes 10
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import soundfile
import websockets
import websockets.exceptions

import common
from minicpm_o import MiniCPMO
from minicpm_o.rates import SPEECH_RATE_HZ
from minicpm_o.server.live_bench import ask_aloud, questions
from minicpm_o.server.media import pcm16

RETRIES = 30
SHARE_MB = 0.05
REST_S = 15.0
"""After the load: what a server keeps when nobody asks anything."""


@dataclass
class Tally:
    """What became of the requests."""

    answered: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    server_errors: list[str] = field(default_factory=list)
    faults: Counter = field(default_factory=Counter)
    first_audio_ms: list[float] = field(default_factory=list)


class Load:
    """Everything that is thrown at one server."""

    def __init__(self, address: str, sounds: list[Any], ends: float) -> None:
        self.url = f"http://{address}"
        self.live_url = f"ws://{address}/v1/realtime"
        self.sounds = sounds
        self.ends = ends
        self.tally = Tally()
        self.random = random.Random(0)
        self.clip = io.BytesIO()
        soundfile.write(self.clip, sounds[0], SPEECH_RATE_HZ, format="WAV")

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.ends

    async def kept_up(self, name: str, act: Any) -> None:
        """One kind of user, again and again; each request is lost if it is not answered within its retries."""
        async with httpx.AsyncClient(timeout=120) as client:
            while self.goes_on:
                await self._once(name, act, client)

    async def _once(self, name: str, act: Any, client: httpx.AsyncClient) -> None:
        for _ in range(RETRIES):
            try:
                status, is_answer = await act(client)
            except (httpx.HTTPError, websockets.exceptions.WebSocketException, OSError, asyncio.TimeoutError) as error:
                self.tally.lost.append(f"{name}: {type(error).__name__} {error}")
                return
            if status >= 500:
                self.tally.server_errors.append(f"{name}: {status}")
                return
            if status == 429:
                self.tally.refused[name] += 1
                await asyncio.sleep(1.0)
                continue
            (self.tally.answered.update([name]) if is_answer else self.tally.lost.append(f"{name}: {status}"))
            return
        self.tally.lost.append(f"{name}: told to come back {RETRIES} times")

    # --- well-formed -------------------------------------------------------------------------------------------------

    async def chat(self, client: httpx.AsyncClient) -> tuple[int, bool]:
        reply = await client.post(f"{self.url}/v1/chat/completions", json=self._body())
        return reply.status_code, reply.status_code == 200 and bool(reply.json()["choices"][0]["message"]["content"])

    async def streamed(self, client: httpx.AsyncClient) -> tuple[int, bool]:
        async with client.stream("POST", f"{self.url}/v1/chat/completions", json=self._body(stream=True)) as reply:
            lines = [line async for line in reply.aiter_lines() if line]
        return reply.status_code, lines[-1:] == ["data: [DONE]"]

    async def spoken(self, client: httpx.AsyncClient) -> tuple[int, bool]:
        body = self._body(modalities=["text", "audio"], audio={"voice": "joe", "format": "wav"})
        reply = await client.post(f"{self.url}/v1/chat/completions", json={**body, "max_tokens": 24})
        return reply.status_code, reply.status_code == 200 and bool(reply.json()["choices"][0]["message"]["audio"])

    async def written(self, client: httpx.AsyncClient) -> tuple[int, bool]:
        reply = await client.post(f"{self.url}/v1/audio/transcriptions", data={"model": "default"},
                                  files={"file": ("clip.wav", self.clip.getvalue())})
        return reply.status_code, reply.status_code == 200 and "capital" in reply.json()["text"].lower()

    async def live(self, client: httpx.AsyncClient) -> tuple[int, bool]:
        async with websockets.connect(self.live_url, max_size=None) as socket:
            await socket.recv()
            for _ in range(self.random.randint(1, 3)):
                found = await ask_aloud(socket, self.random.choice(self.sounds))
                self.tally.first_audio_ms.append(found.first_audio_ms)
                if self.random.random() < 0.5:
                    await asyncio.sleep(found.audio_ms / 1000)
        return 200, True

    def _body(self, **more: Any) -> dict[str, Any]:
        words = self.random.choice(["Tell me about the sea.", "Name three colours.", "What is a fox?"])
        return {"model": "default", "messages": [{"role": "user", "content": words}], "max_tokens": 48, **more}

    # --- faults ------------------------------------------------------------------------------------------------------

    async def faults(self) -> None:
        """One fault after the other, each of which the server has to survive."""
        kinds = [self._broken_json, self._oversized, self._wrong_events, self._vanishes, self._hangs_up, self._idle]
        while self.goes_on:
            kind = self.random.choice(kinds)
            # what a fault does to its own client is its own affair
            with suppress(httpx.HTTPError, websockets.exceptions.WebSocketException, OSError):
                await asyncio.wait_for(kind(), 60)
            self.tally.faults[kind.__name__.strip("_")] += 1
            await asyncio.sleep(0.5)

    async def _broken_json(self) -> None:
        async with httpx.AsyncClient() as client:
            for body in (b"{", b'{"model": 5}', b'{"model": "default", "messages": [{"role": "user"}]}'):
                reply = await client.post(f"{self.url}/v1/chat/completions", content=body,
                                          headers={"Content-Type": "application/json"})
                if reply.status_code >= 500:
                    self.tally.server_errors.append(f"broken json: {reply.status_code}")

    async def _oversized(self) -> None:
        async with httpx.AsyncClient() as client:
            reply = await client.post(f"{self.url}/v1/chat/completions", content=b"x" * (70 << 20))
            if reply.status_code >= 500:
                self.tally.server_errors.append(f"oversized: {reply.status_code}")

    async def _wrong_events(self) -> None:
        async with websockets.connect(self.live_url, max_size=None) as socket:
            for sent in (b"\x00", "{", '{"type": "none"}', '{"type": "response.cancel"}', '{"type": "x", "y": "' + "z" *
                         10_000_000 + '"}'):
                await socket.send(sent)
            await socket.send('{"type": "session.heartbeat"}')
            while json.loads(await socket.recv())["type"] != "session.heartbeat_ack":
                pass

    async def _vanishes(self) -> None:
        """In the middle of a spoken question."""
        socket = await websockets.connect(self.live_url, max_size=None)
        sound = pcm16(self.sounds[0])
        for start in range(0, len(sound), 9600):
            audio = base64.b64encode(sound[start : start + 9600]).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        socket.transport.abort()

    async def _hangs_up(self) -> None:
        """In the middle of an answer."""
        async with httpx.AsyncClient() as client, client.stream(
                "POST", f"{self.url}/v1/chat/completions", json=self._body(stream=True)) as reply:
            async for _ in reply.aiter_lines():
                return

    async def _idle(self) -> None:
        sockets = [await websockets.connect(self.live_url) for _ in range(50)]
        await asyncio.sleep(1)
        await asyncio.gather(*(socket.close() for socket in sockets))


async def soak(address: str, sounds: list[Any], seconds: float) -> Tally:
    load = Load(address, sounds, time.monotonic() + seconds)
    users = [("chat", load.chat), ("streamed", load.streamed), ("spoken", load.spoken), ("written", load.written),
             ("live", load.live)]
    await asyncio.gather(load.faults(), *(load.kept_up(name, act) for name, act in users))
    return load.tally


@contextmanager
def served() -> Iterator[tuple[str, psutil.Process]]:
    """A server in a process of its own, so that its memory is its own; the address and the process."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen([sys.executable, "-m", "minicpm_o", "serve", "--port", "0"], stderr=file)
        while "served at" not in log.read_text(encoding="utf-8"):
            if process.poll() is not None:
                sys.exit(log.read_text(encoding="utf-8"))
            time.sleep(0.2)
        try:
            yield log.read_text(encoding="utf-8").split("served at http://")[1].split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)


async def watched(process: psutil.Process, seconds: float) -> list[float]:
    """Resident memory in MB, once a minute."""
    sizes = []
    for _ in range(max(1, round(seconds / 60))):
        await asyncio.sleep(60)
        sizes.append(round(process.memory_info().rss / 1e6, 1))
    return sizes


async def soaked(address: str, process: psutil.Process, sounds: list[Any], seconds: float) -> tuple[Tally, list[float]]:
    tally, sizes = await asyncio.gather(soak(address, sounds, seconds), watched(process, seconds))
    return tally, sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--settle-minutes", type=float, default=5.0,
                        help="load before the measure, in which bounded caches fill")
    options = parser.parse_args()
    sounds = questions(MiniCPMO.from_pretrained("nano", progress=False))
    with served() as (address, process):
        asyncio.run(soak(address, sounds, 60 * options.settle_minutes))  # caches and arenas reach their size
        time.sleep(REST_S)
        settled = process.memory_info().rss / 1e6
        tally, sizes = asyncio.run(soaked(address, process, sounds, 60 * options.minutes))
        time.sleep(REST_S)
        end = process.memory_info().rss / 1e6
        health = httpx.get(f"http://{address}/health").json()
    holds = (not tally.lost and not tally.server_errors and end <= settled * (1 + SHARE_MB)
             and not health["running"] + health["waiting"])
    report = {"machine": common.machine(), "command": f"python benchmarks/live_soak.py --minutes {options.minutes:g}",
              "minutes": options.minutes, "answered": dict(tally.answered), "told_to_come_back": dict(tally.refused),
              "faults": dict(tally.faults), "lost": tally.lost, "server_errors": tally.server_errors,
              "first_audio_ms": round(statistics.median(tally.first_audio_ms)), "mb_before": round(settled, 1),
              "mb_after": round(end, 1), "mb_by_minute": sizes,
              "left_on_device": health["running"] + health["waiting"], "holds": holds}
    common.publish(common.RESULTS / "live_soak.json", report, text(report))


def text(report: dict[str, Any]) -> str:
    """The report as a table."""
    counts = [(words, ", ".join(f"{name} {count}" for name, count in sorted(report[key].items())) or "0")
              for words, key in (("answered", "answered"), ("told to come back, then answered", "told_to_come_back"),
                                 ("faults injected", "faults"))]
    rows = [*counts, ("answers lost", len(report["lost"])), ("5xx", len(report["server_errors"])),
            ("first sound, median", f"{report['first_audio_ms']} ms"),
            ("memory at rest, before and after", f"{report['mb_before']} MB, {report['mb_after']} MB"),
            ("memory, minute by minute", " ".join(f"{size:.0f}" for size in report["mb_by_minute"])),
            ("left on the device", report["left_on_device"]), ("holds", "yes" if report["holds"] else "no")]
    length = f"{report['minutes']:g} minutes"
    return f"{common.table(['soak', length], rows)}\n\n{common.provenance(report)}\n"


if __name__ == "__main__":
    main()
