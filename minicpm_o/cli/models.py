"""`models` and `pull`: which models there are, and bringing one here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..checkpoints import nano
from ..checkpoints.hub import NANO, ModelInfo, models, resolve
from ..checkpoints.parts import PIPER, VOICES
from ..checkpoints.storage import default_home
from ..errors import OptionError
from ..runtime.prefix_store import clear, default_folder
from ..runtime.timing import Timing, peak_rss_mb
from .output import report, write


def list_models(as_json: bool) -> dict[str, Any]:
    """All known models and whether they are on this machine."""
    found = models()
    text = "\n".join(_line(info) for info in found)
    if not as_json:
        write(text + "\n")
    return report(text, model=None, models=[_entry(info) for info in found])


def remove_prefixes(as_json: bool) -> dict[str, Any]:
    """Remove the beginnings of prompts that are kept on disk, of all models."""
    folder = default_folder()
    removed = clear(folder)
    mb = sum(entry.bytes for entry in removed) / 1e6
    text = f"removed {len(removed)} kept prefixes ({mb:.0f} MB) from {folder}"
    if not as_json:
        write(text + "\n")
    return report(text, model=None, path=str(folder), removed=len(removed), mb=round(mb, 1))


def pull_model(name: str, voices: bool, fast_voice: bool, quiet: bool, as_json: bool) -> dict[str, Any]:
    """Fetch and assemble; afterwards no network is needed. Raises CheckpointError."""
    started = time.perf_counter()
    wanted = [part.name for part, is_wanted in ((VOICES, voices), (PIPER, fast_voice)) if is_wanted]
    if wanted and name != NANO:
        raise OptionError(f"more voices belong to {NANO!r}, not to {name!r}")
    folder = resolve(name, progress=not quiet)
    if wanted:
        folder = nano.add_optional(default_home(), tuple(wanted), progress=not quiet)
    text = f"{name} is ready in {folder} ({folder_mb(folder):.0f} MB)"
    if not as_json:
        write(text + "\n")
    timing = Timing(0.0, None, None, time.perf_counter() - started, peak_rss_mb())
    return report(text, model=name, timing=timing, path=str(folder), mb=round(folder_mb(folder), 1))


def folder_mb(folder: Path) -> float:
    """Size of all files under a folder, 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _entry(info: ModelInfo) -> dict[str, Any]:
    place = {"path": str(info.path), "mb": round(folder_mb(info.path), 1)} if info.path else {}
    return {"name": info.name, "description": info.description, "can_load": info.can_load,
            "installed": info.path is not None, **place}


def _line(info: ModelInfo) -> str:
    if info.path:
        where = f"{info.path} ({folder_mb(info.path):.0f} MB)"
    elif info.can_load:
        where = f"not here yet; `minicpm-o pull {info.name}` brings it"
    else:
        where = "not loaded by this release"
    return f"{info.name}: {info.description}\n    {where}"
