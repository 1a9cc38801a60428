"""`doctor --memory`: what an official model would take of so much memory, before it is here at all."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from ..checkpoints.bundle import Bundle, is_official_bundle
from ..checkpoints.hub import VERSIONS
from ..errors import OptionError
from ..model.config import OfficialConfig
from ..runtime.device import available_memory_bytes
from ..runtime.memory import CONTEXT_TOKENS, Dtype, MemoryPlan, MemoryRequest, for_parts, parse_memory, plan_memory
from ..runtime.opening import exported_request
from .loading import official_config
from .output import report, write

AUTO = "auto"
DEFAULT_BITS = 4


def foresee(model: str, memory: str, *, bits: int | None, dtype: str | None, context: int | None,
            as_json: bool) -> dict[str, Any]:
    """Print the plan. Raises OptionError for options that mean nothing, UnknownModelError for an unknown model."""
    if bits is not None and dtype is not None:
        raise OptionError("--bits is of a bundle and --dtype of torch; give one of them")
    plan = memory_plan(model, memory, bits=bits, dtype=dtype, context=context)
    text = f"{plan.table()}\n{plan.verdict()}"
    if not as_json:
        write(text + "\n")
    return report(text, model=model, fits=plan.fits, total_bytes=plan.total_bytes,
                  available_bytes=plan.available_bytes, lines=[asdict(line) for line in plan.lines],
                  request=asdict(plan.request), nearest=asdict(plan.nearest) if plan.nearest else None)


def memory_plan(model: str, memory: str, *, bits: int | None = None, dtype: str | None = None,
                context: int | None = None) -> MemoryPlan:
    """The plan of a model by name (its released config), or of the checkpoint or bundle in a folder.

    memory: an amount, or "auto" for what this machine has left; bits: None takes a bundle's own, else DEFAULT_BITS;
    dtype: torch instead of a bundle.
    """
    config, request = _config_of(model), _exported(model, bits)
    if dtype is not None:
        if dtype not in get_args(Dtype):
            raise OptionError(f"dtype is {dtype!r}; use one of {', '.join(get_args(Dtype))}")
        request = MemoryRequest(backend="torch", dtype=dtype)  # type: ignore[arg-type]  # one of them, as just seen
    tokens = min(CONTEXT_TOKENS, config.language.context_tokens) if context is None else context
    available = available_memory_bytes() if memory == AUTO else parse_memory(memory)
    return plan_memory(config, for_parts(request, config, tokens), available)


def _exported(model: str, bits: int | None) -> MemoryRequest:
    """The request for a bundle: one that is here has bits and blocks of its own. Raises OptionError for others."""
    folder = Path(model).expanduser()
    if not is_official_bundle(folder):
        return MemoryRequest(bits=DEFAULT_BITS if bits is None else bits)
    request = exported_request(Bundle.open(folder))
    if bits not in (None, request.bits):
        raise OptionError(f"--bits is {bits}, but the bundle in {folder} has {request.bits}; leave it out, or name the "
                          f"checkpoint")
    return request


def _config_of(model: str) -> OfficialConfig:
    config = official_config(model)
    if config is None:
        raise OptionError(f"{model!r} is small enough for any machine; --memory is for {', '.join(VERSIONS)}, their "
                          f"checkpoints and bundles; `minicpm-o doctor` shows the rest")
    return config
