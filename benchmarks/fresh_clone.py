"""What `make demo` and `make test` cost on a fresh clone: minutes, megabytes over the network, megabytes on disk.

    python benchmarks/fresh_clone.py --out benchmarks/results/fresh_clone.json

Clones the committed tree (or copies the working tree) to a temporary folder with an empty cache of its own, and runs
both there. Downloads are counted at the network interfaces (Linux), so other traffic counts too.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import common

IGNORED = shutil.ignore_patterns(".git", ".venv", "build", "dist", "__pycache__", ".mypy_cache", ".ruff_cache",
                                 ".pytest_cache")


def received_mb() -> float | None:
    """Megabytes received so far on every interface but the loopback; None where the system does not tell."""
    table = Path("/proc/net/dev")
    if not table.is_file():
        return None
    lines = [line.split(":", 1) for line in table.read_text().splitlines() if ":" in line]
    return sum(int(numbers.split()[0]) for name, numbers in lines if name.strip() != "lo") / 1e6


def disk_mb(folder: Path) -> float:
    """Megabytes of a folder's files."""
    return round(sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6, 1)


def run_target(target: str, tree: Path, home: Path) -> dict[str, Any]:
    """Run one make target and say what it cost."""
    environment = os.environ | {"MINICPM_O_HOME": str(home), "PIP_NO_CACHE_DIR": "1", "CI": "true"}
    before, started = received_mb(), time.perf_counter()
    done = subprocess.run(["make", target], cwd=tree, env=environment)
    after = received_mb()
    return {
        "exit_code": done.returncode,
        "minutes": round((time.perf_counter() - started) / 60, 2),
        "download_mb": None if before is None or after is None else round(after - before),
        "environment_mb": disk_mb(tree / ".venv"),
        "cache_mb": disk_mb(home) if home.is_dir() else 0.0,
    }


def measure(scratch: Path, committed: bool) -> dict[str, Any]:
    """demo first, then test, then demo again with everything in place."""
    tree, home = scratch / "clone", scratch / "home"
    if committed:
        subprocess.run(["git", "clone", "--quiet", str(common.ROOT), str(tree)], check=True)
    else:
        shutil.copytree(common.ROOT, tree, ignore=IGNORED)
    runs = {name: run_target(target, tree, home)
            for name, target in (("make demo", "demo"), ("make test", "test"), ("make demo, again", "demo"))}
    return {"name": "fresh_clone", "command": "python benchmarks/fresh_clone.py", "machine": common.machine(),
            "runs": runs}


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    rows = [(f"`{name}`" if "," not in name else name, run["minutes"], run["download_mb"], run["environment_mb"],
             run["cache_mb"]) for name, run in report["runs"].items()]
    head = ("target", "minutes", "MB received", "MB of .venv", "MB of cache")
    return f"{common.table(head, rows)}\n\nIn this order, from a fresh clone. {common.provenance(report)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--working-tree", action="store_true", help="copy the working tree instead of cloning")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "fresh_clone.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(Path(scratch), not args.working_tree)
    common.publish(args.out, report, markdown(report))
    raise SystemExit(max(run["exit_code"] for run in report["runs"].values()))


if __name__ == "__main__":
    main()
