"""`bench`: the figures of `evaluation.speed` as a table or JSON."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ..api import MiniCPMO
from ..checkpoints.parts import LANGUAGE
from ..checkpoints.progress import ProgressReport
from ..checkpoints.pull import PartStore
from ..checkpoints.storage import default_home, home_lock
from ..errors import MissingExtraError, OptionError
from ..evaluation.speed import Measure, has_llama_cpp, measure
from ..runtime.timing import Timing, peak_rss_mb
from .loading import version_of
from .output import report, say, write

BUSY_SHARE = 0.5
"""Load before measuring, as a share of the threads, above which a warning is given."""


def bench_model(image: str | None, audio: str | None, rounds: int, gguf: Path | None, *, model: str,
                threads: int | None, as_json: bool) -> dict[str, Any]:
    """Measure and print each figure as it is ready. Raises OptionError for an official model."""
    if version := version_of(model):
        raise OptionError(f"bench measures nano; for MiniCPM-o {version} there is "
                          f"`python benchmarks/official_full_size.py --version {version}`")
    if gguf and not has_llama_cpp():
        raise MissingExtraError('racing llama.cpp needs llama-cpp-python; pip install "minicpm-o[bench]"')
    started = time.perf_counter()
    opened = MiniCPMO.from_pretrained(model, threads=threads)
    opened_s = time.perf_counter() - started
    say(f"{opened.name}, {opened.plan.threads} threads, {opened.plan.provider}, {rounds} rounds each")
    load = _load_average()
    if load and load > BUSY_SHARE * opened.plan.threads:
        say(f"warning: the machine is busy (load {load:.1f}); these are the figures of a busy machine")
    measures = []
    for item in measure(opened, model_name=model, image=image, audio=audio, rounds=rounds,
                        gguf=gguf or _own_gguf(), say=lambda text: say(f"measuring {text}")):
        measures.append(item)
        if not as_json:
            write(_line(item) + "\n")
    timing = Timing(opened_s + opened.parts.load_s, None, None, time.perf_counter() - started, peak_rss_mb())
    return report("\n".join(map(_line, measures)), model=opened.name, timing=timing, threads=opened.plan.threads,
                  provider=opened.plan.provider, rounds=rounds, load_average=load,
                  measures=[item.to_dict() for item in measures])


def _load_average() -> float | None:
    """Processes that wanted a CPU during the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _own_gguf() -> Path | None:
    """The weights that nano was made of, if they are still here and somebody can race with them."""
    if not has_llama_cpp():
        return None
    home = default_home()
    with home_lock(home, say):
        found = PartStore(home, None, ProgressReport(False)).find(LANGUAGE)
    return next(iter(found.values())) if found else None


def _line(item: Measure) -> str:
    spread = f"[{min(item.values):.3g} .. {max(item.values):.3g}]" if len(item.values) > 1 else ""
    return f"{item.name:42} {item.median:9.3g} {item.unit:9} {spread:18} {item.note}".rstrip()
