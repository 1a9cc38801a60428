"""Models behind a URL that speaks OpenAI's chat completions: llama.cpp, vLLM, Ollama, this package's own server ...

`Endpoint` asks and asks again; `EndpointModel` is evaluated as a model of the package is.
"""

from __future__ import annotations

import base64
import json
import mimetypes
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from minicpm_o.errors import EndpointError, InputError
from minicpm_o.inputs.sources import guess_format

MAX_REPLY_BYTES = 10_000_000
MAX_PAUSE_SECONDS = 60.0
WORTH_ANOTHER_TRY = frozenset({408, 409, 425, 429})
"""HTTP statuses below 500 that pass by themselves; the others mean that the request itself is wrong."""
SOUND_FORMATS = {".wav": "wav", ".mp3": "mp3", ".flac": "flac", ".ogg": "ogg"}
SOUND_ENDINGS = {"WAV sound": ".wav", "MP3 sound": ".mp3", "FLAC sound": ".flac",
                 "an Ogg file (sound or video)": ".ogg"}
"""What `guess_format` calls a sound file -> its ending."""


class _Failed(Exception):
    """One try that failed, and whether another may help."""

    def __init__(self, kind: str, detail: str, retry: bool = True, wait_seconds: float = 0.0) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.retry = retry
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class Endpoint:
    """Asks for chat completions, again with growing pauses where that may help."""

    base_url: str
    """Without the last part: https://host/v1."""
    model: str
    api_key: str = field(default="", repr=False)
    timeout_seconds: float = 120.0
    """Longest silence of the server."""
    tries: int = 4
    pause_seconds: float = 2.0
    """Before the second try; doubles with each further one."""
    role: str = "model"
    """What it is called in errors: the model, the judge."""
    troubles: Counter[str] = field(default_factory=Counter, compare=False)
    """How many tries failed so far, by kind; those that a later try made good are counted too."""

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise InputError(f"the {self.role}'s base_url is {self.base_url!r}; expected http(s)://host/v1")
        if self.tries < 1 or self.timeout_seconds <= 0:
            raise InputError(f"the {self.role} has {self.tries} tries of {self.timeout_seconds} s; both must be more")
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise InputError(f"the {self.role}'s api_key holds a line end or other signs that no key has; copy it")

    def __call__(self, messages: Sequence[Mapping[str, Any]], *, temperature: float, max_tokens: int,
                 **more: Any) -> str:
        """The model's reply; more: further fields of the request. Raises EndpointError after the last try."""
        body = {"model": self.model, "messages": [dict(message) for message in messages],
                "temperature": temperature, "max_tokens": max_tokens, **more}
        failures: list[_Failed] = []
        while not failures or (failures[-1].retry and len(failures) < self.tries):
            if failures:
                self._pause(failures)
            try:
                return _content(self._post(json.dumps(body).encode()))
            except _Failed as failure:
                failures.append(failure)
                self.troubles[failure.kind] += 1
        raise EndpointError(self._told(failures))

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "User-Agent": "minicpm-o"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = Request(f"{self.base_url.rstrip('/')}/chat/completions", data=body, headers=headers)
        try:
            with urlopen(request, timeout=self.timeout_seconds) as reply:
                content: bytes = reply.read(MAX_REPLY_BYTES)
                return content
        except HTTPError as error:
            raise _status_failure(error) from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._connection_failure(error) from error

    def _connection_failure(self, error: Exception) -> _Failed:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            return _Failed("time-out", f"nothing came for {self.timeout_seconds:g} s")
        return _Failed("no connection", str(reason) or type(reason).__name__)

    def _pause(self, failures: Sequence[_Failed]) -> None:
        wanted = max(self.pause_seconds * 2.0 ** (len(failures) - 1), failures[-1].wait_seconds)
        time.sleep(min(wanted, MAX_PAUSE_SECONDS))

    def _told(self, failures: Sequence[_Failed]) -> str:
        kinds = Counter(failure.kind for failure in failures)
        counted = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
        return (f"the {self.role} {self.model!r} at {self.base_url} gave no usable reply in {len(failures)} "
                f"{'try' if len(failures) == 1 else 'tries'} ({counted}); the last: {failures[-1]}; "
                f"check the URL, the model's name and the key, or allow more time")


def _status_failure(error: HTTPError) -> _Failed:
    with error:
        try:
            detail = error.read(500).decode("utf-8", errors="replace").strip()
        except (OSError, HTTPException):
            detail = ""  # the status alone says enough
    wait = error.headers.get("Retry-After", "") if error.headers else ""
    return _Failed(f"status {error.code}", detail or str(error.reason),
                   retry=error.code >= 500 or error.code in WORTH_ANOTHER_TRY,
                   wait_seconds=float(wait) if wait.isdecimal() else 0.0)


def _content(reply: bytes) -> str:
    """The text of a chat completion."""
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        shown = reply[:80].decode("utf-8", errors="replace")
        raise _Failed("garbage", f"expected a chat completion, got {shown!r}") from error
    if not isinstance(content, str):
        raise _Failed("garbage", f"the message's content is {content!r}; expected a text")
    return content


# --- the model that is evaluated --------------------------------------------------------------------------------


@dataclass(frozen=True)
class EndpointModel:
    """A model behind a URL, asked as `EvaluatedModel` is. It has its own ears alone, and writes nothing down."""

    endpoint: Endpoint
    has_recogniser: bool = False

    @property
    def name(self) -> str:
        """Name and place, as reports show it."""
        return f"{self.endpoint.model} at {self.endpoint.base_url}"

    def chat(self, messages: Sequence[Mapping[str, Any]], *, max_tokens: int = 256, temperature: float = 0.0,
             transcript: bool = True, num_beams: int = 1, seed: int | None = None) -> str:
        """The answer; media go along in the request. transcript and num_beams mean nothing to a stranger."""
        told = [{**message, "content": [_part(part) for part in message["content"]]} for message in messages]
        drawn = {} if seed is None else {"seed": seed}
        return self.endpoint(told, temperature=temperature, max_tokens=max_tokens, **drawn)

    def transcribe(self, source: Any, *, own_ears: bool = False) -> str:
        """The words of a sound, asked for in a chat."""
        return self.chat([{"role": "user", "content": [{"type": "audio", "audio": source},
                                                       {"type": "text", "text": WRITE_DOWN}]}])


WRITE_DOWN = "Write down exactly what is said, and nothing else."


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part of a message as OpenAI has it, the medium within."""
    kind = str(part["type"])
    if kind == "text":
        return dict(part)
    content, suffix = _content_of(part[kind])
    encoded = base64.b64encode(content).decode()
    if kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": encoded, "format": SOUND_FORMATS.get(suffix, "wav")}}
    media_type = mimetypes.guess_type(f"x{suffix}")[0] or ("image/png" if kind == "image" else "video/mp4")
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{media_type};base64,{encoded}"}}


def _content_of(source: Any) -> tuple[bytes, str]:
    """The bytes of a medium and the ending of its file; of bytes alone by how they begin."""
    if isinstance(source, bytes):
        return source, SOUND_ENDINGS.get(guess_format(source[:16]) or "", "")
    path = Path(source)
    try:
        return path.read_bytes(), path.suffix.lower()
    except OSError as error:
        raise InputError(f"cannot read {path.name}: {error.strerror or error}") from error
