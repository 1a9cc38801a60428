"""A folder that nano is exported to: what it is made of, what may stand in its place, how it appears whole."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints import parts as table
from ..checkpoints.gguf import GGUFFile
from ..checkpoints.nano import NanoSettings, Recipe, Sources, write_words
from ..checkpoints.parts import Part
from ..checkpoints.pull import PartStore
from ..checkpoints.storage import check_room, replace_folder
from ..errors import OptionError

FILES = "files.json"
"""What was written, with sizes; by it an earlier export is known."""
SETTINGS = NanoSettings(vision_bits=8, hearing_bits=8, recogniser_bits=8)
"""Of the graphs that are written as for Python; the language model's is another, see `language_graph`."""
CONTEXT_TOKENS = 2048
"""Of a conversation; older turns are left out."""
_UNUSED = (table.KOKORO.name, table.KOKORO_VOICES.name)
"""The large voice stays at home."""


def check_target(out: Path, what: str, target: str) -> None:
    """Raises OptionError for a folder with anything in it that is no earlier export for the same target; what: what is
    exported."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and _exported_for(out / FILES) != target):
        raise OptionError(f"{out} holds something that is no exported {what}; give a new or an empty folder")


def _exported_for(files: Path) -> str | None:
    """The target that a list of files was written for."""
    try:
        return str(json.loads(files.read_bytes()).get("target"))
    except (OSError, ValueError, AttributeError):  # nothing that an export has written
        return None


def needed_parts(*further: Part, without: tuple[str, ...] = ()) -> list[Part]:
    """The parts of nano that are exported, and further ones; without: names of those that are not."""
    return [*(part for part in Recipe().needed() if part.name not in (*_UNUSED, *without)), *further]


def get_parts(store: PartStore, parts: list[Part]) -> dict[str, Mapping[str, Path]]:
    """Their files, fetched if need be. Raises CheckpointError (its kinds)."""
    return {part.name: store.get(part) for part in parts}


def short_recipe() -> Recipe:
    """Nano with a shorter context: its tables of angles are a part of what is fetched."""
    recipe = Recipe()
    language = replace(recipe.config.language, context_tokens=CONTEXT_TOKENS)
    return replace(recipe, config=replace(recipe.config, language=language))


def open_language(folder: Path, sources: Sources) -> GGUFFile:
    """The published language part, its words and tokenizer written to `folder`."""
    file = GGUFFile(sources.only("language"))
    write_words(folder, file, sources)
    return file


@contextmanager
def appearing(out: Path, room_bytes: int) -> Iterator[tuple[Path, Path]]:
    """A folder to fill, which takes the place of `out` when the block ends well, and one to work in.

    room_bytes: what is written on the way, at most. Raises DiskFullError when there is less room.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    check_room(out.parent, room_bytes)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as work:
        folder, scratch = Path(work) / "new", Path(work) / "scratch"
        for place in (folder, scratch):
            place.mkdir()
        yield folder, scratch
        replace_folder(folder, out, Path(work) / "old")


def to_json(value: Any) -> bytes:
    """As short as it can be."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
