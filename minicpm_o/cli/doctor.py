"""`doctor`: what is installed, what the machine gives, what is missing and the command that mends it.

Looks only: it fetches, assembles and writes nothing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..checkpoints.bundle import Bundle, is_official_bundle
from ..checkpoints.hub import is_checkpoint, kind_of, models, official_name
from ..checkpoints.official import Checkpoint
from ..checkpoints.parts import NANO_PARTS, VOICES, Part
from ..checkpoints.storage import default_home
from ..errors import CheckpointError, UnknownModelError
from ..model.config import OfficialConfig
from ..runtime.device import DevicePlan, plan_device
from ..runtime.prefix_store import default_folder, kept
from .models import folder_mb
from .output import report, write

LIBRARIES = ("onnxruntime", "numpy", "tokenizers", "pillow", "av", "soundfile", "soxr", "onnx", "safetensors")
EXTRAS = (
    ("heic pictures", "pillow_heif", "heic"),
    ("Chinese speech", "pypinyin", "zh"),
    ("llama.cpp in `bench`", "llama_cpp", "bench"),
    ("torch twin", "torch", "torch"),
)

VOICE_FOLDER = "voices/"

State = Literal["ok", "missing", "optional"]
MARKS = {"ok": "ok", "missing": "MISSING", "optional": "absent"}


@dataclass(frozen=True)
class Check:
    """One line of the examination."""

    group: str
    name: str
    state: State
    detail: str
    mend: str | None = None
    """The command that brings what is not here."""


def examine(model: str, threads: int | None, as_json: bool) -> dict[str, Any]:
    """Look at everything and print it."""
    bundle, problem = _bundle(model)
    plan = plan_device(bundle, threads=threads)
    checks = [*_versions(), *_device(plan), *_model(model, bundle, problem), *_extras()]
    text = "\n".join(_lines(checks))
    if not as_json:
        write(text + "\n")
    missing = [check.name for check in checks if check.state == "missing"]
    return report(text, model=model, checks=[asdict(check) for check in checks], missing=missing,
                  threads=plan.threads, memory_mb=plan.memory_mb)


def _bundle(model: str) -> tuple[Bundle | None, str]:
    """The model's bundle, or None and the reason in words."""
    try:
        known = {info.name: info.path for info in models()}
        folder = known.get(model) if model in known else Path(model)
        found = Bundle.open(folder) if folder else None
    except CheckpointError as error:
        return None, str(error)
    if found and (wrong := found.damaged()):
        return None, f"damaged: {', '.join(wrong)}"
    return found, "" if found else "not assembled yet"


def _versions() -> Iterator[Check]:
    yield Check("versions", "minicpm-o", "ok", __version__)
    yield Check("versions", "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in LIBRARIES:
        version = _version(name)
        yield Check("versions", name, "ok" if version else "missing", version or "not installed",
                    None if version else "pip install minicpm-o")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device(plan: DevicePlan) -> Iterator[Check]:
    yield Check("device", "threads", "ok", "; ".join((f"{plan.threads}", plan.provider, *plan.reasons)))
    for name, size in plan.memory_mb.items():
        yield Check("device", f"memory, {name}", "ok", f"{size:.0f} MB")
    home = default_home()
    free = shutil.disk_usage(next(place for place in (home, *home.parents) if place.exists())).free
    yield Check("device", "disk", "ok", f"{free / 1e9:.1f} GB free for {home}")
    prefixes = kept(default_folder())
    size_mb = sum(entry.bytes for entry in prefixes) / 1e6
    yield Check("device", "kept prefixes", "ok", f"{len(prefixes)} ({size_mb:.0f} MB) in {default_folder()}; "
                                                 f"`minicpm-o models --clear-prefixes` removes them")


def _model(model: str, bundle: Bundle | None, problem: str) -> Iterator[Check]:
    if bundle:
        yield Check("model", model, "ok", f"{bundle.folder} ({folder_mb(bundle.folder):.0f} MB)")
        for name, entry in bundle.parts.items():
            yield Check("model", name, "ok", f"{entry.package} {entry.version}, {entry.licence}")
        if isinstance(bundle.config, OfficialConfig):  # its voice is one of its networks
            return
        names = sorted(Path(name).stem for name in bundle.files if name.startswith(VOICE_FOLDER))
        yield Check("model", "voices here", "ok" if names else "missing", ", ".join(names) or "none",
                    None if names else f"minicpm-o pull {model}")
        if VOICES.name not in bundle.parts:
            yield _voices()
        return
    if _is_official(model):
        yield _checkpoint(model)
        return
    if is_official_bundle(Path(model).expanduser()):
        yield Check("model", model, "missing", problem, f"minicpm-o export CHECKPOINT --out {model}")
        return
    yield Check("model", model, "missing", problem, f"minicpm-o pull {model}")
    for part in NANO_PARTS:
        yield _part(part)


def _is_official(model: str) -> bool:
    try:
        return kind_of(model) == "checkpoint"
    except UnknownModelError:
        return False


def _checkpoint(model: str) -> Check:
    """An official checkpoint that is here, or one that the hub has."""
    known = {info.name: info.path for info in models()}
    folder = Path(model).expanduser() if is_checkpoint(Path(model).expanduser()) else (
        known.get(official_name(model) or model))
    if folder is None:
        return Check("model", model, "missing", "not fetched yet; `--memory auto` says whether it would fit",
                     f"minicpm-o pull {model}")
    try:
        Checkpoint.open(folder)
    except CheckpointError as error:
        return Check("model", model, "missing", str(error), None)
    return Check("model", model, "ok", f"{folder} ({folder_mb(folder):.0f} MB); `minicpm-o export {model}` makes a "
                                       f"bundle of it that needs no torch")


def _voices() -> Check:
    needs = "" if shutil.which("npm") else ", which needs npm"
    return Check("model", VOICES.name, "optional", VOICES.purpose, f"minicpm-o pull nano --voices{needs}")


def _part(part: Part) -> Check:
    """Whether a part is at hand for assembling, by names and sizes alone."""
    given = os.environ.get(part.environment_variable)
    cached = default_home() / "parts" / part.name
    if given:
        return Check("model", part.name, "ok", f"{part.environment_variable} says {given}")
    if all((cached / file.name).is_file() and (cached / file.name).stat().st_size == file.bytes for file in part.files):
        return Check("model", part.name, "ok", f"fetched into {cached}")
    if part.name == VOICES.name:
        return _voices()
    return Check("model", part.name, "missing" if part.required else "optional",
                 f"{part.purpose}, {part.bytes / 1e6:.0f} MB", "minicpm-o pull nano" if part.required else None)


def _extras() -> Iterator[Check]:
    npm = shutil.which("npm")
    yield Check("extras", "npm (more voices)", "ok" if npm else "optional", npm or "not installed",
                None if npm else "install node.js from your system's packages")
    for name, module, extra in EXTRAS:
        here = importlib.util.find_spec(module) is not None
        yield Check("extras", name, "ok" if here else "optional", module if here else "not installed",
                    None if here else f'pip install "minicpm-o[{extra}]"')


def _lines(checks: list[Check]) -> Iterator[str]:
    width = max(len(check.name) for check in checks)
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            yield group
        mend = f"  ->  {check.mend}" if check.mend else ""
        yield f"  {MARKS[check.state]:7} {check.name:{width}}  {check.detail}{mend}"
