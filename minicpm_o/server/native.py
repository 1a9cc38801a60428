"""WS /v1/realtime?mode=audio|video: the dialect of MiniCPM-o's own demo, so that its clients connect unchanged.

session.update -> session.created; then a second of float32 sound (and a picture) goes in, `response.listen` or
`response.output_audio.delta` comes back. Source: docs/video-duplex-protocol.md of OpenBMB/MiniCPM-o-Demo. Differences:
sessions are not closed after five minutes, since their context is kept within its window.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..inputs.audio import load_audio
from ..rates import AUDIO_RATE_HZ, SPEECH_RATE_HZ
from ..runtime.live.events import AudioChunk, Interrupted, Lagging, Listening, TextPiece, TurnEnded
from ..runtime.live.opening import AnySession, open_session
from ..runtime.live.session import LiveConfig, LiveSession, SessionEvent, Work, new_id
from .channel import TRY_AGAIN_LATER, Channel
from .device import Job
from .errors import ApiError, as_api_error
from .media import read_base64, to_base64
from .realtime_items import resampled_to
from .socket_session import SocketSession
from .state import ServerState

LEAST_SAMPLES = AUDIO_RATE_HZ // 4
NO_SOUND = np.zeros(0, np.float32)


class NativeError(ApiError):
    """An error with one of the dialect's own codes."""


