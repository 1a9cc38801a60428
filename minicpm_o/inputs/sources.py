"""Whatever the user gave (path, bytes, file object, `data:` or http URL) to an open binary file.

Knows nothing of pictures or sounds beyond the first bytes that tell them apart. Pictures in memory (PIL) and
waveforms (numpy) are taken by the modules of their kind and never come here.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import stat
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeAlias

from ..errors import AudioError, ImageError, InputError, VideoError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray"
"""One medium: path, `data:` URL, http(s) URL, bytes, binary file object, PIL image, or numpy waveform."""

Kind: TypeAlias = Literal["image", "audio", "video"]

MIB = 1 << 20
MAX_BYTES: dict[Kind, int] = {"image": 512 * MIB, "audio": 2048 * MIB, "video": 8192 * MIB}
"""Largest file read. Sounds and videos on disk are read piece by piece, so theirs bounds time, not memory."""

MAX_BYTES_IN_MEMORY = 512 * MIB
"""Largest download, `data:` URL or stream: these are held in memory whole, whatever their kind."""

URL_TIMEOUT_S = 30

KIND_ERRORS: dict[Kind, type[InputError]] = {"image": ImageError, "audio": AudioError, "video": VideoError}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")

_MAGIC = (
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (0, b"GIF8", "a GIF picture"),
    (8, b"WEBP", "a WebP picture"),
    (4, b"ftypheic", "a HEIC picture"),
    (4, b"ftypheix", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIF picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (8, b"WAVE", "WAV sound"),
    (8, b"AVI ", "an AVI video"),
    (0, b"fLaC", "FLAC sound"),
    (0, b"OggS", "an Ogg file (sound or video)"),
    (0, b"ID3", "MP3 sound"),
    (0, b"\xff\xfb", "MP3 sound"),
    (0, b"\xff\xf3", "MP3 sound"),
    (4, b"ftypM4A", "M4A sound"),
    (4, b"ftyp", "an MP4 file (sound or video)"),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM file (sound or video)"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<!DOCTYPE html", "a web page"),
    (0, b"<html", "a web page"),
)


def read_source(source: Source, *, kind: Kind, allow_urls: bool = False, max_bytes: int | None = None) -> bytes:
    """All bytes of a source, at most `max_bytes` (default: `MAX_BYTES[kind]`).

    Raises the kind's error (ImageError, AudioError, VideoError) as `open_source` does.
    """
    with open_source(source, kind=kind, allow_urls=allow_urls, max_bytes=max_bytes) as file:
        return file.read()


@contextmanager
def open_source(source: Source, *, kind: Kind, allow_urls: bool = False, max_bytes: int | None = None,
                ) -> Iterator[BinaryIO]:
    """Open a source as a seekable binary file at its first byte; files on disk are not read into memory.

    A file object of the user is read from where it stands and left open. http(s) URLs are fetched only with
    `allow_urls`. Raises the kind's error (ImageError, AudioError, VideoError) if the source is missing, a
    directory, not readable, empty, larger than `max_bytes`, or of a type that cannot be read.
    """
    limit = MAX_BYTES[kind] if max_bytes is None else max_bytes
    file = _open(source, kind, allow_urls, limit)
    try:
        yield file
    finally:
        file.close()


def name_of(source: object) -> str:
    """What to call a source in a message: its path or URL, shortened, or what it is."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        if isinstance(text, str) and not text.startswith("data:"):
            return repr(text if len(text) <= 200 else text[:90] + "..." + text[-90:])
        return "the data: URL" if isinstance(text, str) else repr(text)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"the given {len(source)} bytes"
    name = getattr(source, "name", None)
    return repr(name) if isinstance(name, str) else f"the given {type(source).__name__}"


