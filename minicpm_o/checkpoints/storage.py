"""Files on disk, all or nothing: hashes, atomic writes, one lock, and clear words when the disk refuses.

Knows nothing of models.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError, DiskFullError

CHUNK_BYTES = 1 << 20
HOME_VARIABLE = "MINICPM_O_HOME"
WORK_PREFIX = ".work-"
"""Begins the names of what is half-written."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""Codes by which a system says that there is no room."""
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def default_home() -> Path:
    """Where models are kept: the variable MINICPM_O_HOME, else the platform's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get(HOME_VARIABLE, "")
    return Path(chosen).expanduser().absolute() if chosen else user_cache_path("minicpm-o")


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(
    path: Path,
    chunks: Iterable[bytes | memoryview],
    check: Callable[[str, int], None] = lambda sha256, num_bytes: None,
    mode: int = 0o666,
) -> None:
    """Write the chunks to a file that appears complete or not at all.

    `check` hears the sha256 and the size before the file appears, and may raise to keep it from appearing. mode: who
    may read and write it, less what the process's umask takes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, half = hashlib.sha256(), path.with_name(f"{WORK_PREFIX}{uuid.uuid4().hex[:8]}-{path.name}")
    try:
        with open(half, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())  # a rename must not outlive a crash that the contents did not
        check(digest.hexdigest(), half.stat().st_size)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns the operating system's refusals inside the block into DiskFullError or CheckpointError."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise disk_full(folder) from error
        if error.errno in _REFUSED:
            raise CheckpointError(
                f"cannot write to {folder} ({error.strerror}); set {HOME_VARIABLE} to a folder that you may write to"
            ) from error
        raise


def disk_full(folder: Path, needed_bytes: int | None = None) -> DiskFullError:
    """The error to raise when there is no room; names what is free and, if known, what is needed."""
    free_mb = shutil.disk_usage(_existing(folder)).free / 1e6
    needed = "" if needed_bytes is None else f", {needed_bytes / 1e6:.0f} MB are needed"
    return DiskFullError(
        f"no room to write in {folder} ({free_mb:.0f} MB are free{needed}); "
        f"free some, or set {HOME_VARIABLE} to a folder on another disk"
    )


def check_room(folder: Path, needed_bytes: int) -> None:
    """Raises DiskFullError before anything is written when the disk cannot hold it."""
    if shutil.disk_usage(_existing(folder)).free < needed_bytes:
        raise disk_full(folder, needed_bytes)


@contextmanager
def home_lock(home: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """One process at a time writes under `home`; a second one says so and waits.

    Whoever gets the lock first clears what a killed process left half-written.
    """
    from filelock import FileLock, Timeout

    with writing_to(home):
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is writing to {home}; waiting for it")
            lock.acquire()
    try:
        _clear_half_written(home)
        yield
    finally:
        lock.release()


@contextmanager
def work_folder(home: Path) -> Iterator[Path]:
    """An empty folder under `home` that is gone afterwards. The caller holds the home's lock."""
    folder = home / f"{WORK_PREFIX}{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(source: Path, target: Path, aside: Path) -> None:
    """Move a finished folder into place; whatever was there goes to `aside`, which the caller throws away."""
    if target.exists():
        os.replace(target, aside)
    os.replace(source, target)


def _existing(folder: Path) -> Path:
    return next((place for place in (folder, *folder.parents) if place.exists()), Path.cwd())


def _clear_half_written(home: Path) -> None:
    for stale in [*home.glob(f"{WORK_PREFIX}*"), *(home / "parts").rglob(f"{WORK_PREFIX}*")]:
        if stale.is_dir():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.unlink(missing_ok=True)
