"""How live a model is on this machine: measured from outside, over a real server with real sockets.

    answers      end of speech -> first word, -> first sound, at the pace of a microphone
    unit         seconds of computing for a second of listening, with a camera and a rule to watch for
    load         text chats and live sessions at once: words a second, gaps in what is played
    overhead     the server against the model alone
    memory       resident size over a long session, fed as fast as it is computed

Times of a live answer are counted from the last loud sample of the question. Letters: N samples at 24 kHz.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import numpy as np
import psutil
import websockets

from ..errors import OptionError
from ..rates import AUDIO_RATE_HZ, SPEECH_RATE_HZ
from ..runtime.live.session import LiveConfig, LiveSession, Work
from .app import create_app
from .config import ServerConfig
from .media import from_pcm16, pcm16
from .run import in_background

if TYPE_CHECKING:
    from ..api import MiniCPMO

QUESTIONS = ("What is the capital of France?", "How many legs does a spider have?", "What colour is the sky?",
             "Who wrote Romeo and Juliet?", "What is the largest planet?", "Where do penguins live?",
             "What is water made of?", "How do you say hello in Spanish?")
STORY = "Tell me about the sea."
PIECE = SPEECH_RATE_HZ // 25
QUIET_S = 0.5
LOUD = 0.02
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Answered:
    """One live answer, in ms from the end of the question."""

    first_text_ms: float
    first_audio_ms: float
    audio_ms: float
    gap_ms: float
    """What a player that begins with the first sound has to wait later."""


@dataclass(frozen=True)
class Spread:
    """Median, 95th percentile and largest of some numbers."""

    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        ordered = sorted(numbers)
        late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
        return cls(round(statistics.median(ordered), 1), round(late, 1), round(ordered[-1], 1))


@contextmanager
def serving(model: MiniCPMO, *, with_page: bool = False) -> Iterator[str]:
    """A server on a free port in a thread; its address as host:port."""
    config = ServerConfig(port=0, with_page=with_page)
    with in_background(create_app(model, config), config) as address:
        yield address.removeprefix("http://")


def questions(model: MiniCPMO, voice: str | None = None) -> list[np.ndarray]:
    """The spoken questions, (N,) each."""
    return [(0.8 * model.speak(text, voice=voice).waveform).astype(np.float32) for text in QUESTIONS]


async def ask_aloud(socket: Any, question: np.ndarray, wait_s: float = 3.0) -> Answered:
    """Say a question at the pace of speech and hear the answer to its end."""
    quiet = np.random.default_rng(1).normal(0, 1e-3, round(wait_s * SPEECH_RATE_HZ)).astype(np.float32)
    hiss = np.random.default_rng().normal(0, 1e-3, len(question))  # never twice the same: nothing is heard from memory
    heard = (question + hiss).astype(np.float32)
    sound = np.concatenate([quiet[: round(QUIET_S * SPEECH_RATE_HZ)], heard, quiet])
    ends_s = QUIET_S + float(np.flatnonzero(np.abs(question) > LOUD)[-1]) / SPEECH_RATE_HZ
    begun = time.monotonic()
    feeding = asyncio.create_task(_feed(socket, sound, begun))
    first_text: float | None = None
    arrived: list[tuple[float, float]] = []
    try:
        while True:
            event = json.loads(await asyncio.wait_for(socket.recv(), PATIENCE_S))
            now_ms = 1000 * (time.monotonic() - begun - ends_s)
            if event["type"] == "response.output_audio_transcript.delta":
                first_text = now_ms if first_text is None else first_text
            elif event["type"] == "response.output_audio.delta":
                samples = from_pcm16(base64.b64decode(event["delta"]))
                arrived.append((now_ms, 1000 * len(samples) / SPEECH_RATE_HZ))
            elif event["type"] == "response.done":
                break
            elif event["type"] == "error":
                raise OptionError(event["error"]["message"])
    finally:
        feeding.cancel()
    if first_text is None or not arrived:
        raise OptionError("a question was not heard; the benchmark needs a model that hears and speaks")
    return Answered(first_text, arrived[0][0], sum(ms for _, ms in arrived), gap_ms(arrived))


async def _feed(socket: Any, sound: np.ndarray, begun: float) -> None:
    for start in range(0, len(sound), PIECE):
        await asyncio.sleep(max(0.0, begun + (start + PIECE) / SPEECH_RATE_HZ - time.monotonic()))
        piece = base64.b64encode(pcm16(sound[start : start + PIECE])).decode()
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": piece}))


def gap_ms(arrived: Sequence[tuple[float, float]]) -> float:
    """Pieces (when they came, how long they sound) to the silence that a player cannot avoid."""
    gap, ready = 0.0, arrived[0][0]
    for came, length in arrived:
        late = max(0.0, came - ready)
        gap += late
        ready += late + length
    return gap


async def answer_times(address: str, sounds: Sequence[np.ndarray], rounds: int) -> list[Answered]:
    """Every question `rounds` times, each in a session of its own that knows nothing yet."""
    found = []
    for _ in range(rounds):
        for sound in sounds:
            async with websockets.connect(f"ws://{address}/v1/realtime", max_size=None) as socket:
                await socket.recv()
                found.append(await ask_aloud(socket, sound))
    return found


async def under_load(address: str, sounds: Sequence[np.ndarray], seconds: float, chats: int, lives: int
                     ) -> dict[str, Any]:
    """Text chats one after the other beside live sessions that ask one question after the other."""
    ends = time.monotonic() + seconds
    tokens, answered = 0, list[Answered]()

    async def chat() -> None:
        nonlocal tokens
        while time.monotonic() < ends:
            reply = await asyncio.to_thread(_complete, address, 64)
            tokens += reply["usage"]["completion_tokens"]

    async def live(number: int) -> None:
        async with websockets.connect(f"ws://{address}/v1/realtime", max_size=None) as socket:
            await socket.recv()
            place = number
            while time.monotonic() < ends:
                found = await ask_aloud(socket, sounds[place % len(sounds)])
                answered.append(found)
                place += lives
                await asyncio.sleep(found.audio_ms / 1000)  # hear it to its end, as people do

    begun = time.monotonic()
    await asyncio.gather(*(chat() for _ in range(chats)), *(live(number) for number in range(lives)))
    gaps = [found.gap_ms for found in answered]
    return {"chats": chats, "live_sessions": lives, "seconds": round(time.monotonic() - begun, 1),
            "chat_tokens_per_s": round(tokens / (time.monotonic() - begun), 1), "live_answers": len(answered),
            "first_audio_ms": asdict(Spread.of([found.first_audio_ms for found in answered])),
            "answers_with_gaps": sum(gap > 1.0 for gap in gaps), "gap_ms": asdict(Spread.of(gaps))}


def unit_cost(model: MiniCPMO, picture: Any, seconds: int) -> dict[str, float]:
    """Seconds of computing for a second of listening: alone, and with a picture a second and a rule about it."""
    quiet = np.random.default_rng(2).normal(0, 1e-3, AUDIO_RATE_HZ).astype(np.float32)

    def run(with_camera: bool) -> float:
        live = LiveSession(model, model.parts.recogniser.detector, LiveConfig(speaks=False))
        if with_camera:
            for work in live.read("Tell me when you see a red elephant."):
                _finish(work)
        begun = time.perf_counter()
        for _ in range(seconds):
            if with_camera:
                live.see(picture)
            for item in [*live.hear(quiet), *live.tick()]:
                _finish(item)
        return (time.perf_counter() - begun) / seconds

    run(True)
    return {"listening": round(run(False), 4), "with_camera_and_rule": round(run(True), 4)}


def _finish(item: Any) -> None:
    if isinstance(item, Work):
        for _ in item.run():
            pass


def long_session(model: MiniCPMO, sounds: Sequence[np.ndarray], minutes: float) -> dict[str, Any]:
    """Resident memory of this process over a session of so many minutes of sound, fed as fast as it is computed."""
    import soxr

    live = LiveSession(model, model.parts.recogniser.detector, LiveConfig(speaks=False, max_tokens=48))
    heard = [soxr.resample(sound, SPEECH_RATE_HZ, AUDIO_RATE_HZ) for sound in sounds]
    rng = np.random.default_rng(3)
    process, sizes, turns = psutil.Process(), list[tuple[float, float]](), 0
    while live.now_ms < 60_000 * minutes:
        question = np.pad(heard[turns % len(heard)], (0, 4 * AUDIO_RATE_HZ))
        for piece in np.array_split(question + rng.normal(0, 1e-3, len(question)).astype(np.float32), 40):
            for item in live.hear(piece):
                _finish(item)
        turns += 1
        sizes.append((live.now_ms / 60_000, process.memory_info().rss / 1e6))
    settled = [size for minute, size in sizes if minute > minutes / 3]  # the history has its full length by then
    by_minute = [*{int(minute): round(size) for minute, size in sizes}.values()]
    return {"minutes": minutes, "turns": turns, "entries_kept": len(live.entries), "mb_by_minute": by_minute,
            "rss_mb": {"settled": round(settled[0], 1), "end": round(settled[-1], 1), "most": round(max(settled), 1)}}


def _complete(address: str, max_tokens: int) -> dict[str, Any]:
    """One answer over HTTP."""
    body = {"model": "default", "messages": [{"role": "user", "content": STORY}], "max_tokens": max_tokens}
    request = Request(f"http://{address}/v1/chat/completions", json.dumps(body).encode(),
                      {"Content-Type": "application/json"})
    with urlopen(request, timeout=PATIENCE_S) as reply:
        told: dict[str, Any] = json.load(reply)
        return told


async def overhead(address: str, model: MiniCPMO, rounds: int) -> dict[str, float]:
    """The same answer from the server and from the model, in turn; the median of their times' ratios."""
    ratios, alone = list[float](), list[float]()
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        await asyncio.to_thread(_complete, address, 96)
        served = time.perf_counter() - begun
        begun = time.perf_counter()
        await asyncio.to_thread(model.chat, STORY, max_tokens=96)
        alone.append(time.perf_counter() - begun)
        ratios.append(served / alone[-1])
    return {"server_over_engine": round(statistics.median(ratios[1:]), 3),
            "engine_s": round(statistics.median(alone[1:]), 3)}


