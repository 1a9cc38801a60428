"""Beginnings of prompts on disk, so that a new process neither encodes the same picture nor reads the same system
prompt again.

An entry holds the keys of its tokens (`conversation.prompt_keys`) and what the KV cache holds for them, as float32: an
answer is bit by bit the one without the store. What the last tokens of a prompt give is never kept, and at least
`conversation.MIN_RUN_TOKENS` of them are read each time. Of a prompt are kept, see `stops`:

    <|im_start|>system ... <|im_end|>                        a system prompt of MIN_SYSTEM_TOKENS or more
    ... <|im_start|>user <image>P P ... P                    up to the end of the first message's media that has any

    FOLDER/MODEL/LENGTH-DIGEST.safetensors       keys (T,) int64, checksum (16,), "0", "1", ... (1, KV heads, T, K)

MODEL is made of all that the numbers depend on: the model's files, the releases of this package and of onnxruntime,
threads and processor. DIGEST is one of the keys, so the names alone are the index. An entry can be read by whoever may
read the user's files, and something of the pictures can be seen in it: files have mode 0600 in folders of mode 0700.
Caches that are no `KVCache` (torch) are left alone. Safe with several threads and processes. Letters: T tokens of an
entry, K head width.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from .. import __version__
from ..checkpoints.safetensors_file import Pending, SafetensorsFile, file_blocks, pending_array
from ..checkpoints.storage import WORK_PREFIX, check_room, default_home, write_atomic, writing_to
from ..errors import CheckpointError, OptionError
from ..inputs.processor import ModelInputs
from .cache import CacheSlice, KVCache
from .conversation import Conversation, content_digest
from .device import DevicePlan, processor_kind

LIMIT_MB = 256.0
"""What all entries of a folder may take together; those used longest ago go first."""
SPARE_MB = 1024.0
"""Room that is left on the disk: where there is less, nothing is kept."""
MIN_SYSTEM_TOKENS = 64
"""Shortest system prompt that is kept: a shorter one is read about as quickly as its entry."""
FORMAT = 1
FOLDER = "prefixes"
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
STALE_S = 3600.0
"""A file that is half-written for so long was left by a process that was killed."""
Place: TypeAlias = "str | os.PathLike[str] | bool | None"
"""Where prefixes are kept: a folder, True for the usual one; False and None for nowhere."""
_MODEL = re.compile(r"[0-9a-f]{32}")
_ENTRY = re.compile(r"(\d+)-[0-9a-f]{32}\.safetensors")


class Model(Protocol):
    """What a store asks of a model's parts."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def plan(self) -> DevicePlan: ...

    @property
    def tokenizer(self) -> Any: ...


@dataclass(frozen=True)
class Kept:
    """One entry as the folder shows it."""

    path: Path
    bytes: int
    used_ns: int
    """When it was written or used last."""


