"""An official checkpoint to the bundle that the device runtime opens, part by part, without torch.

Each part is built in a folder of its own beside the target and gets a record when it is whole; an export that was
interrupted goes on after the last whole part, if checkpoint, settings and builder are the same, and else starts clean.
The bundle appears by one rename. Memory holds a few rows of one matrix and what is made of it, never a model.

    .export-NAME/identity.json         what is being exported, and how
    .export-NAME/steps/PART/           files of a part, and step.json once it is whole
    .export-NAME/bundle/               the parts together, about to become NAME/
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DiskFullError, OptionError
from ..model.config import OfficialConfig
from .bundle import MANIFEST, Bundle, FileEntry, describe_files
from .export_report import ExportReport, RoundedMatrix, StepReport
from .export_steps import ExportSettings, Step, check_text, copied_bytes, steps
from .memory_use import peak_rss_mb
from .official import Checkpoint
from .progress import ProgressReport
from .sizes import bundle_bytes, has_prompt_graph
from .storage import FULL_DISK, replace_folder, sha256_of
from .voice_files import with_voice_shapes

STEP_FILE = "step.json"
IDENTITY_FILE = "identity.json"
_SPARE = 1.02
"""Graphs and the rounding up to pages, beside the tensors' bytes."""
_SPARE_BYTES = 20_000_000


@dataclass(frozen=True)
class Exported:
    """A finished bundle."""

    folder: Path
    report: ExportReport | None
    """None when the bundle was there already."""
    resumed: tuple[str, ...] = ()
    """Parts that an earlier, interrupted export had finished."""


def export_checkpoint(source: Path, target: Path, settings: ExportSettings | None = None, *,
                      progress: bool = True) -> Exported:
    """Make the bundle `target` of the checkpoint in `source`.

    Raises CheckpointError for a checkpoint that is not whole, OptionError for settings that cannot be run or a target
    that holds other things, DiskFullError before anything is written, or when the room ends. Whatever happens, there is
    no half bundle at the target, and finished parts wait beside it for the next try.
    """
    settings, target = settings or ExportSettings(), target.resolve()  # through a link, to where it points
    _check_settings(settings)
    checkpoint = Checkpoint.open(source, vision=settings.vision, hearing=settings.hearing, speech=settings.speech)
    config = with_voice_shapes(checkpoint.config, source)
    check_text(source, config)
    identity = identity_of(source, settings)
    if _is_there(target, identity):
        return Exported(target, None)
    work = target.parent / f".export-{target.name}"
    with ProgressReport(progress) as report, _room_in(target), _only_one(work):
        resumed = _prepare(work, identity, report)
        _check_room(work, config, source, settings)
        reports = [_run(step, work, report) for step in steps(checkpoint, config, settings)]
        whole = ExportReport(config.name, dataclasses.asdict(settings), tuple(reports))
        _finish(work, target, config, whole, identity)
        shutil.rmtree(work, ignore_errors=True)  # under the lock: afterwards it might be the next export's
    if os.name == "nt":  # where the file of a lock that is held stays
        shutil.rmtree(work, ignore_errors=True)
    return Exported(target, whole, tuple(name for name in resumed if any(name == done.name for done in reports)))


def identity_of(source: Path, settings: ExportSettings) -> dict[str, Any]:
    """What decides the bundle's content: files by size and time, settings, and the code that makes it."""
    names = ("config.json", "*.safetensors", "*.index.json", "assets/**/*", "tokenizer*", "vocab*", "merges.txt")
    found = sorted({path for pattern in names for path in source.glob(pattern) if path.is_file()})
    files = {path.relative_to(source).as_posix(): [path.stat().st_size, path.stat().st_mtime_ns] for path in found}
    return {"files": files, "settings": dataclasses.asdict(settings), "builder": _builder_sha256()}


def _check_settings(settings: ExportSettings) -> None:
    from .graphs.builder import check_bits

    check_bits(settings.bits, settings.block_size)
    if settings.prompts and settings.bits is None:
        raise OptionError("a graph for prompts (--fast-prompts) is of 4 or 8 bits; a float32 bundle reads them as they "
                          "are")


