"""Sources mixed in fixed shares: every micro-batch of every step and rank is composed alike.

Which example stands in a slot follows from seed, step and slot, whatever the number of ranks and whatever was broken
before: two ranks draw together what one would have drawn, and a run that goes on draws what it would have drawn.
Source: MiniCPM-o 4.5's report, section 4: combinations of modalities pinned to ranks, so that every step has one ratio.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from ...checkpoints.storage import default_home
from ...errors import InputError, OptionError
from ..counted import Counted
from ..examples import Example
from ..feeds import NAMED_SKIPS
from ..prepare.work import draws
from ..pretrain_feed import loaded
from .augment import augment
from .sources import Source, open_source
from .spoken import SpeechCache, spoken

_LOG = logging.getLogger("minicpm_o")
_TRIES = 20
"""Rows that are tried for one slot before the source is given up."""
_NOTICED = 0.25
"""A share that rounding changes by more than this part of itself is told of."""
_WATCHED = 200
"""Draws of a source over which its broken share is taken."""


class SourceConfig(BaseModel, frozen=True, extra="forbid"):
    """One source and its share."""

    name: str
    kind: Literal["jsonl", "folder", "shards", "hf", "made"]
    path: str
    """File, folder, pattern of tars, data set; for `made` what is drawn: shapes, captions, pairs, charts,
    reading, beeps."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the samples, among all weights."""
    task: str | None = None
    """What the log calls its samples, in place of their own."""
    augment: bool = False
    """Change pictures and sounds anew at every draw."""
    spoken: Literal["flite", "kokoro"] | None = None
    """Have what users typed spoken by this voice."""
    size: int = Field(default=10_000, ge=1)
    """Of a made source."""


class MixtureConfig(BaseModel, frozen=True, extra="forbid"):
    """All sources of a run."""

    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    on_error: Literal["skip", "stop"] = "skip"
    """A broken row is replaced by another of its source, named and counted; or it ends the run."""
    max_broken_share: float = Field(default=0.05, ge=0, le=1)
    """Of a source's last 200 rows; more end the run."""

    @model_validator(mode="after")
    def _named_apart(self) -> MixtureConfig:
        twice = [name for name, count in Counter(source.name for source in self.sources).items() if count > 1]
        if twice:
            raise ValueError(f"two sources are called {twice[0]!r}; names must differ")
        return self