class PrefixStore:
    """The entries of one model in a folder that several models share."""

    def __init__(self, folder: Path, model: Model, limit_mb: float = LIMIT_MB) -> None:
        """Writes nothing yet. Raises OptionError for a limit that holds nothing."""
        if limit_mb <= 0:
            raise OptionError(f"the prefix cache has a limit of {limit_mb:g} MB; it must be above 0")
        self.folder = folder
        self.limit_mb = limit_mb
        self._model = model
        self._told: set[str] = set()

    @cached_property
    def entries(self) -> Path:
        """Folder of this model's entries."""
        return self.folder / model_digest(self._model)

    def fill(self, conversation: Conversation, keys: np.ndarray) -> None:
        """Put the longest entry that keys (T,) begin with into the conversation, if it holds less of them itself.

        A damaged entry is removed with a warning, and the next one tried.
        """
        if not isinstance(conversation.cache, KVCache):
            return
        for path, length in self._candidates(keys, conversation.num_shared(keys)):
            piece = self._read(path, keys[:length], conversation.cache)
            if piece is None:
                continue
            conversation.cache.truncate(0)
            conversation.cache.paste(piece, rope_theta=1.0)  # to where they were: nothing is turned
            conversation.keys = keys[:length]
            _touch(path)
            return

    def keep(self, conversation: Conversation, inputs: ModelInputs) -> None:
        """Write what is worth it of a prompt that was read; whatever keeps it from that is told once, as a warning."""
        if not isinstance(conversation.cache, KVCache):
            return
        held = min(len(conversation.keys), conversation.cache.length)
        wanted = [stop for stop in stops(inputs, self._model.tokenizer) if stop <= held]
        written = [self._keep(conversation.cache, conversation.keys[:stop]) for stop in wanted]
        if any(written):
            tidy(self.folder, self.limit_mb)

    def _candidates(self, keys: np.ndarray, num_shared: int) -> Iterator[tuple[Path, int]]:
        """Entries that keys begin with, by their names, the longest first; none that brings nothing new."""
        try:
            names = set(os.listdir(self.entries))
        except OSError:  # nothing kept yet, or nothing that may be looked at
            return
        lengths = {int(found[1]) for name in names if (found := _ENTRY.fullmatch(name))}
        for length in sorted(lengths, reverse=True):
            if num_shared < length <= len(keys) and (name := entry_name(keys[:length])) in names:
                yield self.entries / name, length

    def _read(self, path: Path, keys: np.ndarray, cache: KVCache) -> CacheSlice | None:
        """What an entry holds of these keys; None when it is gone or cannot be used."""
        try:
            return _read_entry(path, keys, cache)
        except CheckpointError as error:
            if path.exists():  # else another process has removed it
                with contextlib.suppress(OSError):
                    path.unlink()
                warnings.warn(f"a kept prefix was damaged and is removed: {error}", stacklevel=4)
        except OSError as error:
            self._tell("read", f"prefixes in {self.entries} cannot be read ({error.strerror}); prompts are read anew")
        return None

    def _keep(self, cache: KVCache, keys: np.ndarray) -> bool:
        """Whether an entry was written; one that is there is only marked as used."""
        path = self.entries / entry_name(keys)
        if _touch(path):
            return False
        num_bytes = cache.nbytes // cache.capacity * len(keys)
        if num_bytes > self.limit_mb * 1e6:
            self._tell("large", f"a prefix of {len(keys)} tokens takes {num_bytes / 1e6:.0f} MB and is not kept: the "
                                f"limit of the prefix cache is {self.limit_mb:g} MB; raise it to have it kept")
            return False
        try:
            with writing_to(self.folder):
                check_room(self.folder, num_bytes + int(SPARE_MB * 1e6))
                for folder in (self.folder, self.entries):
                    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
                write_atomic(path, file_blocks(_tensors(cache.cut(0, len(keys)), keys)), mode=PRIVATE_FILE)
        except (CheckpointError, OSError) as error:
            self._tell("write", f"prefixes are not kept, which changes no answer: {error}")
            return False
        return True

    def _tell(self, what: str, text: str) -> None:
        """Warn of something once."""
        if what not in self._told:
            self._told.add(what)
            warnings.warn(text, stacklevel=4)


def open_store(place: Place, model: Model, limit_mb: float | None = None) -> PrefixStore | None:
    """The store that an option asks for: True is the usual folder, False and None are none.

    Raises OptionError for a limit of no store, or one that holds nothing.
    """
    if place is None or place is False:
        if limit_mb is not None:
            raise OptionError(f"prefix_cache_mb is {limit_mb:g}, but no prefixes are kept; set prefix_cache too")
        return None
    folder = default_folder() if place is True else Path(place).expanduser()
    return PrefixStore(folder, model, LIMIT_MB if limit_mb is None else limit_mb)


def default_folder() -> Path:
    """Where prefixes are kept when nobody says otherwise: beside the models."""
    return default_home() / FOLDER


def model_digest(model: Model) -> str:
    """Name of all that the numbers in an entry depend on."""
    import onnxruntime

    plan = model.plan
    told = (FORMAT, model.fingerprint, __version__, onnxruntime.__version__, plan.threads, plan.provider,
            processor_kind())
    return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()


def entry_name(keys: np.ndarray) -> str:
    """File name of the entry of keys (T,)."""
    return f"{len(keys)}-{content_digest(keys).hex()}.safetensors"


