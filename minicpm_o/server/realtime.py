"""WS /v1/realtime: OpenAI's Realtime API over a live session, with vLLM-Omni's extensions for full duplex.

Client events come in one after the other and change the session at once; answers are computed on the device and told by
a task of their own. Errors are told and do not close the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket

from ..inputs.messages import AudioPart
from ..rates import AUDIO_RATE_HZ
from ..runtime.live.events import (
    AudioChunk,
    Called,
    Heard,
    Interrupted,
    Speaking,
    SpeechStarted,
    SpeechStopped,
    TextPiece,
    TurnEnded,
)
from ..runtime.live.session import Entry, LiveSession, SessionEvent, Work, new_id
from . import native
from .channel import Channel
from .device import Job
from .errors import ApiError, as_api_error
from .media import from_pcm16, read_base64
from .realtime_items import read_item, shown_item
from .realtime_response import ResponseWriter
from .realtime_settings import Settings, as_object, live_config, updated
from .socket_session import SocketSession
from .state import ServerState, owner_of, state_of

router = APIRouter()

TICK_S = 1.0
"""How often rules are checked, idle turns noticed and idle sessions closed."""
LINE_TOLD_S = 2.0
"""How often a client that waits in line is told so."""
LONG_APPEND_S = 1.0
"""More sound than this in one event is looked at on another thread."""


@router.websocket("/v1/realtime")
async def realtime(socket: WebSocket) -> None:
    """One live conversation. `?mode=audio|video` speaks the dialect of MiniCPM-o's own demo."""
    state = state_of(socket)
    channel = Channel(socket, state.config.limits)
    await channel.accept()
    state.channels.add(channel)
    try:
        if len(state.channels) > state.config.limits.max_sockets or state.device.is_draining:
            channel.error(ApiError("this server takes no more connections now; come back later", status=503,
                                   code="too_many_connections"))
            return
        name = socket.query_params.get("model")
        if name is not None:
            state.check_model(name)
        is_native = socket.query_params.get("mode") is not None
        if not is_native and not state.model.voices():
            raise ApiError(f"{state.model.name} ends turns by itself; connect with ?mode=audio or ?mode=video",
                           param="mode", code="unsupported_parameter")
        session = native.NativeSession if is_native else RealtimeSession
        await session(state, channel, owner_of(socket)).run()
    except ApiError as error:
        channel.error(error)
    except Exception as error:  # noqa: BLE001 - one session's failure is told and ends with it
        channel.error(as_api_error(error))
    finally:
        await channel.finish()
        state.channels.discard(channel)