@dataclass(frozen=True)
class LiveBenchConfig:
    """How long each part is measured."""

    rounds: int = 2
    load_s: float = 60.0
    chats: int = 4
    lives: int = 2
    minutes: float = 30.0
    units: int = 20
    voice: str | None = None
    """That asks; the answers come in the quickest there is."""


def measure(model: MiniCPMO, picture: Any, config: LiveBenchConfig, told: Any = lambda words: None) -> dict[str, Any]:
    """Everything, one after the other; `told` is called with what is measured next. Raises OptionError for models
    that do not take turns."""
    if not model.voices():
        raise OptionError(f"{model.name} has no voice of its own to ask and answer with; this benchmark is for nano")
    told("speaking the questions")
    sounds = questions(model, config.voice)
    report: dict[str, Any] = {"model": model.name, "threads": model.plan.threads,
                              "voice": model.quick_voice("Hello.") or "usual"}
    with serving(model) as address:
        told("answers, once to warm up")
        asyncio.run(answer_times(address, sounds[:2], 1))
        told(f"answers, {config.rounds * len(sounds)} questions")
        times = asyncio.run(answer_times(address, sounds, config.rounds))
        report["answers"] = {"count": len(times), "first_text_ms": asdict(Spread.of([x.first_text_ms for x in times])),
                             "first_audio_ms": asdict(Spread.of([x.first_audio_ms for x in times])),
                             "gap_ms": asdict(Spread.of([x.gap_ms for x in times]))}
        told("the server against the model alone")
        report["overhead"] = asyncio.run(overhead(address, model, 2 * config.rounds + 1))
        told(f"{config.chats} chats and {config.lives} live sessions, {config.load_s:g} s")
        report["load"] = asyncio.run(under_load(address, sounds, config.load_s, config.chats, config.lives))
    told("a second of listening")
    report["unit_s"] = unit_cost(model, picture, config.units)
    told(f"a session of {config.minutes:g} minutes")
    report["long_session"] = long_session(model, sounds, config.minutes)
    return report