def _builder_sha256() -> str:
    here = Path(__file__).parent
    names = ("export", "export_steps", "embeddings", "voice_files")
    digest = hashlib.sha256()
    for path in [*(here / f"{name}.py" for name in names), *sorted((here / "graphs").glob("*.py"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _is_there(target: Path, identity: dict[str, Any]) -> bool:
    """Whether the target is this very bundle, whole. Raises OptionError when something else is in its place."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if not (target / MANIFEST).is_file():
        raise OptionError(f"{target} holds other things than a bundle; choose another folder with --out")
    try:
        bundle = Bundle.open(target)
        return bundle.settings.get("export") == _digest(identity) and not bundle.damaged()
    except CheckpointError:  # a damaged bundle is made again
        return False


@contextmanager
def _room_in(target: Path) -> Iterator[None]:
    """A full disk in the middle of an export, in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise DiskFullError(f"the disk of {target.parent} became full; free some room and export again, which goes on "
                            f"after the last whole part, or choose another folder with --out") from error


@contextmanager
def _only_one(work: Path) -> Iterator[None]:
    """One export at a time writes to a work folder."""
    from filelock import FileLock, Timeout

    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise
        raise CheckpointError(f"cannot make the folder {work} ({error.strerror}); choose another one with --out") \
            from error
    lock = FileLock(work / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise CheckpointError(f"another process is exporting to {work.parent}; wait for it") from error
    try:
        yield
    finally:
        lock.release()


def _prepare(work: Path, identity: dict[str, Any], report: ProgressReport) -> list[str]:
    """Keep what an equal export has finished, else clear everything; names of the parts that were kept."""
    try:
        known = json.loads((work / IDENTITY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none, or cut off while it was written: nothing can be kept
        known = None
    if known != identity:
        for name in ("steps", "bundle", "old"):
            shutil.rmtree(work / name, ignore_errors=True)
        (work / IDENTITY_FILE).write_text(json.dumps(identity), encoding="utf-8")
        return []
    kept = sorted(path.parent.name for path in (work / "steps").glob(f"*/{STEP_FILE}"))
    if kept:
        report.say(f"going on with an interrupted export; done already: {', '.join(kept)}")
    return kept


def _check_room(work: Path, config: OfficialConfig, source: Path, settings: ExportSettings) -> None:
    """Raises DiskFullError before anything is written when the disk cannot hold the rest of the bundle."""
    prompts = has_prompt_graph(config.language, settings.bits, settings.prompts)
    tensors = bundle_bytes(config, settings.bits, settings.block_size, prompts)
    whole = _SPARE * tensors + copied_bytes(source, config)
    done = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    needed, free = round(whole) + _SPARE_BYTES - done, shutil.disk_usage(work).free
    if free < needed:
        raise DiskFullError(f"no room in {work.parent}: the bundle needs {needed / 1e9:.2f} GB more and "
                            f"{free / 1e9:.2f} GB are free; free some, choose another folder with --out, or fewer bits")


def _run(step: Step, work: Path, report: ProgressReport) -> StepReport:
    """Build one part, or find that it is there."""
    folder = work / "steps" / step.name
    done = _done(folder, work / "bundle")
    if done is not None:
        return done
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started, matrices = time.perf_counter(), []
    report.begin(step.name, step.numbers or None)

    def hear(matrix: RoundedMatrix) -> None:
        matrices.append(matrix)
        report.reach(sum(found.shape[0] * found.shape[1] for found in matrices))

    try:
        _build(step, folder, hear)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    report.finish()
    files = describe_files(folder)
    seconds = round(time.perf_counter() - started, 2)
    size = sum(entry.bytes for entry in files.values())
    done = StepReport(step.name, seconds, size, peak_rss_mb(), tuple(matrices))
    record = {"files": {name: dataclasses.asdict(entry) for name, entry in files.items()},
              "report": dataclasses.asdict(done)}
    half = folder / f".{STEP_FILE}"
    half.write_text(json.dumps(record), encoding="utf-8")
    os.replace(half, folder / STEP_FILE)  # the record is the proof that all files before it are whole
    return done


def _build(step: Step, folder: Path, hear: Callable[[RoundedMatrix], None]) -> None:
    from .graphs.builder import hearing_errors

    with hearing_errors(lambda found: hear(RoundedMatrix(found.matrix, found.bits, found.shape,
                                                         found.relative_error))):
        step.build(folder)


def _done(folder: Path, bundle: Path) -> StepReport | None:
    """The record of a part whose files are all there, here or in the bundle already."""
    try:
        record = json.loads((folder / STEP_FILE).read_text(encoding="utf-8"))
        report = StepReport.from_dict(record["report"])
        places = [[place / name for place in (folder, bundle)] for name in record["files"]]
        sizes = [int(entry["bytes"]) for entry in record["files"].values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CheckpointError):
        return None  # no record, or a damaged one: the part is built again
    whole = all(any(path.is_file() and path.stat().st_size == size for path in paths)
                for paths, size in zip(places, sizes, strict=True))
    return report if whole else None


def _finish(work: Path, target: Path, config: OfficialConfig, report: ExportReport, identity: dict[str, Any]) -> None:
    """The parts into one folder, its manifest, and the rename that makes it the bundle."""
    bundle, files = work / "bundle", {}
    bundle.mkdir(exist_ok=True)
    for step in report.steps:
        folder = work / "steps" / step.name
        record = json.loads((folder / STEP_FILE).read_text(encoding="utf-8"))
        for name, entry in record["files"].items():
            files[name] = FileEntry(**entry)
            (bundle / name).parent.mkdir(parents=True, exist_ok=True)
            if (folder / name).is_file():
                os.replace(folder / name, bundle / name)
    for path in report.write(bundle):
        files[path.name] = FileEntry(sha256_of(path), path.stat().st_size)
    settings = {**report.settings, "export": _digest(identity)}
    Bundle(folder=bundle, name=config.name, config=config, settings=settings, files=files, parts={}).write()
    shutil.rmtree(work / "old", ignore_errors=True)
    replace_folder(bundle, target, work / "old")
