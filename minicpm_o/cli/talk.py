"""`minicpm-o talk`: a live call in the terminal, to a server that is there or one that is started for it.

Microphone and loudspeaker are those of the system through sounddevice (extra `talk`); a sound file can stand for the
microphone. Speaks OpenAI's Realtime API, as any other client does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MiniCPMOError, MissingExtraError, OptionError
from ..rates import SPEECH_RATE_HZ
from .loading import Loading
from .output import say, write

PIECE = SPEECH_RATE_HZ // 25
QUIET_AFTER_S = 1.5
"""Silence behind a sound file, in which its last turn ends."""


@dataclass(frozen=True)
class Call:
    """What a call is made with."""

    url: str | None = None
    audio: Path | None = None
    out: Path | None = None
    api_key: str | None = None
    voice: str | None = None
    instructions: str | None = None


@dataclass
class Player:
    """Samples that wait to be heard, and how many were. Filled by the network, emptied by the sound card."""

    waiting: deque[np.ndarray] = field(default_factory=deque)
    item: str | None = None
    played: int = 0
    all_pieces: list[np.ndarray] = field(default_factory=list)

    def put(self, item: str, samples: np.ndarray) -> None:
        if item != self.item:
            self.item, self.played = item, 0
        self.waiting.append(samples)
        self.all_pieces.append(samples)

    def take(self, count: int) -> np.ndarray:
        """The next samples (count,), silence where there are none."""
        taken = np.zeros(count, np.float32)
        place = 0
        while place < count and self.waiting:
            piece = self.waiting.popleft()
            used = piece[: count - place]
            taken[place : place + len(used)] = used
            place += len(used)
            if len(used) < len(piece):
                self.waiting.appendleft(piece[len(used) :])
        self.played += place
        return taken

    def flush(self) -> tuple[str | None, float]:
        """Forget what waits; returns whose sound it was and how many ms of it were heard."""
        self.waiting.clear()
        item, self.item = self.item, None
        return item, 1000 * self.played / SPEECH_RATE_HZ


def talk(call: Call, *, model: str, threads: int | None, quiet: bool) -> None:
    """Until Ctrl-C, or the end of the sound file's last answer. Raises MissingExtraError, OptionError."""
    try:
        import websockets  # noqa: F401 - told before a model is opened
    except ImportError as cause:
        raise MissingExtraError("talking needs the packages of the server; install minicpm-o[serve]") from cause
    with nullcontext(call.url) if call.url else _own_server(Loading(model, threads, quiet=quiet)) as url:
        asyncio.run(_talk(call, str(url), quiet))


@contextmanager
def _own_server(loading: Loading) -> Iterator[str]:
    from ..server.live_bench import serving
    from .serve import warm_up

    model, _ = loading.open()
    warm_up(model)
    with serving(model) as address:
        yield f"http://{address}"


async def _talk(call: Call, url: str, quiet: bool) -> None:
    import websockets
    import websockets.exceptions

    headers = {"Authorization": f"Bearer {call.api_key}"} if call.api_key else {}
    address = url.rstrip("/").removesuffix("/v1").replace("http", "ws", 1) + "/v1/realtime"
    player = Player()
    try:
        async with websockets.connect(address, additional_headers=headers, max_size=None) as socket:
            await socket.send(json.dumps({"type": "session.update", "session": _settings(call)}))
            with _devices(call, player) as pieces:
                if not quiet:
                    say("listening; speak when you like, Ctrl-C ends")
                hearing = asyncio.create_task(_hear(socket, pieces))
                await _follow(socket, player, hearing)
                hearing.cancel()
    except (OSError, websockets.exceptions.WebSocketException) as cause:
        raise OptionError(f"cannot talk with {url}: {cause}; check the address and the key") from cause
    if call.out is not None and player.all_pieces:
        from ..inputs.audio import write_wav

        write_wav(call.out, np.concatenate(player.all_pieces), SPEECH_RATE_HZ)


def _settings(call: Call) -> dict[str, Any]:
    output = {"voice": call.voice} if call.voice else {}
    more = {"instructions": call.instructions} if call.instructions else {}
    return {"type": "realtime", "audio": {"input": {"transcription": {}}, "output": output}, **more}


