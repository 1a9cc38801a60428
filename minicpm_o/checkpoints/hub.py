"""A model's name to its folder: a bundle or an official checkpoint. The one place that knows which models there are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import CheckpointError, DiskFullError, UnknownModelError
from .bundle import MANIFEST, Bundle
from .nano import assemble, find
from .official_config import MODEL_TYPE, read_config
from .pull import GivenParts
from .storage import FULL_DISK, default_home

NANO = "nano"
_KNOWN: Mapping[str, str] = {
    NANO: "SmolLM2-135M, EfficientNet-Lite, Whisper base and Kokoro-82M with connectors trained for them",
}
OFFICIAL: Mapping[str, str] = {
    "openbmb/MiniCPM-o-2_6": "8 B, official weights: torch runs them, and `minicpm-o export` makes a bundle of them",
    "openbmb/MiniCPM-o-4_5": "9 B, official weights: torch runs them, and `minicpm-o export` makes a bundle of them",
}
VERSIONS: Mapping[str, str] = {"openbmb/MiniCPM-o-2_6": "2.6", "openbmb/MiniCPM-o-4_5": "4.5"}
"""Which version a name on the hub is."""

_NOT_WANTED = ("*.py", "*.md", "*.bin", "*.gguf", "*.png", "*.jpg", "*.gif", "*.mp4")
"""Files of a repository that nothing here reads; its code above all."""

Kind = Literal["nano", "bundle", "checkpoint"]


@dataclass(frozen=True)
class ModelInfo:
    """One line of the list of models."""

    name: str
    description: str
    can_load: bool
    """Whether this release can load it at all."""
    path: Path | None
    """Its folder, if it is on this machine and whole."""


def models(home: Path | None = None) -> list[ModelInfo]:
    """What is known; builds and fetches nothing."""
    try:
        path = find(home or default_home())
    except CheckpointError:  # an installation without connectors: the list still holds, but nothing is here
        path = None
    known = [ModelInfo(name, text, can_load=True, path=path) for name, text in _KNOWN.items()]
    return known + [ModelInfo(name, text, can_load=True, path=_fetched(name)) for name, text in OFFICIAL.items()]


def kind_of(name_or_path: str | os.PathLike[str]) -> Kind:
    """What a name means. Looks at files, fetches nothing. Raises UnknownModelError when it means nothing."""
    name = os.fspath(name_or_path)
    if name == NANO:
        return "nano"
    folder = Path(name).expanduser()
    if (folder / MANIFEST).is_file():
        return "bundle"
    if is_checkpoint(folder) or official_name(name):
        return "checkpoint"
    raise UnknownModelError(_what_is_wrong(name, folder))


def official_name(name: str) -> str | None:
    """The name on the hub, whatever the case and with or without the owner; None for any other name."""
    names = {known.lower(): known for known in OFFICIAL}
    names |= {known.partition("/")[2].lower(): known for known in OFFICIAL}
    return names.get(name.lower())


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder says that it is an official checkpoint."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such file, or one that is not JSON: it says nothing
        return False
    return isinstance(values, dict) and values.get("model_type") == MODEL_TYPE


def resolve(
    name_or_path: str | os.PathLike[str],
    *,
    parts: GivenParts | None = None,
    progress: bool = True,
    home: Path | None = None,
) -> Path:
    """Folder of the model; "nano" is assembled and an official name fetched if it is not here yet.

    Raises CheckpointError and its kinds.
    """
    kind = kind_of(name_or_path)
    if kind == "nano":
        return assemble(home or default_home(), parts=parts, progress=progress)
    if kind == "checkpoint":
        return snapshot(name_or_path, progress=progress)
    return Path(name_or_path).expanduser()


def snapshot(name_or_path: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Folder of an official checkpoint: itself, or the hub's, fetched as far as it is not here yet.

    Raises UnknownModelError for any other name, CheckpointError when it is not here and cannot be fetched,
    DiskFullError when there is no room.
    """
    name = os.fspath(name_or_path)
    folder = Path(name).expanduser()
    if is_checkpoint(folder):
        return folder
    known = official_name(name)
    if known is None:
        raise UnknownModelError(_what_is_wrong(name, folder))
    return fetch(known, progress=progress)


def open_bundle(
    name_or_path: str | os.PathLike[str],
    *,
    parts: GivenParts | None = None,
    progress: bool = True,
    home: Path | None = None,
) -> Bundle:
    """The opened bundle of a model; see `resolve`. Raises CheckpointError for a checkpoint, which is no bundle yet."""
    if kind_of(name_or_path) == "checkpoint":
        name = os.fspath(name_or_path)
        raise CheckpointError(f"{name} is a checkpoint, not a bundle; `minicpm-o export {name} --bits 4` makes one")
    return Bundle.open(resolve(name_or_path, parts=parts, progress=progress, home=home))


def fetch(name: str, *, progress: bool = True, **options: Any) -> Path:
    """Folder of any repository of the hub, fetched as far as it is not here yet; its code and pictures are left there.

    options: of huggingface_hub.snapshot_download (revision, token, cache_dir, ...). Raises CheckpointError when it is
    not here and cannot be fetched, DiskFullError when there is no room.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    transport: type[Exception] = HfHubHTTPError.__bases__[0]  # of the library that this release of the hub speaks by
    wanted: dict[str, Any] = {**options, **({} if progress else {"tqdm_class": _silent_bar()})}
    try:
        return Path(snapshot_download(name, ignore_patterns=list(_NOT_WANTED), **wanted))
    except GatedRepoError as error:
        raise CheckpointError(f"{name} must be asked for on its page of the hub; accept its terms there, then run "
                              f"`hf auth login`") from error
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise CheckpointError(
            f"{name} is not on this machine and the hub cannot be reached ({_first_line(error)}); connect to the "
            f"network, or give the folder of a checkpoint that was downloaded elsewhere") from error
    except (transport, OSError) as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise DiskFullError(f"no room to download {name} into {constants.HF_HUB_CACHE}; free some, or set HF_HOME "
                                f"to a folder on another disk") from error
        raise CheckpointError(f"{name} could not be downloaded ({_first_line(error)}); try again, or give the folder "
                              f"of a checkpoint that was downloaded elsewhere") from error


def _silent_bar() -> type[Any]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Silent(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return Silent


def _fetched(name: str) -> Path | None:
    """The folder of a checkpoint that the hub's cache holds; whether it is whole is seen when it is opened."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _what_config_says(folder: Path) -> str:
    """What is wrong with a folder whose config.json is not MiniCPM-o's."""
    try:
        read_config(folder)
    except CheckpointError as error:
        return str(error)
    return f"{folder} could not be read at first, and now it can; try again"  # it is being written


def _what_is_wrong(name: str, folder: Path) -> str:
    known = ", ".join((NANO, *OFFICIAL))
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return _what_config_says(folder)
        return (f"{folder} is not a model folder: it has no {MANIFEST}, and no config.json of MiniCPM-o; use one of "
                f"{known}, or the folder of a bundle or checkpoint")
    return f"there is no model {name!r}; use one of {known}, or the folder of a bundle or checkpoint"
