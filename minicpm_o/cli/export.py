"""`export`: an official checkpoint to a bundle that needs no torch; nano to a page without a server, or for an app."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.export import ExportSettings, export_checkpoint
from ..checkpoints.hub import NANO, kind_of, official_name, snapshot
from ..checkpoints.storage import default_home
from ..errors import OptionError
from ..runtime.timing import Timing, peak_rss_mb
from .loading import refuse
from .models import folder_mb
from .output import report, write

if TYPE_CHECKING:
    from ..mobile.export import MobileExport
    from ..web.export import WebExport

TARGETS = ("web", "android", "ios")
"""Where `--target` can bring nano."""
WORST = 3
"""Layers that the summary names; the report in the bundle has them all."""


def export_model(model: str, out: Path | None, settings: ExportSettings, quiet: bool, as_json: bool) -> dict[str, Any]:
    """Make the bundle and say what it cost. Raises CheckpointError, DiskFullError or OptionError."""
    started = time.perf_counter()
    if kind_of(model) != "checkpoint":
        raise OptionError(f"{model!r} is a bundle already; export takes the name or folder of an official checkpoint, "
                          f"or nano with --target {', '.join(TARGETS)}")
    target = (out or default_target(model, settings.bits)).expanduser().absolute()
    done = export_checkpoint(snapshot(model, progress=not quiet), target, settings, progress=not quiet)
    text = f"{model} is ready in {done.folder} ({folder_mb(done.folder):.0f} MB); use it with --model {done.folder}"
    if done.resumed:
        text += f"\ndone by an earlier export: {', '.join(done.resumed)}"
    if done.report and done.report.layers:
        worst = ", ".join(f"{name} {100 * error:.2f} %" for name, error in done.report.layers[:WORST])
        text += f"\nrounding changed most: {worst}"
    if not as_json:
        write(text + "\n")
    timing = Timing(0.0, None, None, time.perf_counter() - started, peak_rss_mb())
    return report(text, model=model, timing=timing, path=str(done.folder), mb=round(folder_mb(done.folder), 1),
                  resumed=list(done.resumed), export=done.report.to_dict() if done.report else None)


def export_nano(model: str, target: str, out: Path | None, *, audio: bool, speech: bool, quiet: bool, as_json: bool
                ) -> dict[str, Any]:
    """Write nano's page or its folder for an app and say how large it is. Raises OptionError or CheckpointError."""
    started = time.perf_counter()
    if target not in TARGETS:
        raise OptionError(f"target is {target!r}; this release exports to {', '.join(TARGETS)}")
    if model != NANO:
        raise OptionError(f"--target {target} is for {NANO!r}, not for {model!r}: others are too large for it")
    folder = (out or Path(f"nano-{target}")).expanduser().absolute()
    done: WebExport | MobileExport
    if target == "web":
        done, told = _export_page(folder, audio=audio, speech=speech, quiet=quiet)
    else:
        done, told = _export_app(folder, target, audio=audio, speech=speech, quiet=quiet)
    text = f"{model} is ready in {done.folder} ({done.mb:.0f} MB); {told}"
    if not as_json:
        write(text + "\n")
    timing = Timing(0.0, None, None, time.perf_counter() - started, peak_rss_mb())
    more = {name: value for name, value in dataclasses.asdict(done).items() if name not in ("folder", "mb")}
    return report(text, model=model, timing=timing, path=str(done.folder), mb=round(done.mb, 1), **more)


def _export_page(folder: Path, *, audio: bool, speech: bool, quiet: bool) -> tuple[WebExport, str]:
    """What was written, and what to do with it."""
    from ..web.export import export_web

    refuse("with --target web", {"--no-audio": not audio}, "leave it out: the page hears")
    done = export_web(folder, voice=speech, progress=not quiet)
    return done, ("put it on any static host, or try it here: "
                  f"python -m http.server --directory {done.folder}")


def _export_app(folder: Path, target: str, *, audio: bool, speech: bool, quiet: bool) -> tuple[MobileExport, str]:
    """What was written, and what to do with it."""
    from ..mobile.export import export_mobile

    refuse(f"with --target {target}", {"--no-speech": not speech}, "leave it out: the voice stays at home anyway")
    done = export_mobile(folder, target, hearing=audio, progress=not quiet)
    return done, f"how to go on is in {done.folder / 'README.md'}"


def default_target(model: str, bits: int | None) -> Path:
    """Where a bundle goes when nobody says: under the home of models, by name and bits."""
    name = (official_name(model) or str(Path(model).expanduser().absolute())).rpartition("/")[2]
    return default_home() / "bundles" / f"{name}-{'float32' if bits is None else f'{bits}bit'}"
