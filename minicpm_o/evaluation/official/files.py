"""Reading the published files strictly: the first thing that is wrong is an InputError that names its place.

Unlike `rows.read_rows` nothing is skipped, for these files are paired by line and the official scripts stop too. JSON
is read whole (`read_json`, `field`) or a line each (`read_records`, `needed`); the caller says where a file is from.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from minicpm_o.errors import InputError
from minicpm_o.evaluation.rows import Row

T = TypeVar("T")
Id = int | str
"""What questions and pictures are named by."""

# --- JSON as a whole ----------------------------------------------------------------------------------------------


def read_json(path: Path, source: str) -> Any:
    """What a JSON file holds; `source` tells where the file comes from, for the error."""
    try:
        return json.loads(read_text(path, source))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON ({error}). {source}") from error


def read_text(path: Path, source: str) -> str:
    """What a UTF-8 file holds, its line ends as \\n."""
    if not path.is_file():
        raise InputError(f"{path} is not there. {source}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). {source}") from error


def field(row: object, name: str, kind: type[T], place: str) -> T:
    """A field of a JSON object, of the type that it must have."""
    value = _value(row, name, place)
    if not isinstance(value, kind):
        raise InputError(f"{place}: {name!r} is {shown(value)}; expected {kind.__name__}")
    return value


def id_field(row: object, name: str, place: str) -> Id:
    """A field that names something, by a number or a text."""
    value = _value(row, name, place)
    if not isinstance(value, int | str):
        raise InputError(f"{place}: {name!r} is {shown(value)}; expected a number or a text")
    return value


def texts(row: object, name: str, place: str) -> tuple[str, ...]:
    """A field that is a list of texts."""
    values = field(row, name, list, place)
    for value in values:
        if not isinstance(value, str):
            raise InputError(f"{place}: {name!r} holds {shown(value)}; expected texts only")
    return tuple(values)


def picture(path: Path, source: str) -> Path:
    """The path of a picture that must be there."""
    if not path.is_file():
        raise InputError(f"the picture {path} is not there. {source}")
    return path


def numbered(items: Sequence[object], name: str) -> list[tuple[str, object]]:
    """The items of a JSON list, each with its place ("FILE item 3") for errors."""
    return [(f"{name} item {number}", item) for number, item in enumerate(items, start=1)]


def _value(row: object, name: str, place: str) -> object:
    fields = json_object(row, place)
    if name not in fields:
        raise InputError(f"{place} has no field {name!r}; it has {', '.join(map(str, fields)) or 'no fields'}")
    return fields[name]


def json_object(row: object, place: str) -> dict[str, Any]:
    """What must be a JSON object."""
    if not isinstance(row, dict):
        raise InputError(f"{place} is {shown(row)}; expected a JSON object")
    return row


def shown(value: object) -> str:
    """A value in an error, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- JSON, a line each --------------------------------------------------------------------------------------------

LINES = "Expected a file with one JSON object a line"


def read_lines(path: Path, source: str = LINES) -> list[bytes]:
    """Lines of a file, without their ends; `source` tells where the file comes from, for the error."""
    if not path.is_file():
        raise InputError(f"{path} is not there. {source}")
    try:
        return path.read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}. {source}") from error


def read_records(path: Path, source: str = LINES, limit: int | None = None) -> list[Row]:
    """The first lines of a jsonl file (all without a limit). Raises InputError at the first that is no JSON object; at
    a blank one too."""
    return [_record(path, number, line) for number, line in enumerate(read_lines(path, source)[:limit], start=1)]


def _record(path: Path, number: int, line: bytes) -> Row:
    row = Row(path, number, {})
    if not line.strip():
        raise wrong(row, "the line is blank", "one JSON object", "remove it, for the official script stops there too")
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise wrong(row, f"not JSON ({error})", "one JSON object a line", "write the line again") from error
    if not isinstance(fields, dict):
        raise wrong(row, shown(fields), "one JSON object a line", "write the line again")
    return Row(path, number, fields)


def needed(row: Row, name: str) -> Any:
    """A field that must be there."""
    if name not in row.fields:
        present = ", ".join(sorted(row.fields)) or "none"
        raise wrong(row, f"no field {name!r} (fields: {present})", f"the field {name!r}", "add it")
    return row.fields[name]


def needed_text(row: Row, name: str) -> str:
    """A field that must be there and be a text; it may be empty, and blanks around it stay."""
    value = needed(row, name)
    if not isinstance(value, str):
        raise wrong(row, f"{name!r} is {value!r}", "a text", "write it as a text; an empty answer is \"\"")
    return value


def needed_id(row: Row, name: str) -> Id:
    """A field that must be there and names something, by a number or a text."""
    value = needed(row, name)
    if not isinstance(value, int | str):
        raise wrong(row, f"{name!r} is {value!r}", "a number or a text", "mend it")
    return value


def wrong(row: Row, came: str, expected: str, advice: str) -> InputError:
    """The error for a row: file, line, what came, what was expected, what to do."""
    told = came if len(came) <= 200 else f"{came[:197]}..."
    return InputError(f"{row.place}: {told}; expected {expected}; {advice}")


# --- tables -------------------------------------------------------------------------------------------------------


@contextmanager
def long_cells() -> Iterator[None]:
    """Lets csv read cells as long as a picture, and puts its limit back."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)
