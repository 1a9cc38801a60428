"""What a user waits for, by `minicpm-o bench`: first word to a photo or a spoken question, first sound, its speed.

    python benchmarks/latency.py --out benchmarks/results/latency.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common


def measure(rounds: int) -> dict[str, Any]:
    """Run the verb in a fresh process and add where it ran."""
    command = [sys.executable, "-m", "minicpm_o", "bench", "--rounds", str(rounds), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"`minicpm-o bench` ended with exit code {done.returncode}")
    return {"name": "latency", "command": f"minicpm-o bench --rounds {rounds}", "machine": common.machine(),
            **json.loads(done.stdout)}


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row a figure: median, and the range when there are several rounds."""
    return [(item["name"], item["unit"], f"{item['median']:.3g}", f"{item['min']:.3g} … {item['max']:.3g}")
            for item in report["measures"]]


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    return f"{common.table(('measured', 'unit', 'median', 'range'), rows(report))}\n\n{common.provenance(report)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "latency.json")
    args = parser.parse_args()
    report = measure(args.rounds)
    common.publish(args.out, report, markdown(report))


if __name__ == "__main__":
    main()