class RealtimeSession(SocketSession):
    """OpenAI's dialect."""

    def __init__(self, state: ServerState, channel: Channel, owner: str) -> None:
        super().__init__(state, channel, owner)
        self.id = new_id("sess")
        self.settings = Settings()
        self.live: LiveSession = LiveSession(state.model, state.model.parts.recogniser.detector,
                                             live_config(self.settings, state))
        self.transcripts: dict[str, str] = {}
        self._writers: dict[Work, ResponseWriter] = {}
        self._resampler: Any = None
        self._told_line_s = -LINE_TOLD_S
        self._handlers = {
            "session.update": self._update, "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit, "input_audio_buffer.clear": self._clear,
            "conversation.item.create": self._create_item, "conversation.item.retrieve": self._retrieve_item,
            "conversation.item.delete": self._delete_item, "conversation.item.truncate": self._truncate_item,
            "response.create": self._create_response, "response.cancel": self._cancel_response,
            "output_audio_buffer.clear": self._cancel_response, "barge_in": self._cancel_response,
            "playback.ack": self._played, "session.heartbeat": self._heartbeat, "session.close": self._close,
        }

    async def run(self) -> None:
        """Until the client leaves."""
        ticking = asyncio.create_task(self._tick())
        try:
            self.channel.send("session.created", session=as_object(self.settings, self.id, self.state))
            async for event in self.channel.events():
                await self._handle(event)
        finally:
            ticking.cancel()
            self.live.interrupt()
            await self._end_all()

    def _unknown(self, kind: str) -> ApiError:
        return ApiError(f"events of type {kind!r} are not known; expected one of {', '.join(self._handlers)}",
                        param="type", code="unknown_event")

    # --- session ---------------------------------------------------------------------------------------------------

    def _update(self, event: dict[str, Any]) -> None:
        change = event.get("session")
        if not isinstance(change, dict):
            raise ApiError("session.update needs a session object", param="session", code="invalid_value")
        settings = updated(self.settings, change)
        if settings.model is not None:
            self.state.check_model(settings.model)
        config = live_config(settings, self.state)
        if settings.audio.input.format != self.settings.audio.input.format:
            self._resampler = None
        self.settings, self.live.config = settings, config
        self.channel.send("session.updated", session=as_object(settings, self.id, self.state))

    def _heartbeat(self, event: dict[str, Any]) -> None:
        self.channel.send("session.heartbeat_ack")

    # --- sound and pictures ----------------------------------------------------------------------------------------

    async def _append(self, event: dict[str, Any]) -> None:
        if not self.state.slots.take(self) and asyncio.get_running_loop().time() < self._told_line_s + LINE_TOLD_S:
            return  # was told so a moment ago
        self._take_slot()
        for place, frame in enumerate(_frames(event)):
            self._tell(self.live.see(self.state.reader.picture(frame, f"video_frames[{place}]")))
        if "audio" not in event and "video_frames" in event:
            return
        waveform = self._waveform(event)
        if len(waveform) > LONG_APPEND_S * AUDIO_RATE_HZ:
            happened = await asyncio.to_thread(self.live.hear, waveform)
        else:
            happened = self.live.hear(waveform)
        if self.live.waiting_s > self.state.config.limits.max_media_s:
            self.live.clear()
            raise ApiError(f"more than {self.state.config.limits.max_media_s:g} s of sound were not committed and are "
                           "dropped", code="buffer_full")
        self._tell(happened)

    def _waveform(self, event: dict[str, Any]) -> np.ndarray:
        if not isinstance(event.get("audio"), str):
            raise ApiError("audio must be base64 of 16 bit samples", param="audio", code="invalid_value")
        samples = from_pcm16(read_base64(event["audio"], "audio"))
        return self._at_16_khz(samples, self.settings.audio.input.format.rate)

    def _at_16_khz(self, samples: np.ndarray, rate_hz: int) -> np.ndarray:
        """The stream goes on where the piece before it ended."""
        if rate_hz == AUDIO_RATE_HZ:
            return samples
        import soxr

        self._resampler = self._resampler or soxr.ResampleStream(rate_hz, AUDIO_RATE_HZ, 1, dtype="float32")
        return np.asarray(self._resampler.resample_chunk(samples), np.float32)

    def _commit(self, event: dict[str, Any]) -> None:
        entry = self.live.commit()
        if entry is None:
            raise ApiError("there is no sound to commit; append some first", code="input_audio_buffer_commit_empty")
        self._tell_committed(entry)
        self._transcribe(entry)

    def _clear(self, event: dict[str, Any]) -> None:
        self.live.clear()
        self.channel.send("input_audio_buffer.cleared")

    def _take_slot(self) -> None:
        """Live sessions have places; who has none is told how long the line is."""
        slots = self.state.slots
        if slots.take(self):
            self.state.metrics.sessions.set(len(slots.taken))
            return
        self._told_line_s = asyncio.get_running_loop().time()
        place, eta_s = slots.position(self), slots.eta_s(self)
        raise ApiError(f"{len(slots.taken)} live sessions are running, which is all this server takes; you are number "
                       f"{place} in line, about {eta_s:.0f} s; what is said meanwhile is not heard", status=429,
                       code="session_limit_reached", position=place, eta_s=round(eta_s, 1))

    # --- items -----------------------------------------------------------------------------------------------------

    async def _create_item(self, event: dict[str, Any]) -> None:
        item = event.get("item")
        rate_hz = self.settings.audio.input.format.rate
        message = await asyncio.to_thread(read_item, item, self.state.reader, rate_hz)
        wanted = item.get("id") if isinstance(item, dict) else None
        entry = self.live.add(message, wanted if isinstance(wanted, str) else None)
        self._tell_item(entry, _shown(item, entry))

    def _retrieve_item(self, event: dict[str, Any]) -> None:
        entry = self._entry(event)
        self.channel.send("conversation.item.retrieved",
                          item=shown_item(entry.id, entry.message, transcript=self.transcripts.get(entry.id)))

    def _delete_item(self, event: dict[str, Any]) -> None:
        entry = self._entry(event)
        self.live.remove(entry.id)
        self.channel.send("conversation.item.deleted", item_id=entry.id)

    def _truncate_item(self, event: dict[str, Any]) -> None:
        item_id, end_ms = event.get("item_id"), event.get("audio_end_ms")
        if not isinstance(end_ms, (int, float)) or isinstance(end_ms, bool) or end_ms < 0:
            raise ApiError("audio_end_ms must be 0 or more", param="audio_end_ms", code="invalid_value")
        kept = self.live.truncate(item_id, float(end_ms)) if isinstance(item_id, str) else None
        if kept is None:
            raise ApiError(f"{item_id!r} is none of the latest answers; only those can be cut to what was heard",
                           param="item_id", code="item_not_found")
        self.channel.send("conversation.item.truncated", item_id=item_id, content_index=0, audio_end_ms=round(end_ms),
                          transcript=kept)

    def _entry(self, event: dict[str, Any]) -> Entry:
        wanted = event.get("item_id")
        found = next((entry for entry in self.live.entries if entry.id == wanted), None)
        if found is None:
            raise ApiError(f"there is no item {wanted!r} in this conversation", param="item_id", code="item_not_found")
        return found

    # --- responses -------------------------------------------------------------------------------------------------

    def _create_response(self, event: dict[str, Any]) -> None:
        if self._active() is not None:
            raise ApiError("an answer is being given already; wait for response.done, or cancel it first",
                           code="conversation_already_has_active_response")
        self._take_slot()
        asked = event.get("response") or {}
        settings, metadata = _for_one_response(self.settings, asked)
        if not self.live.entries and not settings.instructions.strip():
            raise ApiError("there is nothing to answer yet; create an item first", code="conversation_empty")
        work = self.live.respond(live_config(settings, self.state))
        self._writers[work] = self._new_writer(work, settings, metadata)
        self._start(work)

    def _cancel_response(self, event: dict[str, Any]) -> None:
        work = self._active()
        stopped = self.live.interrupt()
        if work is None:
            if event["type"] == "response.cancel":
                raise ApiError("no answer is being given", code="response_cancel_not_active")
            return
        self._end_cancelled(work, "client_cancelled", stopped)

    def _played(self, event: dict[str, Any]) -> None:
        ms = event.get("audio_end_ms", event.get("played_ms"))
        if not isinstance(ms, (int, float)) or isinstance(ms, bool):
            raise ApiError("audio_end_ms must be a number", param="audio_end_ms", code="invalid_value")
        self.live.played(float(ms))
        self.channel.send("playback.acknowledged", audio_end_ms=ms)

    def _active(self) -> Work | None:
        """The answer that is being told now."""
        return next((work for work in self._writers if not self._writers[work].is_done), None)

    # --- telling ---------------------------------------------------------------------------------------------------

    def _tell(self, happened: Iterable[SessionEvent]) -> None:
        """What the session noticed, to the client."""
        for event in happened:
            if isinstance(event, SpeechStarted):
                self.channel.send("input_audio_buffer.speech_started", audio_start_ms=round(event.at_ms),
                                  item_id=event.turn_id)
            elif isinstance(event, SpeechStopped):
                self.channel.send("input_audio_buffer.speech_stopped", audio_end_ms=round(event.at_ms),
                                  item_id=event.turn_id)
                self._stopped(event)
            elif isinstance(event, Interrupted):
                self._barge_in(event)
            elif isinstance(event, Work):
                self._start(event)
        self._notice_confirmed()
        for work, confirmed in self._confirmed.items():
            if work.cancel.is_set() and not confirmed.is_set():
                self._tasks[work].cancel()

    def _stopped(self, event: SpeechStopped) -> None:
        entry = next((entry for entry in self.live.entries if entry.id == event.turn_id), None)
        if entry is not None:
            self._tell_committed(entry)
            if not self.live.config.answers:
                self._transcribe(entry)

    def _barge_in(self, event: Interrupted) -> None:
        self.state.metrics.barge_ins.inc()
        work = self._active() or self.live.current
        if self.settings.extra_body.native_duplex:
            self.channel.send("overlap.decision", decision="barge_in", audio_end_ms=round(event.played_ms))
        if work is not None:
            self._end_cancelled(work, "turn_detected", event)

    def _end_cancelled(self, work: Work, why: str, stopped: Interrupted | None) -> None:
        """The client hears at once that an answer ends, and what of it was kept."""
        writer = self._writers.get(work)
        if writer is not None:
            writer.end("cancelled", why=why, text=stopped.kept_text if stopped else None)
        if (task := self._tasks.get(work)) is not None:
            work.cancel.set()
            task.cancel()

    def _tell_committed(self, entry: Entry) -> None:
        before = self._before(entry)
        self.channel.send("input_audio_buffer.committed", item_id=entry.id, previous_item_id=before)
        self._tell_item(entry, shown_item(entry.id, entry.message))

    def _tell_item(self, entry: Entry, item: dict[str, Any]) -> None:
        before = self._before(entry)
        self.channel.send("conversation.item.added", item=item, previous_item_id=before)
        self.channel.send("conversation.item.done", item=item, previous_item_id=before)

    def _before(self, entry: Entry) -> str | None:
        ids = [other.id for other in self.live.entries]
        place = ids.index(entry.id) if entry.id in ids else 0
        return ids[place - 1] if place else None

    def _tell_heard(self, item_id: str, text: str) -> None:
        """What was said, in writing, where the client asked for that."""
        self.transcripts[item_id] = text
        while len(self.transcripts) > 256:
            self.transcripts.pop(next(iter(self.transcripts)))
        if self.settings.audio.input.transcription is not None:
            self.channel.send("conversation.item.input_audio_transcription.completed", item_id=item_id,
                              content_index=0, transcript=text, usage={"type": "duration", "seconds": 0.0})

    # --- answers on the device -------------------------------------------------------------------------------------

    async def _told(self, work: Work, job: Job) -> None:
        watch = self.state.metrics.watch()
        try:
            await self._confirmed[work].wait()
            if work.kind in ("turn", "asked"):  # a rule answers only if it holds, reading ahead never
                self._writer(work).begin()
            async for event in job:
                if work.cancel.is_set():
                    break
                self._tell_answer(work, event, watch)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - told as a failed response
            told = as_api_error(error)
            self._writer(work).end("stop", error=told.body())
            self.channel.error(told)
        finally:
            if not work.is_done:
                work.cancel.set()
            self._finished(work, job)
            self._writers.pop(work, None)

    def _tell_answer(self, work: Work, event: Any, watch: Any) -> None:
        writer = self._writer(work)
        if isinstance(event, Heard):
            self._tell_heard(work.heard_id, event.text)
        elif isinstance(event, Speaking):
            if self.settings.extra_body.native_duplex:
                self.channel.send("response.speak", reason=event.reason, note=event.note)
            if work.kind == "rule":
                writer.begin()
        elif isinstance(event, (TextPiece, AudioChunk, Called)):
            watch.word() if not isinstance(event, AudioChunk) else watch.sound(event.ms / 1000)
            writer.take(event)
        elif isinstance(event, TurnEnded):
            usage = event.usage
            watch.end(event.reason, *((usage.prompt, usage.cached, usage.output) if usage else ()))
            writer.end(event.reason, usage=usage, why="turn_detected")

    def _writer(self, work: Work) -> ResponseWriter:
        if work not in self._writers:
            self._writers[work] = self._new_writer(work, self.settings)
        return self._writers[work]

    def _new_writer(self, work: Work, settings: Settings, metadata: dict[str, Any] | None = None) -> ResponseWriter:
        rate_hz = settings.audio.output.format.rate
        return ResponseWriter(self.channel, work.answer_id, settings.speaks, rate_hz, metadata)

    def _transcribe(self, entry: Entry) -> None:
        """Write down a turn that is not answered at once, where the client asked for that."""
        sounds = [part for part in entry.message.parts if isinstance(part, AudioPart)]
        if self.settings.audio.input.transcription is None or not sounds:
            return
        work = Work(lambda: self._written(sounds[-1]), "rule", answer_id=new_id("item"), heard_id=entry.id)
        work.confirmed.set()
        self._start(work)

    def _written(self, sound: AudioPart) -> Iterator[Heard]:
        language = self.live.config.language
        yield Heard(self.state.model.written_down(np.asarray(sound.source), language) or "")

    # --- once a second ---------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while self.channel.is_open:
            await asyncio.sleep(TICK_S)
            if loop.time() - self.channel.last_event_s > self.state.config.limits.session_idle_s:
                self.channel.send("session.closed", reason="timeout")
                self.channel.close(1000, "idle")
                return
            if self in self.state.slots.taken:
                self._tell(self.live.tick())
                if self.settings.extra_body.native_duplex and self._active() is None and not self.live.is_busy:
                    self.channel.send("response.listen")


