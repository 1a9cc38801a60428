"""Nano to a folder that an app takes along: graphs in the format of ORT mobile, tables, and a short example.

    OUT/model      graphs (.ort), config.json, tokens.bin, tokenizers, the operators that the graphs take
    OUT/example    an app in Kotlin or a package in Swift that describes a picture
    OUT/README.md  how to run it; OUT/files.json  what is there, with sizes

The folder appears whole or not at all.
"""

from __future__ import annotations

import importlib.resources
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints import parts as table
from ..checkpoints.bundle import Bundle, describe_files
from ..checkpoints.graphs.language import FILE_NAME as LANGUAGE_FILE
from ..checkpoints.nano import Recipe, build_hearing_part, build_vision_part, lora_pairs, open_sources
from ..checkpoints.progress import ProgressReport
from ..checkpoints.pull import PartStore
from ..checkpoints.storage import default_home, home_lock, write_atomic, writing_to
from ..errors import OptionError
from ..inputs.text import Tokenizer
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
from ..portable.tables import FILE_NAME as TABLES_FILE
from ..portable.tables import small_tokenizer, tables
from .language_graph import TWIN_FILE, build_phone_language
from .ort_format import OPERATORS_FILE, SUFFIX, to_ort, write_operators
from .tokens import FILE_NAME as TOKENS_FILE
from .tokens import ready_prompts, token_table

TARGETS = ("android", "ios")
SEES = ("language", "vision")
HEARS = ("hearing_encoder", "hearing_projector", "recogniser", "recogniser_cross", "vad")
ROOM_BYTES = 800_000_000
"""What is written on the way, at most."""
_UNUSED = (table.LEXICON.name,)


@dataclass(frozen=True)
class MobileExport:
    """What was written."""

    folder: Path
    mb: float
    """All that an app takes along: the models and their tables, 10^6 bytes."""
    hears: bool
    """Whether the graphs for sounds are there."""


def export_mobile(out: Path, target: str, *, home: Path | None = None, hearing: bool = True, progress: bool = True
                  ) -> MobileExport:
    """Write the folder `out`, in place of an earlier export; nano's parts are fetched if need be.

    target: android or ios; hearing: take the graphs for sounds along. Raises OptionError for another target and when
    `out` holds something else, CheckpointError (its kinds) when a part cannot be had or there is no room.
    """
    home = home or default_home()
    if target not in TARGETS:
        raise OptionError(f"target is {target!r}; nano goes to {' and '.join(TARGETS)}")
    check_target(out, "model for phones", target)
    with ProgressReport(progress) as report, writing_to(out.parent):
        found = _found(home, report)
        with appearing(out, ROOM_BYTES) as (folder, scratch):
            recipe = write_graphs(scratch, found, report)
            report.begin("writing the format of ORT mobile")
            _write_model(folder / "model", scratch, recipe, (*SEES, *(HEARS if hearing else ())))
            files = _write_rest(folder, target)
            report.finish()
    return MobileExport(out, sum(files.values()) / 1e6, hearing)


def _found(home: Path, report: ProgressReport) -> dict[str, Mapping[str, Path]]:
    with home_lock(home, report.say):
        return get_parts(PartStore(home, None, report), needed_parts(without=_UNUSED))


def write_graphs(folder: Path, found: Mapping[str, Mapping[str, Path]], report: ProgressReport) -> Recipe:
    """Write the graphs as ONNX, and the tokenizers, into `folder`; returns what they were made by."""
    recipe = short_recipe()
    sources = open_sources(found, SETTINGS, recipe)
    report.begin("building what sees and hears")
    build_vision_part(folder, sources)
    build_hearing_part(folder, sources)
    shutil.copyfile(sources.only("vad"), folder / "vad.onnx")
    report.finish()
    report.begin("building what thinks")
    weights = open_language(folder, sources).tensors()
    placeholder = Tokenizer.from_file(folder / "tokenizer.json").special.placeholder
    build_phone_language(weights, lora_pairs(sources.connectors), recipe.config.language, folder, placeholder)
    report.finish()
    return recipe


def _write_model(folder: Path, graphs: Path, recipe: Recipe, names: Sequence[str]) -> None:
    """graphs: what `write_graphs` wrote."""
    folder.mkdir()
    for name in names:
        to_ort(graphs / f"{name}.onnx", folder / f"{name}{SUFFIX}")
    write_operators([folder / f"{name}{SUFFIX}" for name in names], folder / OPERATORS_FILE)
    for name in ("tokenizer", *(("recogniser_tokenizer",) if "recogniser" in names else ())):
        write_atomic(folder / f"{name}.small.json", [small_tokenizer(graphs / f"{name}.json")])
    write_atomic(folder / TOKENS_FILE, [token_table(json.loads((folder / "tokenizer.small.json").read_bytes()))])
    tokenizer = Tokenizer.from_file(graphs / "tokenizer.json")
    known = {**tables(graphs, recipe.config), "ready": ready_prompts(tokenizer, recipe.config)}
    write_atomic(folder / TABLES_FILE, [to_json(known)])


def _write_rest(folder: Path, target: str) -> dict[str, int]:
    """The example, how to run it, and the list of files; returns the sizes of the models and tables by name."""
    from onnxruntime import __version__

    with importlib.resources.as_file(importlib.resources.files("minicpm_o") / "assets" / "mobile" / target) as example:
        shutil.copytree(example, folder, dirs_exist_ok=True)
    files = {name: entry.bytes for name, entry in sorted(describe_files(folder).items())}
    write_atomic(folder / FILES, [to_json({"target": target, "onnxruntime": __version__, "files": files})])
    return {name: size for name, size in files.items() if name.startswith("model/")}


def export_graphs(target: Path, *, home: Path | None = None) -> Recipe:
    """As `write_graphs`, with the parts of nano found or fetched. Raises CheckpointError (its kinds)."""
    target.mkdir(parents=True, exist_ok=True)
    with ProgressReport(False) as report:
        return write_graphs(target, _found(home or default_home(), report), report)


def open_in_python(target: Path, *, home: Path | None = None) -> Path:
    """A folder that `MiniCPMO.from_pretrained` opens with the exported numbers, to compare a phone's answers with.

    Raises CheckpointError (its kinds) when a part cannot be had.
    """
    recipe = export_graphs(target, home=home)
    (target / TWIN_FILE).replace(target / LANGUAGE_FILE)
    Bundle(target, recipe.config.name, recipe.config, {"target": "mobile"}, describe_files(target), {}).write()
    return target
