"""Where examples come from: files, folders, tar shards, Hugging Face data sets, pictures drawn on the spot.

Every source is read by number, so that a draw is a pure function of seed and count: going on after a stop is to go on
counting. Rows are decoded when they are drawn.
"""

from __future__ import annotations

import glob
import io
import json
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, MissingExtraError, OptionError
from ...inputs.messages import AudioPart, ImagePart, Message, TextPart
from ...inputs.prompts import CAPTION, NAMING
from ..examples import Example
from ..labels import sentence, spoken_label, with_article
from ..prepare.work import draws
from .formats import example_of, read_rows

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")


class Source(ABC):
    """Examples by number."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._order: tuple[tuple[int, int], np.ndarray] | None = None
        """Seed and epoch of the last draw, and that epoch's order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def example(self, index: int) -> Example:
        """Example number `index`. Raises InputError when its row is broken."""

    def draw(self, seed: int, count: int) -> Example:
        """The count-th draw: every example once an epoch, in an order of the epoch's own."""
        epoch, place = divmod(count, len(self))
        if self._order is None or self._order[0] != (seed, epoch):
            self._order = (seed, epoch), draws(seed, self.name, "epoch", epoch).permutation(len(self))
        return self.example(int(self._order[1][place]))


class RowSource(Source):
    """A .jsonl or .json file; see `formats`."""

    def __init__(self, name: str, path: Path, task: str | None = None) -> None:
        super().__init__(name)
        self.path, self.task = path, task
        self.rows = read_rows(path)

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int) -> Example:
        return example_of(self.rows[index], self.path.parent, name=f"{self.path.name} row {index + 1}", task=self.task)


class FolderSource(Source):
    """Media with a text beside them (dog.jpg, dog.txt), or in folders whose names are their labels."""

    def __init__(self, name: str, path: Path, task: str | None = None) -> None:
        super().__init__(name)
        if not path.is_dir():
            raise InputError(f"{path} is no folder")
        self.path, self.task = path, task
        self.files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGES + SOUNDS)

    def __len__(self) -> int:
        return len(self.files)

    def example(self, index: int) -> Example:
        file = self.files[index]
        words, where = file.with_suffix(".txt"), f"{self.name}: {file.relative_to(self.path)}"
        if words.is_file():
            return self._said(file, CAPTION, words.read_text(encoding="utf-8").strip(), "caption", where)
        if file.parent != self.path:
            label = with_article(spoken_label(file.parent.name))
            return self._said(file, NAMING, sentence(label), "naming", where)
        raise InputError(f"{where} has no {words.name} beside it and lies in no folder of a label")

    def _said(self, file: Path, question: str, answer: str, task: str, where: str) -> Example:
        if not answer:
            raise InputError(f"{where} has an empty text")
        part = ImagePart(file) if file.suffix.lower() in IMAGES else AudioPart(file)
        messages = (Message("user", (part, TextPart(question))), Message("assistant", (TextPart(answer),)))
        return Example(messages, self.task or task, where, facts={"references": [answer]})


@dataclass(frozen=True)
class Member:
    """A file in a tar: where its bytes lie."""

    tar: Path
    start: int
    size: int


class ShardSource(Source):
    """WebDataset's tar files: members of one stem are one sample; json has the row, txt its text.

    The headers are read once; after that any sample is read by its place. path: a tar, or a pattern with * and {0..9}.
    """

    def __init__(self, name: str, path: Path, task: str | None = None) -> None:
        super().__init__(name)
        self.task = task
        self.samples: list[tuple[str, dict[str, Member]]] = []
        for tar in shard_files(path):
            self.samples += _index(tar)

    def __len__(self) -> int:
        return len(self.samples)

    def example(self, index: int) -> Example:
        stem, members = self.samples[index]
        row: dict[str, Any] = json.loads(_bytes(members["json"])) if "json" in members else {}
        if "txt" in members:
            row.setdefault("text", _bytes(members["txt"]).decode("utf-8").strip())
        for ending, member in members.items():
            kind = "image" if f".{ending}" in IMAGES else "audio" if f".{ending}" in SOUNDS else None
            if kind and kind not in row:
                row[kind] = _bytes(member)
        return example_of(row, next(iter(members.values())).tar.parent, name=f"{self.name}: {stem}", task=self.task)