def _frames(event: dict[str, Any]) -> list[str]:
    """Pictures that came with sound (vLLM-Omni's extension)."""
    frames = event.get("video_frames", [])
    if not isinstance(frames, list) or not all(isinstance(frame, str) for frame in frames):
        raise ApiError("video_frames must be a list of base64 pictures", param="video_frames", code="invalid_value")
    return frames


def _shown(item: Any, entry: Entry) -> dict[str, Any]:
    """A created item as it came, functions with all they had; media without their data."""
    if isinstance(item, dict) and item.get("type") in ("function_call", "function_call_output"):
        return {**item, "id": entry.id, "object": "realtime.item", "status": "completed"}
    return shown_item(entry.id, entry.message)


RESPONSE_FIELDS = ("instructions", "output_modalities", "tools", "tool_choice", "max_output_tokens", "audio",
                   "temperature")


def _for_one_response(settings: Settings, asked: Any) -> tuple[Settings, dict[str, Any]]:
    """The session's settings with those of one `response.create`. Raises ApiError for what is not heeded."""
    if not isinstance(asked, dict):
        raise ApiError("response must be an object", param="response", code="invalid_value")
    unknown = [key for key in asked if key not in (*RESPONSE_FIELDS, "metadata", "conversation")]
    if unknown or asked.get("conversation", "auto") != "auto":
        name = unknown[0] if unknown else "conversation"
        raise ApiError(f"response.{name} is not heeded by this server; leave it out", param=f"response.{name}",
                       code="unsupported_parameter")
    change = {key: asked[key] for key in RESPONSE_FIELDS if key in asked}
    return updated(settings, change), dict(asked.get("metadata") or {})
