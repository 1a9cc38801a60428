"""A model's name to its parts, opened: nano, an exported bundle, or an official checkpoint that torch runs.

The plan of memory comes first: what does not fit is refused before anything is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ..checkpoints.bundle import PROMPTS_FILE, Bundle
from ..checkpoints.hub import kind_of, resolve, snapshot
from ..errors import CheckpointError, MissingExtraError, OptionError
from ..model.config import OfficialConfig
from .device import plan_device
from .memory import CONTEXT_TOKENS, DTYPE_BYTES, MemoryRequest, check_memory, for_parts
from .official_parts import BundleNetworks, OfficialParts
from .parts import Parts

if TYPE_CHECKING:
    from ..checkpoints.official import Checkpoint


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; what a kind of model does not heed must be left alone."""

    threads: int | None = None
    """None takes the cores given to this process."""
    progress: bool = True
    """A bar on stderr while nano is assembled or a checkpoint is fetched."""
    parts: Mapping[str, str | os.PathLike[str]] | None = None
    """Parts of nano at paths of the user."""
    device: str | None = None
    """Of a checkpoint: "cpu", "cuda", "cuda:1", "mps", or "auto" for the best there is; None is the CPU."""
    dtype: str | None = None
    """Of a checkpoint's weights: "float32", "bfloat16" or "float16"; None is what it says."""
    attention: str = "sdpa"
    """Of a checkpoint: transformers' name of the attention, "sdpa", "eager" or "flash_attention_2"."""
    vision: bool = True
    hearing: bool = True
    speech: bool = True
    """Parts of a checkpoint; what is left out takes no memory."""
    context_tokens: int | None = None
    """Tokens of conversation that the plan of memory reckons with."""
    check_memory: bool = True
    """Refuse what does not fit, with the plan; off to try all the same."""

    def __post_init__(self) -> None:
        if self.dtype not in (None, *DTYPE_BYTES):
            raise OptionError(f"dtype is {self.dtype!r}; expected one of {', '.join(DTYPE_BYTES)}")

    @classmethod
    def names(cls) -> set[str]:
        """What a caller may give beside threads, progress and parts."""
        return {field.name for field in fields(cls)} - {"threads", "progress", "parts"}

    def unheeded(self, *, heeded: tuple[str, ...]) -> list[str]:
        """Options that were given and would have no effect."""
        return [field.name for field in fields(self) if field.name not in heeded
                and getattr(self, field.name) != field.default]


def open_parts(name_or_path: str | os.PathLike[str], options: LoadOptions | None = None) -> Parts | OfficialParts:
    """Open what the name means. Raises CheckpointError, MemoryPlanError or OptionError, each with what to do."""
    options = options or LoadOptions()
    kind = kind_of(name_or_path)
    if kind == "checkpoint":
        _refuse(options, "an official checkpoint", ("threads", "progress", "device", "dtype", "attention", "vision",
                                                    "hearing", "speech", "context_tokens", "check_memory"))
        return _open_checkpoint(name_or_path, options)
    bundle = Bundle.open(resolve(name_or_path, parts=options.parts, progress=options.progress))
    if isinstance(bundle.config, OfficialConfig):
        _refuse(options, "an exported bundle", ("threads", "progress", "context_tokens", "check_memory"))
        return _open_exported(bundle, options)
    _refuse(options, "nano", ("threads", "progress", "parts"))
    return Parts(bundle, plan_device(bundle, threads=options.threads))


def _refuse(options: LoadOptions, what: str, heeded: tuple[str, ...]) -> None:
    if unheeded := options.unheeded(heeded=heeded):
        raise OptionError(f"{', '.join(unheeded)} has no effect on {what}; leave it out (it heeds {', '.join(heeded)})")


def _open_exported(bundle: Bundle, options: LoadOptions) -> OfficialParts:
    config = bundle.config
    assert isinstance(config, OfficialConfig)
    plan = plan_device(threads=options.threads)
    if options.check_memory:
        check_memory(config, for_parts(exported_request(bundle), config, _context(config, options)))
    bundle.require_whole()
    return OfficialParts(BundleNetworks(bundle, plan))


def exported_request(bundle: Bundle) -> MemoryRequest:
    """The numbers that a bundle was exported in. Raises CheckpointError when its record of them is damaged."""
    bits, block_size = bundle.settings.get("bits"), bundle.settings.get("block_size", 32)
    if type(block_size) is not int or block_size < 1:
        raise CheckpointError(f"the manifest of {bundle.folder} is damaged: block_size is {block_size!r}; "
                              f"{bundle.mending}")
    return MemoryRequest(bits=bits, block_size=block_size, prompts=bundle.has(PROMPTS_FILE))


def _open_checkpoint(name_or_path: str | os.PathLike[str], options: LoadOptions) -> OfficialParts:
    from ..checkpoints.official import Checkpoint

    folder = snapshot(name_or_path, progress=options.progress)
    checkpoint = Checkpoint.open(folder, vision=options.vision, hearing=options.hearing, speech=options.speech)
    try:
        from .torch_parts import open_checkpoint
    except ImportError as error:
        raise MissingExtraError(f"running a checkpoint needs torch and transformers ({error}); "
                                f"pip install 'minicpm-o[torch]', or make a bundle that needs neither: "
                                f"minicpm-o export {os.fspath(name_or_path)} --bits 4") from error
    if options.check_memory and options.device in (None, "cpu"):
        check_memory(checkpoint.config, _request(checkpoint, options))
    return open_checkpoint(checkpoint, plan_device(threads=options.threads), device=options.device,
                           dtype=options.dtype, attention=options.attention, check_memory=options.check_memory)


def _request(checkpoint: Checkpoint, options: LoadOptions) -> MemoryRequest:
    """What torch will take; the loader checks accelerators itself, where it knows what is free there."""
    from ..checkpoints.torch_loader import stored_dtype

    dtype = options.dtype or str(stored_dtype(checkpoint)).removeprefix("torch.")
    request = MemoryRequest(backend="torch", bits=None, dtype=dtype)  # type: ignore[arg-type]  # one of them, as checked
    return for_parts(request, checkpoint.config, _context(checkpoint.config, options))


def _context(config: OfficialConfig, options: LoadOptions) -> int:
    """Tokens that the plan reckons with: a short conversation, unless told otherwise."""
    return min(options.context_tokens or CONTEXT_TOKENS, config.language.context_tokens)
