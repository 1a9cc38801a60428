"""A model's name to its bundle. The one place that knows which models there are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, UnknownModelError
from .bundle import MANIFEST, Bundle
from .nano import assemble, find
from .pull import GivenParts
from .storage import default_home

NANO = "nano"
_KNOWN: Mapping[str, str] = {
    NANO: "SmolLM2-135M, EfficientNet-Lite, Whisper base and Kokoro-82M with connectors trained for them",
}
_NOT_YET: Mapping[str, str] = {
    "openbmb/MiniCPM-o-2_6": "8 B, official weights",
    "openbmb/MiniCPM-o-4_5": "9 B, official weights",
}


@dataclass(frozen=True)
class ModelInfo:
    """One line of the list of models."""

    name: str
    description: str
    can_load: bool
    """Whether this release can load it at all."""
    path: Path | None
    """Its bundle, if it is on this machine and whole."""


def models(home: Path | None = None) -> list[ModelInfo]:
    """What is known; builds and fetches nothing."""
    try:
        path = find(home or default_home())
    except CheckpointError:  # an installation without connectors: the list still holds, but nothing is here
        path = None
    known = [ModelInfo(name, text, can_load=True, path=path) for name, text in _KNOWN.items()]
    return known + [ModelInfo(name, text, can_load=False, path=None) for name, text in _NOT_YET.items()]


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    parts: GivenParts | None = None,
    progress: bool = True,
    home: Path | None = None,
) -> Path:
    """Folder of the bundle; "nano" is assembled if it is not here yet. Raises CheckpointError and its kinds."""
    name = os.fspath(name_or_path)
    if name == NANO:
        return assemble(home or default_home(), parts=parts, progress=progress)
    folder = Path(name).expanduser()
    if (folder / MANIFEST).is_file():
        return folder
    raise UnknownModelError(_what_is_wrong(name, folder))


def open_bundle(
    name_or_path: str | os.PathLike[str],
    *,
    parts: GivenParts | None = None,
    progress: bool = True,
    home: Path | None = None,
) -> Bundle:
    """The opened bundle of a model; see `resolve`."""
    return Bundle.open(resolve(name_or_path, parts=parts, progress=progress, home=home))


def _what_is_wrong(name: str, folder: Path) -> str:
    official = {known.lower(): known for known in _NOT_YET}
    official |= {known.partition("/")[2].lower(): known for known in _NOT_YET}
    if (known := official.get(name.lower())) is not None:
        return f"{known} is known, but this release does not load it yet; use {NANO!r}"
    if folder.is_dir():
        return f"{folder} is not a model folder: it has no {MANIFEST}; use {NANO!r} or the folder of a bundle"
    return f"there is no model {name!r}; use one of {sorted(_KNOWN)} or the folder of a bundle"
