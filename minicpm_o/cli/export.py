"""`export`: an official checkpoint to a bundle that needs no torch, nano to a page that needs no server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..checkpoints.export import ExportSettings, export_checkpoint
from ..checkpoints.hub import NANO, kind_of, official_name, snapshot
from ..checkpoints.storage import default_home
from ..errors import OptionError
from ..runtime.timing import Timing, peak_rss_mb
from .models import folder_mb
from .output import report, write

TARGETS = ("web",)
"""Where `--target` can bring nano."""
WEB_FOLDER = "nano-web"
WORST = 3
"""Layers that the summary names; the report in the bundle has them all."""


def export_model(model: str, out: Path | None, settings: ExportSettings, quiet: bool, as_json: bool) -> dict[str, Any]:
    """Make the bundle and say what it cost. Raises CheckpointError, DiskFullError or OptionError."""
    started = time.perf_counter()
    if kind_of(model) != "checkpoint":
        raise OptionError(f"{model!r} is a bundle already; export takes the name or folder of an official checkpoint, "
                          f"or nano with --target web")
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


def export_page(model: str, target: str, out: Path | None, *, speech: bool, quiet: bool, as_json: bool
                ) -> dict[str, Any]:
    """Write nano's page and say how large it is. Raises OptionError or CheckpointError."""
    from ..web.export import export_web

    started = time.perf_counter()
    if target not in TARGETS:
        raise OptionError(f"target is {target!r}; this release exports to {', '.join(TARGETS)}")
    if model != NANO:
        raise OptionError(f"--target {target} is for {NANO!r}, not for {model!r}: others do not fit a browser")
    done = export_web((out or Path(WEB_FOLDER)).expanduser().absolute(), voice=speech, progress=not quiet)
    text = (f"{model} is ready in {done.folder} ({done.mb:.0f} MB); put it on any static host, or try it here: "
            f"python -m http.server --directory {done.folder}")
    if not as_json:
        write(text + "\n")
    timing = Timing(0.0, None, None, time.perf_counter() - started, peak_rss_mb())
    return report(text, model=model, timing=timing, path=str(done.folder), mb=round(done.mb, 1), voice=done.voice)


def default_target(model: str, bits: int | None) -> Path:
    """Where a bundle goes when nobody says: under the home of models, by name and bits."""
    name = (official_name(model) or str(Path(model).expanduser().absolute())).rpartition("/")[2]
    return default_home() / "bundles" / f"{name}-{'float32' if bits is None else f'{bits}bit'}"