def stops(inputs: ModelInputs, tokenizer: Any) -> list[int]:
    """After how many tokens of a prompt its kept beginnings end, the shorter first.

    Behind a system message of MIN_SYSTEM_TOKENS or more, and behind the media of the first message that has any: they
    are what later prompts begin with too. Media of later messages are not kept, or every turn would write the whole
    conversation once more.
    """
    special, ids = tokenizer.special, np.asarray(inputs.ids)
    ends = [*np.flatnonzero(ids == special.im_end).tolist(), len(ids)]
    opening = [special.im_start, *tokenizer.encode("system")]
    is_system = ids[: len(opening)].tolist() == opening
    system = ends[0] + 1 if is_system and MIN_SYSTEM_TOKENS <= ends[0] + 1 <= len(ids) else 0
    spans = sorted(span for media in inputs.media for span in media.spans)
    end = next((end for end in ends if spans and end > spans[0].start), 0)
    media = max((span.stop for span in spans if span.stop <= end), default=0)
    return sorted({stop for stop in (system, media) if stop and stop >= system})


def kept(folder: Path) -> list[Kept]:
    """All entries of a folder, those used longest ago first. Files of other names are none of them."""
    found = []
    for path in folder.glob("*/*.safetensors"):
        if _MODEL.fullmatch(path.parent.name) and _ENTRY.fullmatch(path.name):
            with contextlib.suppress(OSError):  # gone meanwhile
                status = path.stat()
                found.append(Kept(path, status.st_size, status.st_mtime_ns))
    return sorted(found, key=lambda entry: entry.used_ns)


def tidy(folder: Path, limit_mb: float) -> None:
    """Remove the entries used longest ago until the rest keeps the limit, and what killed processes half wrote."""
    entries = kept(folder)
    excess = sum(entry.bytes for entry in entries) - limit_mb * 1e6
    for entry in entries:
        if excess <= 0:
            break
        _remove(entry.path)
        excess -= entry.bytes
    for path in _half_written(folder):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()


def clear(folder: Path) -> list[Kept]:
    """Remove all entries of all models, and nothing else; returns what was removed."""
    entries = kept(folder)
    for path in (*(entry.path for entry in entries), *_half_written(folder)):
        _remove(path)
    for place in (*{entry.path.parent for entry in entries}, folder):
        with contextlib.suppress(OSError):  # something else lies in it, or it is not there
            place.rmdir()
    return [entry for entry in entries if not entry.path.exists()]


def _half_written(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"*/{WORK_PREFIX}*.safetensors") if _MODEL.fullmatch(path.parent.name)]


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or another process holds it open
        path.unlink()


def _touch(path: Path) -> bool:
    """Mark an entry as used now; whether it is there."""
    try:
        os.utime(path)
    except OSError:
        return path.exists()
    return True


def _tensors(piece: CacheSlice, keys: np.ndarray) -> list[Pending]:
    """An entry's tensors in the order of the file."""
    checksum = np.frombuffer(content_digest(keys, *piece.arrays), np.uint8)
    arrays = {"keys": keys, "checksum": checksum, **{str(i): array for i, array in enumerate(piece.arrays)}}
    return [pending_array(name, array) for name, array in arrays.items()]


def _read_entry(path: Path, keys: np.ndarray, cache: KVCache) -> CacheSlice:
    """Raises CheckpointError when the file is missing, damaged, or not the entry of keys for such a cache."""
    file = SafetensorsFile(path)
    heads, _, width = cache.arrays[0].shape[1:]
    shapes: dict[str, tuple[str, tuple[int, ...]]] = {"keys": ("I64", keys.shape), "checksum": ("U8", (16,))}
    shapes |= {str(i): ("F32", (1, heads, len(keys), width)) for i in range(len(cache.arrays))}
    if {name: (info.dtype, info.shape) for name, info in file.infos.items()} != shapes:
        raise CheckpointError(f"{path} holds other tensors than a prefix of {len(keys)} tokens of this model")
    arrays = [file.raw(str(i)) for i in range(len(cache.arrays))]
    if not np.array_equal(file.raw("keys"), keys):
        raise CheckpointError(f"{path} holds the prefix of another prompt")
    if file.raw("checksum").tobytes() != content_digest(keys, *arrays):
        raise CheckpointError(f"{path} has not the numbers that were written")
    return CacheSlice(arrays, 0)
