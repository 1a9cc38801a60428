"""Conversation items as the Realtime API writes them, to messages and back. Values alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..inputs.messages import AudioPart, ImagePart, Message, Part, TextPart
from ..rates import AUDIO_RATE_HZ
from .errors import ApiError
from .media import MediaReader, from_pcm16, read_base64
from .tools import call_text, result_text

TEXT_KINDS = ("input_text", "output_text", "text", "output_audio")


def read_item(item: Any, reader: MediaReader, rate_hz: int) -> Message:
    """An item of `conversation.item.create` to a message. Raises ApiError with the place."""
    if not isinstance(item, Mapping):
        raise ApiError("item is no object", param="item", code="invalid_value")
    kind = item.get("type")
    if kind == "function_call_output":
        return Message("user", (TextPart(result_text(item.get("output", ""))),))
    if kind == "function_call":
        return Message("assistant", (TextPart(call_text(item.get("name"), item.get("arguments"))),))
    if kind != "message" or item.get("role") not in ("user", "assistant", "system"):
        raise ApiError("expected an item of type message (role user, assistant or system), function_call or "
                       "function_call_output", param="item.type", code="invalid_value")
    content = item.get("content")
    if not isinstance(content, list) or not content:
        raise ApiError("a message needs content, a list of parts", param="item.content", code="invalid_value")
    parts = tuple(_part(part, f"item.content[{place}]", reader, rate_hz) for place, part in enumerate(content))
    return Message(item["role"], parts)


def _part(part: Any, where: str, reader: MediaReader, rate_hz: int) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in TEXT_KINDS:
        return TextPart(str(part.get("text") or part.get("transcript") or ""))
    if kind == "input_audio":
        samples = from_pcm16(read_base64(str(part.get("audio", "")), f"{where}.audio"))
        return AudioPart(resampled_to(samples, rate_hz, AUDIO_RATE_HZ), AUDIO_RATE_HZ)
    if kind == "input_image":
        return ImagePart(reader.picture(str(part.get("image_url", "")), f"{where}.image_url"))
    raise ApiError(f"content of type {kind!r} is not known; expected input_text, input_audio, input_image or "
                   "output_text", param=f"{where}.type", code="invalid_value")


def resampled_to(waveform: Any, rate_hz: int, wanted_hz: int) -> Any:
    """(N,) at one rate to another; each chunk is a clause, with silence at its ends, and stands alone."""
    import soxr

    return waveform if rate_hz == wanted_hz else soxr.resample(waveform, rate_hz, wanted_hz)


def shown_item(item_id: str, message: Message, transcript: str | None = None) -> dict[str, Any]:
    """A message as an item; sounds and pictures without their data, as OpenAI sends them."""
    is_answer = message.role == "assistant"
    content: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, TextPart):
            content.append({"type": "output_text" if is_answer else "input_text", "text": part.text})
        elif isinstance(part, AudioPart):
            content.append({"type": "input_audio", "transcript": transcript})
        else:
            content.append({"type": "input_image"})
    return {"id": item_id, "object": "realtime.item", "type": "message", "status": "completed",
            "role": message.role, "content": content}


def answer_item(item_id: str, text: str, speaks: bool, status: str) -> dict[str, Any]:
    """An answer as an item."""
    content = [{"type": "output_audio", "transcript": text} if speaks else {"type": "output_text", "text": text}]
    return {"id": item_id, "object": "realtime.item", "type": "message", "status": status, "role": "assistant",
            "content": content if text or status != "in_progress" else []}


def call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
    """A function call as an item."""
    return {"id": item_id, "object": "realtime.item", "type": "function_call", "status": status, "call_id": call_id,
            "name": name, "arguments": arguments}
