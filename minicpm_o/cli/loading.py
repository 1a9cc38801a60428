"""Which kind of model a name means, seen before anything is loaded, and opening it as the options say."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..api import MiniCPMO
from ..checkpoints.bundle import Bundle
from ..checkpoints.hub import VERSIONS, is_checkpoint, kind_of, official_name
from ..checkpoints.official_config import config_from_official, read_config
from ..errors import OptionError
from ..inputs.templates import OfficialVersion
from ..model.config import OfficialConfig


@dataclass(frozen=True)
class Loading:
    """Which model, and how it is opened; None leaves it to the model."""

    model: str = "nano"
    threads: int | None = None
    device: str | None = None
    dtype: str | None = None
    context: int | None = None
    check_memory: bool = True
    quiet: bool = False
    prefix_cache_mb: float | None = 0.0
    """What beginnings of prompts may take on disk; 0 keeps none, None the usual."""

    def open(self) -> tuple[MiniCPMO, float]:
        """The model and the seconds that opening it took."""
        started = time.perf_counter()
        model = MiniCPMO.from_pretrained(
            self.model, threads=self.threads, progress=not self.quiet, device=self.device, dtype=self.dtype,
            context_tokens=self.context, check_memory=self.check_memory,
            prefix_cache=self.prefix_cache_mb != 0, prefix_cache_mb=self.prefix_cache_mb or None)
        return model, time.perf_counter() - started


def official_config(model: str) -> OfficialConfig | None:
    """The config of an official checkpoint or of a bundle of one; None for nano. Raises CheckpointError.

    Of a name on the hub it is the released one: nothing is fetched.
    """
    kind, folder = kind_of(model), Path(model).expanduser()
    if kind == "checkpoint":
        name = official_name(model)
        if is_checkpoint(folder) or name is None:
            return read_config(folder)
        return config_from_official({"model_type": "minicpmo", "version": VERSIONS[name]})
    config = Bundle.open(folder).config if kind == "bundle" else None
    return config if isinstance(config, OfficialConfig) else None


def version_of(model: str) -> OfficialVersion | None:
    """The version of an official model, None for nano. Raises CheckpointError."""
    config = official_config(model)
    return None if config is None or config.version == "nano" else config.version


def refuse(what: str, given: Mapping[str, bool], instead: str) -> None:
    """Raises OptionError that names the options given that `what` does not heed; instead: what to do."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise OptionError(f"{' and '.join(names)} {'has' if len(names) == 1 else 'have'} no effect {what}; {instead}")
