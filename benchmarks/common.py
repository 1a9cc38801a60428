"""What the benchmarks share: on which machine, at which commit, when, and how a report is written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minicpm_o.checkpoints.parts import Part

PREFIX_VARIABLE = "MINICPM_O_PREFIX_CACHE_MB"
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, memory, versions, commit and date: what a number means nothing without."""
    import psutil

    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "onnxruntime": metadata.version("onnxruntime"),
    }


def cpu_name() -> str:
    """The processor's own name, with its widest integer instructions where Linux tells them."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = set(fields.get("flags", "").split())
    known = [name for name in ("avx2", "avx512_vnni", "amx_int8") if name in flags]
    return " ".join([fields.get("model name", platform.machine()), *([f"({', '.join(known)})"] if known else [])])


def commit() -> str | None:
    """Short hash of the checkout, with + when files differ; None outside a git checkout."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    name = git("rev-parse", "--short", "HEAD")
    return (name + ("+" if git("status", "--porcelain") else "")) or None


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Write a report whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
        json.dump(report, file, indent=1, ensure_ascii=False)
        file.write("\n")
    Path(file.name).replace(path)


def publish(path: Path, report: dict[str, Any], markdown: str) -> None:
    """The report as JSON at path, as Markdown beside it, and on the terminal."""
    write_json(path, report)
    path.with_suffix(".md").write_text(markdown, encoding="utf-8")
    print(markdown)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is words, the others numbers."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def provenance(report: dict[str, Any]) -> str:
    """One line that says where a report's numbers come from."""
    where = report["machine"]
    return (f"{where['date']}, commit {where['commit'] or 'unknown'}, {where['cpu']}, {where['cores']} cores, "
            f"onnxruntime {where['onnxruntime']}; `{report['command']}`")


def find_gguf() -> Path:
    """The published file of nano's language part: installed, kept in the cache, or fetched now."""
    from minicpm_o.checkpoints.parts import LANGUAGE

    (path,) = find_part_files(LANGUAGE).values()
    return path


def find_part_files(part: Part) -> Mapping[str, Path]:
    """The files of a part of nano, found or fetched."""
    from minicpm_o.checkpoints.progress import ProgressReport
    from minicpm_o.checkpoints.pull import PartStore
    from minicpm_o.checkpoints.storage import default_home, home_lock

    home = default_home()
    with ProgressReport(True) as report:
        store = PartStore(home, None, report)
        if (here := store.find(part)) is not None:  # whole files only, so no other process need be waited for
            return here
        with home_lock(home, report.say):
            return store.get(part)


def fresh_process(words: Sequence[str], *, typed: str = "", **variables: str) -> tuple[dict[str, Any], float]:
    """What a verb of the command line says of itself, and the seconds of its whole process; typed: its stdin."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "minicpm_o", *words, "--json"], capture_output=True, text=True,
                          input=typed, env={**os.environ, **variables})
    process_s = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"minicpm-o {' '.join(words)} failed: {last_words(done.stderr)}")
    return json.loads(done.stdout), process_s


def last_words(text: str) -> str:
    """The line of a fault that says what it is, without the folders of this machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    words = lines[-1].split() if lines else ["no", "word"]
    plain = (word.strip("'\"():,") for word in words)
    return " ".join(Path(bare).name if bare.startswith("/") else word
                    for word, bare in zip(words, plain, strict=True))[:300]