class NativeSession(SocketSession):
    """One client of the official demo."""

    def __init__(self, state: ServerState, channel: Channel, owner: str) -> None:
        super().__init__(state, channel, owner)
        asked = channel.socket.query_params.get("session_id")
        self.id = asked or new_id("rt")
        self.live: AnySession | None = None
        self._handlers = {
            "session.update": self._update, "input_audio_buffer.append": self._append, "session.close": self._close}

    async def run(self) -> None:
        """Wait for a place, then serve until the client leaves."""
        try:
            await self._wait_in_line()
            async for event in self.channel.events():
                await self._handle(event)
        finally:
            await self._end_all()

    async def _wait_in_line(self) -> None:
        """Tell where in line the client stands, until it has a place."""
        slots = self.state.slots
        if slots.take(self):
            return
        if len(slots.line) > self.state.config.limits.max_waiting:
            slots.leave(self)
            self.channel.error(NativeError("the line is full; come back later", status=503, code="queue_full"))
            self.channel.close(TRY_AGAIN_LATER, "queue_full")
            return
        told = "session.queued"

        def tell(position: int, eta_s: float) -> None:
            nonlocal told
            self.channel.send(told, position=position, estimated_wait_s=round(eta_s, 1))
            told = "session.queue_update"

        waiting = asyncio.create_task(slots.wait(self, tell))
        gone = asyncio.create_task(self._until_gone())
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            self.channel.close()
            return
        gone.cancel()
        self.channel.send("session.queue_done")

    async def _until_gone(self) -> None:
        """Clients say nothing while they wait; what ends this is that they leave."""
        async for _ in self.channel.events():
            self.channel.error(NativeError("wait for session.queue_done", code="not_ready"))

    def _unknown(self, kind: str) -> ApiError:
        return NativeError(f"events of type {kind!r} are not known", code="unknown_event")

    # --- client events ---------------------------------------------------------------------------------------------

    async def _update(self, event: dict[str, Any]) -> None:
        session = event.get("session")
        if not isinstance(session, dict):
            raise NativeError("session.update needs a session object", code="missing_field")
        _refuse_slices(session)
        voice = session.get("tts_ref_audio") or session.get("ref_audio")
        config = LiveConfig(instructions=str(session.get("instructions", "")),
                            keep_mb=self.state.config.limits.session_memory_mb)
        if voice and not self.state.model.voices():  # nano speaks with voices of its own
            config = replace(config, voice=_clip(str(voice)))
        self.live = await asyncio.to_thread(open_session, self.state.model, config)
        self.channel.send("session.created", session_id=self.id, prompt_length=self._cache_length)

    async def _append(self, event: dict[str, Any]) -> None:
        if self.live is None:
            raise NativeError("send session.update first", code="not_ready")
        _refuse_slices(event)
        for frame in event.get("video_frames") or ():
            self._take(self.live.see(self.state.reader.picture(str(frame), "video_frames")))
        waveform = _floats(event)
        if event.get("force_listen"):
            self.live.interrupt()
            self._drop_cancelled()
        happened = await asyncio.to_thread(self.live.hear, waveform)
        self._take([*happened, *self.live.tick()])
        if isinstance(self.live, LiveSession) and not self.live.is_busy and not self._is_telling:
            self._listen()

    # --- answers ---------------------------------------------------------------------------------------------------

    @property
    def _is_telling(self) -> bool:
        return any(confirmed.is_set() and work.kind != "ahead" for work, confirmed in self._confirmed.items())

    def _take(self, happened: list[SessionEvent]) -> None:
        for item in happened:
            if isinstance(item, Work):
                self._start(item)
            elif isinstance(item, Interrupted):
                self.state.metrics.barge_ins.inc()
                self._listen()
        self._notice_confirmed()
        self._drop_cancelled()

    def _drop_cancelled(self) -> None:
        for work, task in list(self._tasks.items()):
            if work.cancel.is_set():
                task.cancel()

    async def _told(self, work: Work, job: Job) -> None:
        try:
            await self._confirmed[work].wait()
            words, has_spoken = "", False
            async for event in job:
                if isinstance(event, TextPiece):
                    words += event.text
                elif isinstance(event, AudioChunk):
                    self._speak(words, event)
                    words, has_spoken = "", True
                elif isinstance(event, TurnEnded) and (has_spoken or words):
                    self._delta(words, NO_SOUND, ends=True)
                    words, has_spoken = "", False
                elif isinstance(event, Listening):
                    self._listen()
                elif isinstance(event, Lagging):
                    self.state.metrics.audio_underrun.inc(event.seconds)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - told; the session goes on
            self.channel.error(NativeError(str(as_api_error(error)), status=500, code="inference_error"))
        finally:
            self._finished(work, job)

    def _speak(self, words: str, chunk: AudioChunk) -> None:
        """A clause in pieces of at most a second, the words with the first."""
        sound = resampled_to(chunk.waveform, chunk.rate_hz, SPEECH_RATE_HZ)
        for start in range(0, len(sound), SPEECH_RATE_HZ):
            self._delta(words if start == 0 else "", sound[start : start + SPEECH_RATE_HZ], ends=False)

    def _delta(self, text: str, sound: np.ndarray, *, ends: bool) -> None:
        self.channel.send("response.output_audio.delta", text=text, audio=to_base64(sound.astype("<f4").tobytes()),
                          end_of_turn=ends, kv_cache_length=self._cache_length)

    def _listen(self) -> None:
        self.channel.send("response.listen", kv_cache_length=self._cache_length)

    @property
    def _cache_length(self) -> int:
        """Tokens of the history that are kept; the cache itself is shared."""
        return 0 if self.live is None else self.live.num_cached


def _refuse_slices(fields: dict[str, Any]) -> None:
    if fields.get("max_slice_nums", 1) != 1:
        raise NativeError("pictures are fed whole here: max_slice_nums is 1", code="invalid_payload")


def _floats(event: dict[str, Any]) -> np.ndarray:
    """The sound of an append, (N,) at 16 kHz. Raises NativeError."""
    if not isinstance(event.get("audio"), str):
        raise NativeError("audio field is required", code="missing_field")
    data = read_base64(event["audio"], "audio")
    samples = np.frombuffer(data[: len(data) // 4 * 4], "<f4")
    if len(samples) < LEAST_SAMPLES or not np.isfinite(samples).all():
        raise NativeError(f"expected at least {LEAST_SAMPLES} finite float32 samples at 16 kHz, got {len(samples)}",
                          code="invalid_payload")
    return np.clip(samples, -1.0, 1.0)


def _clip(text: str) -> np.ndarray:
    try:
        return load_audio(read_base64(text, "ref_audio"))
    except InputError as error:
        raise NativeError(str(error), code="invalid_payload") from error
