"""What the stages share: rows of a set, draws by name, parts that are here, and how far a piece of work has come.

Knows no pictures and no sounds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...checkpoints.parts import find_part
from ...checkpoints.progress import ProgressReport
from ...checkpoints.pull import PartStore
from ...checkpoints.storage import default_home, home_lock, write_atomic
from ...errors import InputError, PartMissingError
from ..mixture import read_json, read_rows

ItemT = TypeVar("ItemT")


def draws(seed: int, *names: object) -> np.random.Generator:
    """Random draws that belong to a name alone, whatever was drawn before them and in whatever order."""
    key = "\n".join(str(name) for name in (seed, *names))
    return np.random.default_rng(int(hashlib.sha256(key.encode()).hexdigest(), 16))


def set_rows(data: Path, set_name: str, file: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of a training set. Raises InputError when the set is not there."""
    path = data / set_name / file
    if not path.is_file():
        raise InputError(f"the training set {set_name!r} is not there: {path} is missing; "
                         f"docs/training.md says what belongs in {data}")
    return read_rows(path)[:limit]


def write_json(path: Path, value: object) -> None:
    """A JSON file that appears whole or not at all."""
    write_atomic(path, [json.dumps(value, ensure_ascii=False).encode()])


def find_files(part: str) -> dict[str, Path]:
    """Files of a part of nano by name, as they lie on this machine: nothing is fetched.

    Raises PartMissingError when the part is not here.
    """
    home = default_home()
    with ProgressReport(False) as report, home_lock(home):
        files = PartStore(home, None, report).find(find_part(part))
    if files is None:
        variable = find_part(part).environment_variable
        raise PartMissingError(f"part {part!r} is not on this machine; `minicpm-o pull nano --voices` brings all, "
                               f"or set {variable} to where it lies")
    return files


def open_array(path: Path, shape: tuple[int, ...], *, resume: bool) -> np.ndarray:
    """A float16 array on disk: as it was left, or a new one."""
    if resume:
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)


def bar(items: Sequence[ItemT], what: str) -> Iterable[ItemT]:
    """The items, with a progress bar on stderr while they are worked on."""
    from rich.console import Console
    from rich.progress import track

    return track(items, description=what, console=Console(stderr=True))


@dataclass(frozen=True)
class Marker:
    """How far a piece of work has come: a small file beside its files.

    The recipe is whatever decides the result, as JSON can hold it; work done by another recipe does not count.
    """

    path: Path
    recipe: object
    total: int
    files: tuple[Path, ...]
    """What the work writes; without them nothing is done."""

    def done(self) -> int:
        """Steps done by this recipe."""
        if not self.path.is_file() or not all(file.is_file() for file in self.files):
            return 0
        found = read_json(self.path)
        return int(found["done"]) if found["recipe"] == self._digest else 0

    def is_finished(self) -> bool:
        return self.done() == self.total > 0

    def reach(self, done: int) -> None:
        """Note that so many steps are done; what they wrote must be on disk."""
        write_json(self.path, {"recipe": self._digest, "done": done, "total": self.total})

    @property
    def _digest(self) -> str:
        return hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()
