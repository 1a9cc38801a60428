"""What callers send as pictures, sounds and videos to sources that hold the bytes themselves.

Nothing here opens a path that a caller named: `data:` addresses and base64 always, http(s) and file:// only where the
server was told to allow them.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import numpy as np

from ..errors import InputError
from ..inputs.audio import load_audio
from ..inputs.image import load_image
from ..inputs.messages import Message, messages_from_openai
from ..inputs.sources import MIB, decode_base64
from ..inputs.video import load_video
from ..rates import AUDIO_RATE_HZ
from .config import ServerConfig
from .errors import ApiError
from .fetch import fetch

Kind = Literal["image", "audio", "video"]
URL_PARTS: dict[str, Kind] = {"image_url": "image", "audio_url": "audio", "video_url": "video"}
DATA_PARTS: dict[str, Kind] = {"input_audio": "audio", "input_video": "video"}
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
FILE_KINDS = ("image", "audio", "video")


@dataclass(frozen=True)
class MediaReader:
    """Reads what one server's callers send."""

    config: ServerConfig
    spoken: Callable[[str], str | None] = lambda _: None
    """The words of an earlier answer's sound by its name; None for one that is not known."""

    def messages(self, items: Sequence[Mapping[str, Any]]) -> list[Message]:
        """OpenAI messages to messages with every medium read and looked at. Raises ApiError with the place."""
        return messages_from_openai([self._message(item, f"messages[{place}]") for place, item in enumerate(items)])

    def _message(self, item: Mapping[str, Any], where: str) -> dict[str, Any]:
        content = item.get("content")
        parts = [] if content is None else [{"type": "text", "text": content}] if isinstance(content, str) else content
        laid = [self._part(part, f"{where}.content[{place}]") for place, part in enumerate(parts)]
        if (sound := item.get("audio")) is not None:
            laid.append({"type": "text", "text": self._earlier(sound, where)})
        return {"role": item["role"], "content": laid}

    def _earlier(self, sound: Mapping[str, Any], where: str) -> str:
        words = self.spoken(str(sound.get("id")))
        if words is None:
            raise ApiError(f"no spoken answer {sound.get('id')!r} is remembered; send its transcript as content",
                           param=f"{where}.audio.id", code="audio_not_found")
        return words

    def _part(self, part: Mapping[str, Any], where: str) -> dict[str, Any]:
        kind = str(part.get("type"))
        if kind in TEXT_PARTS:
            return {"type": "text", "text": str(part.get("text", part.get("refusal", "")))}
        if kind in URL_PARTS:
            value = part.get(kind)
            url = value.get("url") if isinstance(value, Mapping) else value
            return self._medium(URL_PARTS[kind], self.read(str(url or ""), f"{where}.{kind}.url"), where)
        if kind in DATA_PARTS:
            return self._medium(DATA_PARTS[kind], self._data(part.get(kind), f"{where}.{kind}"), where)
        if kind == "file":
            return self._file(part.get("file") or {}, f"{where}.file")
        known = ", ".join(("text", *URL_PARTS, *DATA_PARTS, "file"))
        raise ApiError(f"content parts of type {kind!r} are not known; expected one of {known}", param=where,
                       code="invalid_value")

    def _data(self, value: Any, where: str) -> bytes:
        """The bytes of {"data": base64, "format": ...} or {"url": ...}."""
        if not isinstance(value, Mapping) or not (value.get("data") or value.get("url")):
            raise ApiError("expected an object with base64 'data'", param=where, code="invalid_value")
        if value.get("url"):
            return self.read(str(value["url"]), f"{where}.url")
        if str(value.get("format", "")).lower().startswith("pcm"):
            raise ApiError("raw samples do not tell their rate; send a wav file", param=f"{where}.format",
                           code="invalid_value")
        return read_base64(str(value["data"]), f"{where}.data")

    def _file(self, file: Mapping[str, Any], where: str) -> dict[str, Any]:
        """A file by its data: address, whose type says what it is."""
        data = str(file.get("file_data", ""))
        kind = data[5:].split("/")[0] if data.startswith("data:") else None
        if kind not in FILE_KINDS:
            raise ApiError("files are taken as file_data, a data: address of an image, sound or video; file ids and "
                           "documents are not", param=where, code="invalid_value")
        return self._medium(kind, self.read(data, f"{where}.file_data"), where)

    def _medium(self, kind: Any, data: bytes, where: str) -> dict[str, Any]:
        """Looked at now, so that what cannot be read is refused before anybody waits for it."""
        most_s = self.config.limits.max_media_s
        try:
            if kind == "audio":
                waveform = load_audio(data, max_seconds=most_s)
                return {"type": "audio", "audio": waveform, "rate_hz": AUDIO_RATE_HZ}
            if kind == "video":
                load_video(data, max_frames=1, max_seconds=most_s)
                return {"type": "video", "video": data}
            return {"type": "image", "image": load_image(data)}
        except InputError as error:
            raise ApiError(str(error), param=where, code=f"invalid_{kind}") from error

    def picture(self, text: str, where: str) -> Any:
        """A picture by its address, or as bare base64. Raises ApiError."""
        data = self.read(text, where) if ":" in text[:16] else read_base64(text, where)
        return self._medium("image", data, where)["image"]

    def read(self, url: str, where: str) -> bytes:
        """The bytes at an address. Raises ApiError for what this server does not read."""
        scheme = url.partition(":")[0].lower()
        if scheme == "data":
            header, _, body = url.partition(",")
            if header.lower().endswith(";base64"):
                return read_base64(body, where)
            return unquote(body).encode()
        if scheme in ("http", "https"):
            if not self.config.allow_urls:
                raise ApiError("this server fetches nothing from the network; send the file itself as a data: address, "
                               "or start the server with --allow-urls", param=where, code="url_not_allowed")
            return fetch(url, round(self.config.limits.max_body_mb * MIB))
        if scheme == "file" and self.config.media_folder is not None:
            return self._local(url, self.config.media_folder, where)
        raise ApiError("expected a data: address with the file itself" + (
            "" if scheme != "file" else "; file:// addresses are read only below --media-folder"), param=where,
            code="url_not_allowed")

    def _local(self, url: str, folder: Path, where: str) -> bytes:
        """A file below the media folder, whatever dots and links its name holds."""
        path = Path(unquote(urlsplit(url).path))
        inside = (path if path.is_relative_to(folder) else folder / str(path).lstrip("/")).resolve()
        if not inside.is_relative_to(folder.resolve()) or not inside.is_file():
            raise ApiError("there is no such file below this server's media folder", param=where, code="file_not_found")
        return inside.read_bytes()


def read_base64(text: str, where: str) -> bytes:
    """Raises ApiError for what is no base64, or empty."""
    try:
        data = decode_base64(text)
    except ValueError as cause:
        raise ApiError(f"the data is no valid base64 ({cause}); encode the file's bytes", param=where,
                       code="invalid_base64") from cause
    if not data:
        raise ApiError("the data is empty; give a file with content", param=where, code="invalid_value")
    return data


def pcm16(waveform: np.ndarray) -> bytes:
    """(N,) floats to 16 bit little-endian samples."""
    return (np.clip(waveform, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()


def from_pcm16(data: bytes) -> np.ndarray:
    """16 bit little-endian samples to (N,) float32; an odd byte at the end is dropped."""
    return np.frombuffer(data[: len(data) // 2 * 2], "<i2").astype(np.float32) / 32768.0


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