async def _hear(socket: Any, pieces: asyncio.Queue[np.ndarray | None]) -> None:
    """What the microphone gives, to the server; ends with the sound file."""
    from ..server.media import pcm16

    while (piece := await pieces.get()) is not None:
        audio = base64.b64encode(pcm16(piece)).decode()
        await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))


async def _follow(socket: Any, player: Player, hearing: asyncio.Task[None]) -> None:
    """What the server tells, to the screen and the loudspeaker; ends when a sound file was answered to its end."""
    from ..server.media import from_pcm16

    is_open = False
    while True:
        try:
            event = json.loads(await asyncio.wait_for(socket.recv(), timeout=1.0))
        except (TimeoutError, asyncio.TimeoutError):
            if hearing.done() and not is_open and not player.waiting:
                return
            continue
        kind = event["type"]
        if kind == "input_audio_buffer.speech_started":
            item, heard_ms = player.flush()
            if item is not None:
                await socket.send(json.dumps({"type": "conversation.item.truncate", "item_id": item,
                                              "content_index": 0, "audio_end_ms": round(heard_ms)}))
        elif kind == "conversation.item.input_audio_transcription.completed" and event["transcript"]:
            write(f"> {event['transcript']}\n")
        elif kind == "response.created":
            is_open = True
        elif kind == "response.output_audio_transcript.delta":
            write(event["delta"])
        elif kind == "response.output_audio.delta":
            player.put(event["item_id"], from_pcm16(base64.b64decode(event["delta"])))
        elif kind == "response.done":
            is_open = False
            write("\n")
        elif kind == "error" and event["error"]["code"] not in ("item_not_found",):
            raise MiniCPMOError(event["error"]["message"])


@contextmanager
def _devices(call: Call, player: Player) -> Iterator[asyncio.Queue[np.ndarray | None]]:
    """Microphone or sound file to a queue of pieces (N,), the player to the loudspeaker where there is one."""
    pieces: asyncio.Queue[np.ndarray | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    if call.audio is not None:
        stop = threading.Event()
        sound = _file(call.audio)
        threading.Thread(target=_play_file, args=(sound, pieces, loop, player, stop), daemon=True).start()
        yield pieces
        stop.set()
        return
    device = _sounddevice()

    def heard(samples: Any, *_: Any) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, samples[:, 0].copy())

    def wanted(out: Any, count: int, *_: Any) -> None:
        out[:, 0] = player.take(count)

    shape = {"samplerate": SPEECH_RATE_HZ, "channels": 1, "dtype": "float32", "blocksize": PIECE}
    try:
        with device.InputStream(callback=heard, **shape), device.OutputStream(callback=wanted, **shape):
            yield pieces
    except device.PortAudioError as cause:
        raise OptionError(f"no microphone or loudspeaker: {cause}; name a sound file with --audio") from cause


def _sounddevice() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as cause:
        raise MissingExtraError(f"the microphone needs sounddevice and PortAudio ({cause}); install minicpm-o[talk], "
                                "or name a sound file with --audio") from cause
    return sounddevice


def _file(path: Path) -> np.ndarray:
    """A sound (N,) at 24 kHz with silence behind."""
    import soxr

    from ..inputs.audio import load_audio
    from ..rates import AUDIO_RATE_HZ

    sound = soxr.resample(load_audio(path), AUDIO_RATE_HZ, SPEECH_RATE_HZ)
    return np.concatenate([sound, np.zeros(round(QUIET_AFTER_S * SPEECH_RATE_HZ), np.float32)]).astype(np.float32)


def _play_file(sound: np.ndarray, pieces: asyncio.Queue[np.ndarray | None], loop: asyncio.AbstractEventLoop,
               player: Player, stop: threading.Event) -> None:
    """The file at the pace of speech; what is answered is heard at that pace too."""
    begun, place = time.monotonic(), 0
    while not stop.is_set():
        if place < len(sound):
            loop.call_soon_threadsafe(pieces.put_nowait, sound[place : place + PIECE])
        elif place - PIECE < len(sound):
            loop.call_soon_threadsafe(pieces.put_nowait, None)
        player.take(PIECE)
        place += PIECE
        time.sleep(max(0.0, begun + place / SPEECH_RATE_HZ - time.monotonic()))
