"""Chat turns as values: OpenAI-style messages or a flat history to `Message` and its parts.

Opens no file: a part keeps its source as it came, and the processor loads it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from ..errors import MessageError
from .sources import Source, decode_base64

Role: TypeAlias = Literal["system", "user", "assistant"]

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Accepted role names; "developer" is the newer name of "system" in OpenAI's API."""


@dataclass(frozen=True)
class TextPart:
    """Words."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """One picture."""

    source: Source


@dataclass(frozen=True)
class AudioPart:
    """One sound; `rate_hz` goes with a numpy waveform, and only with it."""

    source: Source
    rate_hz: int | None = None


@dataclass(frozen=True)
class VideoPart:
    """One video, with its sound."""

    source: Source


Part: TypeAlias = TextPart | ImagePart | AudioPart | VideoPart


@dataclass(frozen=True)
class Message:
    """One turn: who speaks, and the parts in reading order (at least one)."""

    role: Role
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.role not in ("system", "user", "assistant"):
            raise MessageError(f"unknown role {self.role!r}; expected system, user or assistant")
        if not self.parts:
            raise MessageError(f"the {self.role} message has no parts; give it at least one")
        if self.role == "user" and all(isinstance(part, TextPart) and not part.text.strip() for part in self.parts):
            raise MessageError("the user message is empty; write something, or add a picture, sound or video")


def messages_from_openai(items: Sequence[Mapping[str, Any] | Message]) -> list[Message]:
    """Messages as OpenAI's chat API writes them.

    `content` is a string or a list of parts: text; image_url, audio_url, video_url {url}; input_audio, input_video
    {data: base64, format}; and the short forms {"type": "image", "image": source}, audio (with rate_hz for an
    array), video. Formats are recognised by content. A key that has no effect here is warned about.
    Raises MessageError, with the index, for an unknown role or type, a missing key or wrong content.
    """
    _check_list(items, "messages")
    return [item if isinstance(item, Message) else _message(item, f"message {i}") for i, item in enumerate(items)]


def messages_from_history(items: Sequence[Mapping[str, Any]]) -> list[Message]:
    """A flat history: items {"type": "text" | "image" | "audio" | "video" | "assistant" | "system", "content": ...}.

    Items of the user that follow one another form one turn. Raises MessageError, with the index, for an item of
    unknown type or wrong content.
    """
    _check_list(items, "history")
    messages: list[Message] = []
    turn: list[Part] = []
    for i, item in enumerate(items):
        role, part = _history_item(item, f"history item {i}")
        if role == "user":
            turn.append(part)
            continue
        messages += [*_user_turn(turn), Message(role, (part,))]
        turn = []
    return [*messages, *_user_turn(turn)]


# OpenAI messages


def _message(item: Any, where: str) -> Message:
    role = _get(item, "role", where)
    if not isinstance(role, str) or role not in ROLES:
        raise MessageError(f"{where} has the unknown role {role!r}; expected one of {', '.join(ROLES)}")
    _warn_ignored(item, {"role", "content", "name"}, where)
    parts = _parts(_get(item, "content", where), where)
    try:
        return Message(ROLES[role], parts)
    except MessageError as cause:
        raise MessageError(f"{where}: {cause}") from cause


def _parts(content: Any, where: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, list | tuple):
        raise MessageError(f"the content of {where} is {_kind_of(content)}; expected a string or a list of parts")
    return tuple(_part(part, f"part {i} of {where}") for i, part in enumerate(content))


def _part(item: Any, where: str) -> Part:
    if isinstance(item, Part):
        return item
    name = _get(item, "type", where)
    if not isinstance(name, str) or name not in _PART_READERS:
        raise MessageError(f"{where} has the unknown type {name!r}; expected one of {', '.join(_PART_READERS)}")
    return _PART_READERS[name](item, where)


def _text_part(item: Mapping[str, Any], where: str) -> TextPart:
    _warn_ignored(item, {"type", "text"}, where)
    return TextPart(_text(_get(item, "text", where), where))


def _url_part(key: str, make: Callable[[Any], Part]) -> Callable[[Mapping[str, Any], str], Part]:
    """Reader of {"type": key, key: {"url": ...}}; some clients write the URL in place of the dictionary."""

    def read(item: Mapping[str, Any], where: str) -> Part:
        _warn_ignored(item, {"type", key}, where)
        value = _get(item, key, where)
        if isinstance(value, Mapping):
            _warn_ignored(value, {"url", "detail"}, where)
            value = _get(value, "url", where)
        return make(_text(value, where, not_blank=True))

    return read


def _data_part(key: str, make: Callable[[Any], Part]) -> Callable[[Mapping[str, Any], str], Part]:
    """Reader of {"type": key, key: {"data": base64, "format": ...}}; a data: URL is taken for the data too."""

    def read(item: Mapping[str, Any], where: str) -> Part:
        _warn_ignored(item, {"type", key}, where)
        value = _get(item, key, where)
        data = _text(_get(value, "data", where), where, not_blank=True)
        _refuse_raw(value.get("format"), where)
        _warn_ignored(value, {"data", "format"}, where)
        return make(data if data.startswith("data:") else _decode(data, where))

    return read


def _source_part(key: str, make: Callable[[Any], Part]) -> Callable[[Mapping[str, Any], str], Part]:
    """Reader of {"type": key, key: source}."""

    def read(item: Mapping[str, Any], where: str) -> Part:
        _warn_ignored(item, {"type", key}, where)
        return make(_source(_get(item, key, where), where))

    return read


def _audio_part(item: Mapping[str, Any], where: str) -> AudioPart:
    _warn_ignored(item, {"type", "audio", "rate_hz"}, where)
    return AudioPart(_source(_get(item, "audio", where), where), item.get("rate_hz"))


_PART_READERS: dict[str, Callable[[Mapping[str, Any], str], Part]] = {
    "text": _text_part,
    "image_url": _url_part("image_url", ImagePart),
    "audio_url": _url_part("audio_url", AudioPart),
    "video_url": _url_part("video_url", VideoPart),
    "input_audio": _data_part("input_audio", AudioPart),
    "input_video": _data_part("input_video", VideoPart),
    "image": _source_part("image", ImagePart),
    "audio": _audio_part,
    "video": _source_part("video", VideoPart),
}


def _refuse_raw(name: Any, where: str) -> None:
    """Raw samples tell neither their rate nor their width, so they would be heard at a guess."""
    if isinstance(name, str) and name.lower().startswith("pcm"):
        raise MessageError(f"{where} is raw {name}, which does not tell its rate; send a wav file")


def _decode(data: str, where: str) -> bytes:
    try:
        return decode_base64(data)
    except ValueError as cause:
        raise MessageError(f"the data of {where} is not valid base64 ({cause}); encode the file's bytes") from cause


# Flat history


def _history_item(item: Any, where: str) -> tuple[Role, Part]:
    name, content = _get(item, "type", where), _get(item, "content", where)
    _warn_ignored(item, {"type", "content", "rate_hz"} if name == "audio" else {"type", "content"}, where)
    if name in ("assistant", "system"):
        return ("assistant" if name == "assistant" else "system"), TextPart(_text(content, where))
    if name == "text":
        return "user", TextPart(_text(content, where, not_blank=True))
    if name == "audio":
        return "user", AudioPart(_source(content, where), item.get("rate_hz"))
    if name in ("image", "video"):
        return "user", (ImagePart if name == "image" else VideoPart)(_source(content, where))
    raise MessageError(f"{where} has the unknown type {name!r}; "
                       f"expected text, image, audio, video, assistant or system")


def _user_turn(parts: list[Part]) -> list[Message]:
    return [Message("user", tuple(parts))] if parts else []


# Checks


def _check_list(items: Any, what: str) -> None:
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Sequence):
        raise MessageError(f"the {what} is {_kind_of(items)}; expected a list of dictionaries")
    if not items:
        raise MessageError(f"the {what} is an empty list; give at least one item")


def _get(item: Any, key: str, where: str) -> Any:
    if not isinstance(item, Mapping):
        raise MessageError(f"{where} is {_kind_of(item)}; expected a dictionary with {key!r}")
    if key not in item:
        raise MessageError(f"{where} has no {key!r}; it has {', '.join(map(repr, item)) or 'no keys at all'}")
    return item[key]


def _text(value: Any, where: str, *, not_blank: bool = False) -> str:
    if not isinstance(value, str):
        raise MessageError(f"{where} holds {_kind_of(value)}; expected a string")
    if not_blank and not value.strip():
        raise MessageError(f"{where} is blank; write something or leave it out")
    return value


def _source(value: Any, where: str) -> Any:
    """A source is checked for its type only; whether it can be read is found when it is loaded."""
    if isinstance(value, str):
        return _text(value, where, not_blank=True)
    known = (os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
    if not isinstance(value, known) and not callable(getattr(value, "read", None)):
        raise MessageError(f"{where} holds {_kind_of(value)}; expected a path, data: URL, bytes, file object, "
                           f"PIL image or numpy waveform")
    return value


def _warn_ignored(item: Any, known: set[str], where: str) -> None:
    """Tell about keys with a value that nothing here heeds; empty ones are what API clients fill in."""
    ignored = [key for key, value in item.items() if key not in known and not _is_empty(value)]
    if ignored:
        warnings.warn(f"{where}: {', '.join(map(repr, ignored))} has no effect here", stacklevel=2)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def _kind_of(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"