class Mixture(Counted):
    """Draws micro-batches of examples; counts those that this rank drew, and those that were broken, by source."""

    def __init__(self, config: MixtureConfig, seed: int = 0, rank: int = 0, world_size: int = 1, *,
                 batch_size: int = 8, micro_batch_size: int = 8, folder: Path | None = None) -> None:
        """batch_size: of all ranks; micro_batch_size: of one. folder: what relative paths start from; None: here.

        Raises OptionError for a mixture that cannot be met, InputError for a source that cannot be opened.
        """
        super().__init__()
        self.config, self.seed, self.rank, self.world_size = config, seed, rank, world_size
        whole = micro_batch_size * world_size
        if batch_size % whole:
            raise OptionError(f"run.batch_size is {batch_size}, and {world_size} ranks with run.micro_batch_size "
                              f"{micro_batch_size} compute {whole} at once; make it a multiple of {whole}")
        self.accumulate = batch_size // whole
        self.slots = slots_of(config.sources, whole, world_size)
        self.sources = {item.name: _open(item, folder) for item in config.sources}
        self._recent: dict[str, deque[bool]] = {name: deque(maxlen=_WATCHED) for name in self.sources}
        self._speech: dict[str, SpeechCache] = {}

    def draw(self, step: int) -> list[list[Example]]:
        """This rank's examples of the step, by micro-batch."""
        return [list(self._micro(step * self.accumulate + number)) for number in range(self.accumulate)]

    def _micro(self, number: int) -> Iterator[Example]:
        for config in self.config.sources:
            slots = self.slots[config.name]
            own = slots // self.world_size
            for slot in range(self.rank * own, (self.rank + 1) * own):
                yield self._one(config, number * slots + slot)

    def _one(self, config: SourceConfig, count: int) -> Example:
        """The count-th sample of a source; where it is broken, others whose numbers follow from the count."""
        source = self.sources[config.name]
        for attempt in range(_TRIES):
            try:
                example = self._prepared(config, source, count, attempt)
            except InputError as error:
                self._broken(config, error)
                continue
            self._counts[config.name] += 1
            self._recent[config.name].append(False)
            return example
        raise InputError(f"source {config.name!r}: {_TRIES} rows in a row were broken; look at it with `minicpm-o data "
                         f"inspect`")

    def _prepared(self, config: SourceConfig, source: Source, count: int, attempt: int) -> Example:
        rng = draws(self.seed, config.name, "sample", count, attempt)
        found = source.draw(self.seed, count) if attempt == 0 else source.example(int(rng.integers(len(source))))
        if config.spoken:
            found = spoken(found, self._voice(config.spoken), take=count % 7)
        found = loaded(found)
        found = augment(found, rng) if config.augment else found
        return replace(found, name=f"{config.name}/{count}: {found.name}")

    def _voice(self, voice: str) -> SpeechCache:
        return self._speech.setdefault(voice, SpeechCache(default_home() / "training" / "spoken", voice))

    def _broken(self, config: SourceConfig, error: InputError) -> None:
        if self.config.on_error == "stop":
            raise InputError(f"source {config.name!r} has a broken row, and data.on_error is stop: {error}") from error
        name = f"broken {config.name}"
        self._counts[name] += 1
        if self._counts[name] <= NAMED_SKIPS:
            _LOG.warning("source %s: left out a row: %s", config.name, error)
        recent = self._recent[config.name]
        recent.append(True)
        if len(recent) >= 20 and sum(recent) > self.config.max_broken_share * len(recent):
            raise InputError(f"source {config.name!r}: {sum(recent)} of its last {len(recent)} rows were broken, more "
                             f"than data.max_broken_share = {self.config.max_broken_share:g}; the last: {error}"
                             ) from error


def slots_of(sources: Sequence[SourceConfig], size: int, ranks: int) -> dict[str, int]:
    """How many of the `size` samples of a micro-batch over all ranks each source gives, by largest remainder.

    Raises OptionError when a source would give none, or its samples cannot be shared evenly by the ranks.
    """
    whole = sum(source.weight for source in sources)
    shares = {source.name: source.weight / whole * size / ranks for source in sources}  # of one rank
    slots = {name: int(share) for name, share in shares.items()}
    missing = round(size / ranks) - sum(slots.values())
    for name in sorted(shares, key=lambda name: (slots[name] - shares[name], name))[:missing]:
        slots[name] += 1
    empty = [name for name, count in slots.items() if not count]
    if empty:
        least = min(source.weight for source in sources)
        share, enough = shares[empty[0]] * ranks / size, max(len(sources), round(whole / least))
        raise OptionError(f"source {empty[0]!r} has a share of {share:.3f}, which is no whole sample of the "
                          f"{size // ranks} that a rank computes at once; raise its weight, or set "
                          f"run.micro_batch_size to {enough} or more")
    drawn = {name: count * ranks / size for name, count in slots.items()}
    wanted = {source.name: source.weight / whole for source in sources}
    if any(abs(drawn[name] / wanted[name] - 1) > _NOTICED for name in wanted):
        told = ", ".join(f"{name} {share:.2f} (wanted {wanted[name]:.2f})" for name, share in drawn.items())
        _LOG.warning("shares become %s, as whole samples of %d are drawn; raise run.micro_batch_size to come nearer",
                     told, size)
    return {name: count * ranks for name, count in slots.items()}


def _open(config: SourceConfig, folder: Path | None) -> Source:
    path = config.path
    if folder is not None and config.kind != "made" and not Path(path).expanduser().is_absolute() and (
            config.kind != "hf" or (folder / path).exists()):
        path = str(folder / path)
    return open_source(config.kind, config.name, path, config.task, config.size)
