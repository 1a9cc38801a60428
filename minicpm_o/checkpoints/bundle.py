"""A bundle: the folder with everything that the runtime needs of one model, described by its bundle.json.

Knows names, sizes and hashes; does not know how the files are made (`nano`) or what they compute (`runtime`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, HashError
from ..model.config import NanoConfig, OmniConfig, config_from_dict
from .storage import sha256_of, write_atomic

MANIFEST = "bundle.json"
PROMPTS_FILE = "language_prompts.onnx"
"""The graph of `graphs.prompts`, which a bundle may lack."""
STAMPS = "stamps.json"
"""Sizes and times of the files when they were last hashed, so that opening a bundle need not hash it again."""
FORMAT = 1
OFFICIAL_VERSIONS = ("2.6", "4.5")


@dataclass(frozen=True)
class FileEntry:
    """What a file of the bundle must be."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class PartEntry:
    """Which pinned part went into the bundle, for credit and for tracing."""

    package: str
    version: str
    sha256: str
    licence: str


@dataclass(frozen=True)
class Bundle:
    """An opened bundle."""

    folder: Path
    name: str
    config: OmniConfig
    settings: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    parts: Mapping[str, PartEntry]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Read bundle.json. Raises CheckpointError when there is none or it is of another format."""
        folder = Path(folder)
        manifest = _read_manifest(folder)
        try:
            return cls(
                folder=folder,
                name=str(manifest["name"]),
                config=config_from_dict(manifest["config"]),
                settings=dict(manifest["settings"]),
                files={name: FileEntry(**entry) for name, entry in manifest["files"].items()},
                parts={name: PartEntry(**entry) for name, entry in manifest["parts"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{folder / MANIFEST} is damaged ({error!r}); assemble the model again") from error

    @property
    def nano(self) -> NanoConfig:
        """Its config as nano's. Raises CheckpointError when it is an official model's."""
        if not isinstance(self.config, NanoConfig):
            raise CheckpointError(f"the model in {self.folder} is {self.config.name}, not nano")
        return self.config

    @property
    def mending(self) -> str:
        """What to do when a file of it is missing or changed, as the end of a sentence."""
        if isinstance(self.config, NanoConfig):
            return "run `minicpm-o pull nano` to assemble the model again"
        return "copy the bundle again, or make it again with `minicpm-o export`"

    @property
    def fingerprint(self) -> str:
        """Changes when any file of the model does."""
        return hashlib.sha256(repr(sorted((name, entry.sha256) for name, entry in self.files.items())).encode()
                              ).hexdigest()

    def has(self, name: str) -> bool:
        """Whether the bundle has that file, or a folder of that name with files in it."""
        return name in self.files or any(file.startswith(f"{name}/") for file in self.files)

    def path(self, name: str) -> Path:
        """Path of a file or folder of the bundle. Raises CheckpointError when it is not there."""
        path = self.folder / name
        if not self.has(name):
            raise CheckpointError(f"the model in {self.folder} has no {name!r}; it has {sorted(self.files)}")
        if not path.exists():
            raise CheckpointError(f"{path} is gone; {self.mending}")
        return path

    def verify(self) -> None:
        """Hash every file. Raises HashError that names the first wrong one."""
        for name, entry in self.files.items():
            found = _entry_of(self.folder / name)
            if found != entry:
                raise HashError(f"{_difference(self.folder / name, found, entry)}; {self.mending}")
        _write_stamps(self)

    def require_whole(self) -> None:
        """Raises HashError that names the first file that is missing or changed; as quick as `damaged`."""
        for name in self.damaged():
            path, entry = self.folder / name, self.files[name]
            raise HashError(f"{_difference(path, _entry_of(path), entry)}; {self.mending}")

    def damaged(self) -> list[str]:
        """Names of files that are missing or changed; hashed only if their size or time is not as when last hashed."""
        stamps = _read_stamps(self.folder)
        doubtful = [name for name in self.files if stamps.get(name) != _stamp(self.folder / name)]
        wrong = [name for name in doubtful if _entry_of(self.folder / name) != self.files[name]]
        if doubtful and not wrong:
            _write_stamps(self)
        return wrong

    def write(self) -> None:
        """Write bundle.json, and the stamps of files that were just written."""
        manifest = {
            "format": FORMAT,
            "name": self.name,
            "config": self.config.to_dict(),
            "settings": dict(self.settings),
            "files": {name: dataclasses.asdict(entry) for name, entry in sorted(self.files.items())},
            "parts": {name: dataclasses.asdict(entry) for name, entry in sorted(self.parts.items())},
        }
        write_atomic(self.folder / MANIFEST, [json.dumps(manifest, indent=1).encode()])
        _write_stamps(self)


def is_official_bundle(folder: Path) -> bool:
    """Whether a folder's record says that it is of 2.6 or 4.5; the folder may be damaged otherwise."""
    try:
        config = _read_manifest(folder).get("config")
    except CheckpointError:
        return False
    return isinstance(config, dict) and config.get("version") in OFFICIAL_VERSIONS


def describe_files(folder: Path) -> dict[str, FileEntry]:
    """Sizes and hashes of the files under a folder, by path; not of hidden ones and the bundle's own records."""
    paths = sorted(path for path in folder.rglob("[!.]*") if path.is_file() and path.name not in (MANIFEST, STAMPS))
    return {path.relative_to(folder).as_posix(): FileEntry(sha256_of(path), path.stat().st_size) for path in paths}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{folder} is not a model folder: it has no {MANIFEST}") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); assemble the model again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of format {FORMAT}; assemble the model again with this release")
    return manifest


def _entry_of(path: Path) -> FileEntry | None:
    return FileEntry(sha256_of(path), path.stat().st_size) if path.is_file() else None


def _difference(path: Path, found: FileEntry | None, entry: FileEntry) -> str:
    came = "it is gone" if found is None else f"it has sha256 {found.sha256} ({found.bytes} bytes)"
    return f"{path}: {came}, expected {entry.sha256} ({entry.bytes} bytes)"


def _stamp(path: Path) -> list[int] | None:
    if not path.is_file():
        return None
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _read_stamps(folder: Path) -> dict[str, Any]:
    try:
        stamps = json.loads((folder / STAMPS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # no stamps: every file is hashed, which is slower and as safe
    return stamps if isinstance(stamps, dict) else {}


def _write_stamps(bundle: Bundle) -> None:
    stamps = {name: _stamp(bundle.folder / name) for name in bundle.files}
    with contextlib.suppress(OSError):  # a read-only bundle is hashed at each opening
        write_atomic(bundle.folder / STAMPS, [json.dumps(stamps).encode()])
