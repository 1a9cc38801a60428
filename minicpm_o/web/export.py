"""Nano and a page to one folder of plain files: any static host serves it, and the browser does all the rest.

    OUT/           the page, its service worker, files.json (what the browser keeps, with sizes)
    OUT/model      graphs, tokenizers and config.json; with bundle.json, by which `open_in_python` finds its way
    OUT/ort        onnxruntime-web, its binaries as .gz, which every host serves as they are
    OUT/samples    a photo and a spoken question to try

The folder appears whole or not at all.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoints import parts as table
from ..checkpoints.bundle import Bundle, describe_files
from ..checkpoints.nano import Sources, build_hearing_part, build_vision_part, lora_pairs, open_sources
from ..checkpoints.progress import ProgressReport
from ..checkpoints.pull import PartStore
from ..checkpoints.storage import default_home, home_lock, write_atomic, writing_to
from ..portable.folder import (
    FILES,
    SETTINGS,
    appearing,
    check_target,
    get_parts,
    needed_parts,
    open_language,
    short_recipe,
    to_json,
)
from ..portable.language_graph import DATA_FILE, WebLanguage, build_web_language, unfold_language
from ..portable.tables import FILE_NAME as TABLES_FILE
from ..portable.tables import small_tokenizer, tables
from .small import shrink
from .voice import VOICE_FILES, export_voice

TARGET = "web"
GRAPHS = ("vision", "hearing_encoder", "hearing_projector", "recogniser", "recogniser_cross")
COPIED = ("recogniser_tokenizer.json", "recogniser_config.json")
ROOM_BYTES = 700_000_000
"""What is written on the way, at most."""
PYTHON_ONLY = ("tokenizer.json", "recogniser_tokenizer.json", "recogniser_config.json", "bundle.json", "stamps.json")
"""Files of OUT/model that no browser asks for."""


@dataclass(frozen=True)
class WebExport:
    """What was written."""

    folder: Path
    mb: float
    """All that a browser keeps, 10^6 bytes."""
    voice: bool
    """Whether the page speaks."""


def export_web(out: Path, *, home: Path | None = None, voice: bool = True, progress: bool = True) -> WebExport:
    """Write the folder `out`, in place of an earlier export; nano's parts and onnxruntime-web are fetched if need be.

    voice: take the voice along. Raises OptionError when `out` holds something else, CheckpointError (its kinds) when a
    part cannot be had or there is no room.
    """
    home = home or default_home()
    check_target(out, "page", TARGET)
    with ProgressReport(progress) as report, writing_to(out.parent):
        with home_lock(home, report.say):
            further = (table.ONNXRUNTIME_WEB, *([table.PIPER] if voice else []))
            found = get_parts(PartStore(home, None, report), needed_parts(*further))
        with appearing(out, ROOM_BYTES) as (folder, scratch):
            _write_model(folder / "model", found, scratch, report)
            report.begin("writing the page")
            _write_runtime(folder / "ort", found[table.ONNXRUNTIME_WEB.name])
            _write_page(folder)
            files = _write_list(folder)
            report.finish()
    return WebExport(out, sum(files.values()) / 1e6, voice)


def _write_model(folder: Path, found: Mapping[str, Mapping[str, Path]], ordinary: Path, report: ProgressReport) -> None:
    """ordinary: a folder for graphs as Python has them."""
    recipe = short_recipe()
    sources = open_sources(found, SETTINGS, recipe)
    folder.mkdir()
    report.begin("building what sees and hears")
    build_vision_part(ordinary, sources)
    build_hearing_part(ordinary, sources)
    for name in GRAPHS:
        shrink(ordinary / f"{name}.onnx", folder / f"{name}.onnx")
    for name in COPIED:
        shutil.copyfile(ordinary / name, folder / name)
    shutil.copyfile(sources.only("vad"), folder / "vad.onnx")
    report.begin("building what thinks and speaks")
    language = _write_language(folder, sources)
    piper = found.get(table.PIPER.name)
    spoken = export_voice(folder, piper, found[table.LEXICON.name]) if piper else None
    for name in ("tokenizer", "recogniser_tokenizer"):
        write_atomic(folder / f"{name}.small.json.gz", [gzip.compress(small_tokenizer(folder / f"{name}.json"),
                                                                       mtime=0)])
    known = {**tables(folder, recipe.config), "language": language.to_dict(), "voice": spoken}
    write_atomic(folder / TABLES_FILE, [to_json(known)])
    Bundle(folder, recipe.config.name, recipe.config, {"target": "web"}, describe_files(folder), {}).write()
    report.finish()


def _write_language(folder: Path, sources: Sources) -> WebLanguage:
    file = open_language(folder, sources)
    return build_web_language(file.tensors(), lora_pairs(sources.connectors), sources.config.language, folder)


def _write_runtime(folder: Path, files: Mapping[str, Path]) -> None:
    for name, path in files.items():
        if name.endswith(".wasm"):
            write_atomic(folder / f"{name}.gz", [gzip.compress(path.read_bytes(), mtime=0)])
        else:
            write_atomic(folder / name, [path.read_bytes()])


def _write_page(folder: Path) -> None:
    root = importlib.resources.files("minicpm_o")
    with importlib.resources.as_file(root / "assets" / "web") as page:
        shutil.copytree(page, folder, dirs_exist_ok=True)
    for name in ("icon.svg", "style.css", "words.js"):
        write_atomic(folder / name, [(root / "server" / "page" / name).read_bytes()])
    for name in ("photo.jpg", "speech.wav"):
        write_atomic(folder / "samples" / name, [(root / "assets" / "samples" / name).read_bytes()])


def _write_list(folder: Path) -> dict[str, int]:
    """files.json: what a browser keeps, and a version that changes with any of it; returns sizes by name."""
    entries = {name: entry for name, entry in describe_files(folder).items()
               if name.partition("/")[2] not in PYTHON_ONLY and name != "sw.js"}
    version = hashlib.sha256(repr(sorted((name, entry.sha256) for name, entry in entries.items())).encode()).hexdigest()
    files = {name: entry.bytes for name, entry in sorted(entries.items())}
    write_atomic(folder / FILES, [to_json({"target": TARGET, "version": version[:16], "files": files})])
    worker = (folder / "sw.js").read_text(encoding="utf-8")
    write_atomic(folder / "sw.js", [worker.replace("VERSION", version[:16]).encode()])
    return files


def open_in_python(exported: Path, target: Path) -> Path:
    """A folder that `MiniCPMO.from_pretrained` opens with the exported numbers, to compare a browser's answers with.

    Raises CheckpointError when `exported` is no whole export.
    """
    bundle = Bundle.open(exported / "model")
    values = json.loads((exported / "model" / TABLES_FILE).read_text(encoding="utf-8"))
    language = WebLanguage.from_dict(values["language"])
    target.mkdir(parents=True, exist_ok=True)
    for name in bundle.files:
        if name not in VOICE_FILES:
            shutil.copyfile(bundle.path(name), target / name)
    unfold_language(target, target / DATA_FILE, language)
    replace(bundle, folder=target, files=describe_files(target)).write()
    return target
