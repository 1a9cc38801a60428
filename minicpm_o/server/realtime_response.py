"""One answer as the Realtime API's events: created, item, part, deltas, their ends, done; in order whatever ends it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ..runtime.live.events import AudioChunk, Called, TextPiece
from ..runtime.live.session import new_id
from .channel import Channel
from .media import pcm16, to_base64
from .realtime_items import answer_item, call_item, resampled_to

STATUS = {"stop": "completed", "stop_string": "completed", "nothing_said": "completed", "length": "incomplete",
          "cancelled": "cancelled", "interrupted": "cancelled"}


@dataclass(eq=False)
class ResponseWriter:
    """Writes one response to a channel. The first word or sound begins its item."""

    channel: Channel
    item_id: str
    speaks: bool
    rate_hz: int
    metadata: dict[str, Any] | None = None
    id: str = field(default_factory=lambda: new_id("resp"))
    text: str = ""
    output: list[dict[str, Any]] = field(default_factory=list)
    has_item: bool = False
    is_done: bool = False

    def begin(self) -> None:
        self.channel.send("response.created", response=self._object("in_progress"))

    def take(self, event: TextPiece | AudioChunk | Called) -> None:
        """A piece of the answer."""
        if isinstance(event, Called):
            self._call(event.text)
            return
        self._begin_item()
        if isinstance(event, AudioChunk):
            sound = resampled_to(event.waveform, event.rate_hz, self.rate_hz)
            self._part("response.output_audio.delta", delta=to_base64(pcm16(sound)))
            return
        self.text += event.text
        kind = "response.output_audio_transcript.delta" if self.speaks else "response.output_text.delta"
        self._part(kind, delta=event.text)

    def end(self, reason: str, *, usage: Any = None, why: str | None = None, text: str | None = None,
            error: dict[str, Any] | None = None) -> None:
        """The answer is over. reason: a finish reason; why: what cancelled it; text: what of it is kept."""
        if self.is_done:
            return
        self.is_done = True
        status = "failed" if error else STATUS[reason]
        if self.has_item:
            self._end_item(self.text if text is None else text, "completed" if status == "completed" else "incomplete")
        details: dict[str, Any] | None = None
        if status != "completed":
            details = {"type": status, "reason": "max_output_tokens" if status == "incomplete" else why}
            details = {"type": status, "error": {"type": error["type"], "code": error["code"]}} if error else details
        self.channel.send("response.done", response=self._object(status, details, usage))

    # --- pieces

    def _begin_item(self) -> None:
        if self.has_item:
            return
        self.has_item = True
        item = answer_item(self.item_id, "", self.speaks, "in_progress")
        self.channel.send("response.output_item.added", response_id=self.id, output_index=0, item=item)
        self.channel.send("conversation.item.added", item=item)
        part = {"type": "audio", "transcript": ""} if self.speaks else {"type": "text", "text": ""}
        self._part("response.content_part.added", part=part)

    def _end_item(self, text: str, status: str) -> None:
        if self.speaks:
            self._part("response.output_audio.done")
            self._part("response.output_audio_transcript.done", transcript=text)
        else:
            self._part("response.output_text.done", text=text)
        part = {"type": "audio", "transcript": text} if self.speaks else {"type": "text", "text": text}
        self._part("response.content_part.done", part=part)
        item = answer_item(self.item_id, text, self.speaks, status)
        self._end_output(item)

    def _end_output(self, item: dict[str, Any]) -> None:
        self.output.append(item)
        self.channel.send("response.output_item.done", response_id=self.id, output_index=0, item=item)
        self.channel.send("conversation.item.done", item=item)

    def _call(self, text: str) -> None:
        """A function call instead of words."""
        try:
            call = json.loads(text)
            name, arguments = str(call["name"]), json.dumps(call.get("arguments", {}), ensure_ascii=False)
        except (ValueError, KeyError, TypeError):  # cut off by the limit of tokens: shown as it is
            name, arguments = "", text
        call_id = new_id("call")
        item = call_item(self.item_id, call_id, name, "", "in_progress")
        place = {"response_id": self.id, "item_id": self.item_id, "output_index": 0, "call_id": call_id}
        self.channel.send("response.output_item.added", response_id=self.id, output_index=0, item=item)
        self.channel.send("conversation.item.added", item=item)
        self.channel.send("response.function_call_arguments.delta", **place, delta=arguments)
        self.channel.send("response.function_call_arguments.done", **place, name=name, arguments=arguments)
        self._end_output(call_item(self.item_id, call_id, name, arguments, "completed"))

    def _part(self, kind: str, **fields: Any) -> None:
        self.channel.send(kind, response_id=self.id, item_id=self.item_id, output_index=0, content_index=0, **fields)

    def _object(self, status: str, details: dict[str, Any] | None = None, usage: Any = None) -> dict[str, Any]:
        made: dict[str, Any] = {
            "id": self.id, "object": "realtime.response", "status": status, "status_details": details,
            "output": self.output, "output_modalities": ["audio" if self.speaks else "text"],
            "metadata": self.metadata, "usage": None if usage is None else shown_usage(usage)}
        return made


def shown_usage(usage: Any) -> dict[str, Any]:
    """Tokens of one answer (`ReplyUsage`) as the Realtime API counts them."""
    return {"input_tokens": usage.prompt, "output_tokens": usage.output, "total_tokens": usage.prompt + usage.output,
            "input_token_details": {"text_tokens": usage.text, "audio_tokens": usage.audio,
                                    "image_tokens": usage.image + usage.video, "cached_tokens": usage.cached},
            "output_token_details": {"text_tokens": usage.output, "audio_tokens": 0}}