def guess_format(head: bytes) -> str | None:
    """What a file is by its first bytes ("a PNG picture"), for error messages; None if unknown."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n") if head[:1] in b"\xef \t\r\n" else head
    return next((name for offset, magic, name in _MAGIC if start[offset:offset + len(magic)] == magic), None)


def looks_like(file: BinaryIO) -> str:
    """", it looks like ..." for the end of an error message, or an empty string; leaves the file at its start."""
    file.seek(0)
    guess = guess_format(file.read(64))
    file.seek(0)
    return f" (it looks like {guess})" if guess else ""


def _open(source: Any, kind: Kind, allow_urls: bool, limit: int) -> BinaryIO:
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _in_memory(_decode_data_url(source, kind, min(limit, MAX_BYTES_IN_MEMORY)), source, kind, limit)
    if isinstance(source, str) and (match := _SCHEME.match(source)):
        return _open_url(source, match[1].lower(), kind, allow_urls, limit)
    if isinstance(source, str | os.PathLike):
        return _open_path(source, kind, limit)
    if isinstance(source, bytes | bytearray | memoryview):
        return _in_memory(bytes(source), source, kind, limit)
    if callable(getattr(source, "read", None)):
        return _in_memory(_read_stream(source, kind, min(limit, MAX_BYTES_IN_MEMORY)), source, kind, limit)
    raise KIND_ERRORS[kind](f"cannot read {_article(kind)} from a value of type {type(source).__name__}; "
                            f"give a path, bytes, a file object opened with 'rb' or a data: URL")


def _open_path(source: str | os.PathLike[str], kind: Kind, limit: int) -> BinaryIO:
    error = KIND_ERRORS[kind]
    path = Path(os.path.expanduser(_path_text(source, kind)))
    try:
        status = path.stat()
    except FileNotFoundError:
        here = "" if path.is_absolute() else f" (looked in {str(Path.cwd())!r})"
        raise error(f"there is no {kind} file at {name_of(source)}{here}; check the path") from None
    except (OSError, ValueError) as cause:
        raise error(f"the {kind} path {name_of(source)} cannot be used: {_reason(cause)}") from cause
    if stat.S_ISDIR(status.st_mode):
        raise error(f"{name_of(source)} is a directory, not {_article(kind)} file; name one file in it")
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{name_of(source)} is not a regular file; save the {kind} to a file first")
    _check_size(status.st_size, source, kind, limit)
    try:
        return path.open("rb")
    except OSError as cause:
        raise error(f"the {kind} file {name_of(source)} cannot be read: {_reason(cause)}") from cause


def _path_text(source: str | os.PathLike[str], kind: Kind) -> str:
    text = os.fspath(source)
    if not isinstance(text, str):
        raise KIND_ERRORS[kind](f"the {kind} path {text!r} is bytes; give it as str (os.fsdecode)")
    if not text.strip():
        raise KIND_ERRORS[kind](f"the {kind} path is empty; give the path of {_article(kind)} file")
    return text


def _open_url(url: str, scheme: str, kind: Kind, allow_urls: bool, limit: int) -> BinaryIO:
    if scheme == "file":
        return _open_path(_path_of_file_url(url, kind), kind, limit)
    if scheme not in ("http", "https"):
        raise KIND_ERRORS[kind](f"cannot fetch {name_of(url)}: {scheme}:// is not known; "
                                f"give a path, bytes, or a data:, file:, http: or https: URL")
    if not allow_urls:
        raise KIND_ERRORS[kind](f"{name_of(url)} is on the network, which is not used unless asked; "
                                f"pass allow_urls=True (--allow-urls on the command line) or save the file first")
    return _in_memory(_fetch(url, kind, min(limit, MAX_BYTES_IN_MEMORY)), url, kind, limit)


def _path_of_file_url(url: str, kind: Kind) -> str:
    from urllib.request import url2pathname

    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise KIND_ERRORS[kind](f"{name_of(url)} names the host {parts.netloc!r}; a file URL on this machine "
                                f"has three slashes: file:///folder/name")
    return url2pathname(parts.path)


def _fetch(url: str, kind: Kind, limit: int) -> bytes:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(url, headers={"User-Agent": "minicpm-o"}), timeout=URL_TIMEOUT_S) as reply:
            return _read_stream(reply, kind, limit)
    except HTTPError as cause:
        raise KIND_ERRORS[kind](f"could not fetch {name_of(url)}: the server answered "
                                f"{cause.code} {cause.reason}; check the URL") from cause
    except (OSError, HTTPException, ValueError) as cause:
        if isinstance(cause, InputError):
            raise
        raise KIND_ERRORS[kind](f"could not fetch {name_of(url)}: {_reason(cause)}; "
                                f"check the URL and the network") from cause


def _read_stream(stream: Any, kind: Kind, limit: int) -> bytes:
    """Read a stream to its end, but never more than one byte over the limit."""
    chunks, size = [], 0
    while size <= limit and (chunk := stream.read(min(MIB, limit + 1 - size))):
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise KIND_ERRORS[kind](f"the {kind} file object gives {type(chunk).__name__}, not bytes; "
                                    f"open it with mode 'rb'")
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


def _decode_data_url(url: str, kind: Kind, limit: int) -> bytes:
    error = KIND_ERRORS[kind]
    header, comma, body = url.partition(",")
    if not comma:
        raise error(f"the data: URL of the {kind} has no comma; it must read data:<type>;base64,<data>")
    if len(body) > limit * 4 // 3 + 4:
        raise error(f"the data: URL of the {kind} is longer than the limit of {limit / MIB:.0f} MiB; use a file")
    if not header.lower().endswith(";base64"):
        return urllib.parse.unquote_to_bytes(body)
    try:
        return decode_base64(body)
    except ValueError as cause:
        raise error(f"the data: URL of the {kind} is not valid base64 ({cause}); "
                    f"encode the file's bytes again") from cause


def decode_base64(text: str) -> bytes:
    """Strict base64 (standard or URL alphabet, white space and missing padding allowed) to bytes.

    Raises ValueError, so that callers can name what they were decoding.
    """
    compact = re.sub(r"\s+|%0[AaDd]", "", text).replace("%3D", "=").replace("%2B", "+").replace("%2F", "/")
    compact = compact.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except binascii.Error as cause:
        raise ValueError(str(cause)) from cause


def _in_memory(data: bytes, source: object, kind: Kind, limit: int) -> BinaryIO:
    _check_size(len(data), source, kind, min(limit, MAX_BYTES_IN_MEMORY))
    return io.BytesIO(data)


def _check_size(size: int, source: object, kind: Kind, limit: int) -> None:
    if size == 0:
        what = "the given bytes are" if isinstance(source, bytes | bytearray | memoryview) else f"{name_of(source)} is"
        raise KIND_ERRORS[kind](f"{what} empty (0 bytes); give {_article(kind)} with content")
    if size > limit:
        raise KIND_ERRORS[kind](f"{name_of(source)} is larger than the limit of {limit / MIB:.0f} MiB for "
                                f"{_article(kind)}; shrink or cut it first")


def _reason(cause: BaseException) -> str:
    text = getattr(cause, "strerror", None) or getattr(cause, "reason", None) or cause
    return str(text) or type(cause).__name__


def _article(kind: Kind) -> str:
    return f"a {kind}" if kind == "video" else f"an {kind}"
