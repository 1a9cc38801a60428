"""An evaluation by one process and by two workers of Ray on the same cores: the same report, and how long each took.

    python benchmarks/eval_ray.py --data DIR [--limit 100] [--task NAME ...]

Wall time of the whole command each, starting Python, Ray and the models included. Every worker computes on one thread,
and so does the process that its report must equal: on more threads sums are rounded otherwise and some answers differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common

NAME = "ray_evaluation"


def run(data: Path, out: Path, more: list[str]) -> tuple[float, dict[str, Any], dict[str, str]]:
    """Seconds, report, and answers by task and item."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "minicpm_o", "eval", "all", "--no-blind"]
    subprocess.run([*command, "--data", str(data), "--report", str(out), *more], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begun
    lines = (out / "report.answers.jsonl").read_text(encoding="utf-8").splitlines()
    answers = {f"{row['task']} {row['id']}": row["answer"] for row in map(json.loads, lines)}
    return seconds, json.loads((out / "report.json").read_text(encoding="utf-8")), answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--task", action="append", default=[])
    options = parser.parse_args()
    chosen = ["--limit", str(options.limit), *(word for name in options.task for word in ("--task", name))]
    with tempfile.TemporaryDirectory() as folder:
        workers = str(options.workers)
        one_s, one, alone = run(options.data, Path(folder) / "one", [*chosen, "--threads", "1"])
        all_s, _, threaded = run(options.data, Path(folder) / "all", [*chosen, "--threads", workers])
        by_ray = [*chosen, "--threads", workers, "--ray", workers]
        many_s, many, spread = run(options.data, Path(folder) / "many", by_ray)
    scores = [{line["name"]: line["metrics"] for line in report["tasks"]} for report in (one, many)]
    report = {"machine": common.machine(), "command": "python benchmarks/eval_ray.py --data DIR", "items": len(alone),
              "workers": options.workers, "one_thread_s": round(one_s, 1), "all_threads_s": round(all_s, 1),
              "ray_s": round(many_s, 1), "other_with_threads": sum(alone[name] != threaded[name] for name in alone),
              "same_answers": alone == spread, "same_scores": scores[0] == scores[1]}
    common.publish(common.RESULTS / f"{NAME}.json", report, text(report))


def text(report: dict[str, Any]) -> str:
    count = report["workers"]
    rows = [("one process, one thread", report["one_thread_s"]),
            (f"one process, {count} threads", report["all_threads_s"]),
            (f"{count} workers of Ray, one thread each", report["ray_s"])]
    told = "the same" if report["same_answers"] and report["same_scores"] else "NOT the same"
    return (f"{common.table(['evaluation by', 'seconds'], rows)}\n\n{report['items']} items. The workers give {told} "
            f"answers and scores as one process on one thread; {report['other_with_threads']} answers differ on "
            f"{count} threads. {common.provenance(report)}\n")


if __name__ == "__main__":
    main()