def shard_files(path: Path) -> list[Path]:
    """The tars of a pattern, {0..9} counted out. Raises InputError where there are none."""
    patterns, match = [str(path)], re.search(r"\{(\d+)\.\.(\d+)\}", str(path))
    if match:
        width = len(match[1])
        patterns = [str(path).replace(match[0], str(number).zfill(width))
                    for number in range(int(match[1]), int(match[2]) + 1)]
    files = [Path(file) for pattern in patterns for file in sorted(glob.glob(pattern))]
    if not files:
        raise InputError(f"{path} names no tar file; give one, or a pattern such as shard-{{000..009}}.tar")
    return files


def _index(tar: Path) -> list[tuple[str, dict[str, Member]]]:
    samples: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(tar, "r:") as file:
            for member in file:
                stem, _, ending = member.name.rpartition("/")[2].partition(".")
                if member.isfile() and ending:
                    key = f"{member.name.rpartition('/')[0]}/{stem}".lstrip("/")
                    samples.setdefault(key, {})[ending.lower()] = Member(tar, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{tar} is no tar file that can be read by place, as a compressed one is not: {error}"
                         ) from error
    return list(samples.items())


def _bytes(member: Member) -> bytes:
    with member.tar.open("rb") as file:
        file.seek(member.start)
        return file.read(member.size)


class HubSource(Source):
    """A data set of Hugging Face `datasets`: a folder that it saved, or "owner/name" with an optional ":split"."""

    def __init__(self, name: str, path: str, task: str | None = None) -> None:
        super().__init__(name)
        self.task, self.rows = task, _open_hub(path)

    def __len__(self) -> int:
        return len(self.rows)

    def example(self, index: int) -> Example:
        row = {key: _plain(value) for key, value in self.rows[index].items()}
        return example_of(row, Path(), name=f"{self.name} row {index + 1}", task=self.task)


def _open_hub(path: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("a source of the kind hf needs the package datasets: pip install 'minicpm-o[data]'"
                                ) from error
    try:
        if Path(path).is_dir():
            found = datasets.load_from_disk(path)
        else:
            name, _, split = path.partition(":")
            found = datasets.load_dataset(name, split=split or "train")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no data set that `datasets` can open: {str(error).splitlines()[0]}") from error
    if isinstance(found, Mapping):
        raise InputError(f"{path} has the splits {sorted(found)}; name one: {path}:{sorted(found)[0]}")
    return found


def _plain(value: Any) -> Any:
    """`datasets`' decoded media as the inputs take them: a sound's array and rate become a wav file in memory."""
    if isinstance(value, Mapping) and {"array", "sampling_rate"} <= set(value):
        import soundfile

        file = io.BytesIO()
        soundfile.write(file, np.asarray(value["array"]), int(value["sampling_rate"]), format="WAV")
        return file.getvalue()
    if isinstance(value, Mapping) and value.get("bytes"):
        return value["bytes"]
    return value


class MadeSource(Source):
    """Pictures that are drawn when they are drawn from the source; see `made`."""

    def __init__(self, name: str, kind: str, size: int, task: str | None = None) -> None:
        super().__init__(name)
        self.kind, self.size, self.task = kind, size, task

    def __len__(self) -> int:
        return self.size

    def example(self, index: int) -> Example:
        from .made import made_example

        return made_example(self.kind, index, name=f"{self.name} {index}", task=self.task)


Opener = Callable[[str, str, str | None, int], Source]
OPENERS: Mapping[str, Opener] = {
    "jsonl": lambda name, path, task, size: RowSource(name, Path(path).expanduser(), task),
    "folder": lambda name, path, task, size: FolderSource(name, Path(path).expanduser(), task),
    "shards": lambda name, path, task, size: ShardSource(name, Path(path).expanduser(), task),
    "hf": lambda name, path, task, size: HubSource(name, path, task),
    "made": lambda name, path, task, size: MadeSource(name, path, size, task),
}
"""Kind -> (name, path, task, size) -> source."""


def open_source(kind: str, name: str, path: str, task: str | None = None, size: int = 10_000) -> Source:
    """A source of the kind. Raises OptionError for a kind that is unknown, InputError for one that is empty."""
    if kind not in OPENERS:
        raise OptionError(f"source {name!r} is of the kind {kind!r}; kinds are {', '.join(OPENERS)}")
    source = OPENERS[kind](name, path, task, size)
    if not len(source):
        raise InputError(f"source {name!r} ({path}) is empty; take it out of the recipe, or give it samples")
    return source


def kind_of_path(path: Path) -> str:
    """What a bare path is likely to be."""
    if path.is_dir():
        return "hf" if (path / "dataset_info.json").is_file() else "folder"
    return "shards" if path.suffix == ".tar" else "jsonl"


