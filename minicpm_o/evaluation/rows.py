"""jsonl files to rows that name themselves when something is wrong. Knows files and fields, no tasks, no models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from minicpm_o.errors import InputError
from minicpm_o.inputs.video import cut_video

MediaKind = Literal["image", "audio", "video"]
MEDIA_FOLDERS: dict[MediaKind, str] = {"image": "images", "audio": "audio", "video": "video"}

T = TypeVar("T")


@dataclass(frozen=True)
class BadRow:
    """A row that could not be used, and why."""

    file: str
    """The jsonl, or the task whose medium the model could not read."""
    line: int | None
    reason: str

    @property
    def place(self) -> str:
        """File and line in words."""
        return self.file if self.line is None else f"{self.file} line {self.line}"


@dataclass(frozen=True)
class Media:
    """A picture, sound or video of a question: a file, bytes made by the evaluation itself, or what reads them when the
    question is asked (a large set does not fit the memory)."""

    kind: MediaKind
    source: Path | bytes | Callable[[], bytes]
    name: str
    window: tuple[float, float] | None = None
    """The seconds of a video that may be seen and heard; None: all of it."""

    @property
    def for_model(self) -> str | bytes:
        """What the model's api takes: a path as text, or the bytes; a window is cut out now.

        Raises AudioError, VideoError and their like where they cannot be read."""
        source = self.held()._source()
        return source if isinstance(source, bytes) else str(source)

    def held(self) -> Media:
        """The same without a window: what may be seen of it, cut out and held in memory. Raises VideoError."""
        if self.window is None:
            return self
        return replace(self, source=cut_video(self._source(), *self.window), window=None)

    def cut(self, start_s: float, end_s: float) -> Media:
        """The same video, of which only these seconds may be seen."""
        return replace(self, window=(start_s, end_s))

    def _source(self) -> Path | bytes:
        return self.source if isinstance(self.source, Path | bytes) else self.source()


@dataclass(frozen=True)
class Row:
    """One line of a jsonl file. Its accessors raise InputError with a reason that reads well in a report."""

    path: Path
    line: int
    fields: Mapping[str, Any]

    @property
    def place(self) -> str:
        """File and line, as errors name them."""
        return f"{self.path.name} line {self.line}"

    def text(self, *names: str) -> str:
        """The first of these fields that is there; it must be a text with something in it."""
        for name in names:
            if name in self.fields:
                value = self.fields[name]
                if isinstance(value, str) and value.strip():
                    return value.strip()
                raise InputError(f"{name!r} is {_shown(value)}; expected a text that is not empty")
        raise InputError(f"no field {_either(names)}; the row has {', '.join(sorted(self.fields)) or 'no fields'}")

    def text_or(self, name: str, default: str) -> str:
        """A text field, or the default where it is absent or empty."""
        value = self.fields.get(name)
        return value if isinstance(value, str) and value else default

    def texts(self, *names: str) -> tuple[str, ...]:
        """The first of these fields that is there; a list of texts, empty ones left out; it may be empty."""
        for name in names:
            if name in self.fields:
                value = self.fields[name]
                if isinstance(value, list) and all(isinstance(item, str) for item in value):
                    return tuple(item.strip() for item in value if item.strip())
                raise InputError(f"{name!r} is {_shown(value)}; expected a list of texts")
        raise InputError(f"no field {_either(names)}; the row has {', '.join(sorted(self.fields)) or 'no fields'}")

    def media(self, kind: MediaKind) -> Media:
        """The file that the field `image`, `audio` or `video` names, beside the jsonl or in its media folder."""
        name = self.text(kind)
        folder = self.path.parent
        for candidate in (folder / name, folder / MEDIA_FOLDERS[kind] / name):
            if candidate.is_file():
                if candidate.stat().st_size == 0:
                    raise InputError(f"{kind} file {name} is empty")
                return Media(kind, candidate, name)
        raise InputError(f"{kind} file {name} is not in {folder.name}/ nor in {folder.name}/{MEDIA_FOLDERS[kind]}/")


def read_rows(path: Path, parse: Callable[[Row], Iterable[T]]) -> tuple[list[T], list[BadRow]]:
    """What `parse` makes of every line of a jsonl file, and the lines that it (or json) could not take.

    A line is good or bad as a whole; blank lines are no rows."""
    good: list[T] = []
    bad: list[BadRow] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            good += list(parse(_read_row(path, number, line)))
        except InputError as error:
            bad.append(BadRow(place_of(path), number, str(error)))
    return good, bad


def place_of(path: Path) -> str:
    """A file with its folder, as errors name it."""
    return f"{path.parent.name}/{path.name}"


def _read_row(path: Path, number: int, line: bytes) -> Row:
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InputError(f"a JSON {type(fields).__name__}; expected an object")
    return Row(path, number, fields)


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(repr(name) for name in names)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
