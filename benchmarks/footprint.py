"""Memory, disk and start-up: what `describe` holds at most, what nano weighs, what the base install brings.

    python benchmarks/footprint.py --out benchmarks/results/footprint.json

Every run is a fresh process through the command line, as a user starts it.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import common

RUN_COLUMNS = ("run", "peak MB", "load s", "first word s", "whole process s")
SAMPLES = common.ROOT / "minicpm_o" / "assets" / "samples"


def verbs(scratch: Path) -> dict[str, list[str]]:
    """The runs that are measured."""
    photo, speech = str(SAMPLES / "photo.jpg"), str(SAMPLES / "speech.wav")
    return {
        "describe": ["describe", photo],
        "ask --audio": ["ask", "--audio", speech],
        "transcribe": ["transcribe", speech],
        "speak": ["speak", "Paris is the capital of France.", "--output", str(scratch / "speech.wav")],
    }


def run_verb(words: list[str], rounds: int) -> dict[str, Any]:
    """Peak memory (largest) and times (medians) over fresh processes."""
    replies, walls = [], []
    for _ in range(rounds):
        reply, process_s = common.fresh_process(words, **{common.PREFIX_VARIABLE: "0"})  # every run is a first one
        replies.append(reply)
        walls.append(process_s)
    timings = [reply["timing"] for reply in replies]
    return {
        "text": replies[-1].get("text"),
        "peak_rss_mb": round(max(timing["peak_rss_mb"] for timing in timings), 1),
        "load_s": median(timing["load_s"] for timing in timings),
        "ttft_s": median(timing["ttft_s"] for timing in timings),
        "process_s": median(walls),
    }


def median(values: Iterable[float | None]) -> float | None:
    """Median of what was measured, 3 digits; None when nothing was."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known else None


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file under a folder, by its path."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts}


def base_requirements(name: str = "minicpm-o") -> set[str]:
    """The package and all it requires without extras, as installed here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if current in found:
            continue
        try:
            wanted = metadata.requires(current) or []
        except metadata.PackageNotFoundError:
            continue  # a requirement of another platform
        found.add(current)
        parsed = map(Requirement, wanted)
        waiting += [r.name for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def installed_mb(name: str) -> float:
    """Megabytes of an installed distribution's files, without compiled caches."""
    files = metadata.files(name) or []
    paths = [Path(str(file.locate())) for file in files if file.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def measure(rounds: int) -> dict[str, Any]:
    """The whole report."""
    from minicpm_o.checkpoints.hub import resolve

    bundle = file_sizes(Path(resolve("nano", progress=True)))
    installed = {name: round(installed_mb(name), 1) for name in sorted(base_requirements())}
    with tempfile.TemporaryDirectory() as scratch:
        runs = {name: run_verb(words, rounds) for name, words in verbs(Path(scratch)).items()}
    return {
        "name": "footprint", "command": "python benchmarks/footprint.py", "machine": common.machine(),
        "rounds": rounds, "runs": runs,
        "bundle_mb": round(sum(bundle.values()) / 1e6, 1), "bundle_bytes": bundle,
        "assets_mb": round(sum(file_sizes(common.ROOT / "minicpm_o" / "assets").values()) / 1e6, 2),
        "install_mb": round(sum(installed.values()), 1), "install_mb_by_package": installed,
    }


def run_rows(report: dict[str, Any]) -> list[tuple[object, ...]]:
    """What a run of each verb takes, under RUN_COLUMNS."""
    return [(f"`{name}`", run["peak_rss_mb"], run["load_s"], run["ttft_s"] or "–", run["process_s"])
            for name, run in report["runs"].items()]


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    largest = sorted(report["bundle_bytes"].items(), key=lambda item: -item[1])[:12]
    packages = sorted(report["install_mb_by_package"].items(), key=lambda item: -item[1])[:8]
    return "\n\n".join([
        common.table(RUN_COLUMNS, run_rows(report)),
        f"nano on disk {report['bundle_mb']} MB:",
        common.table(("file", "MB"), [(name, round(size / 1e6, 1)) for name, size in largest]),
        f"Base install {report['install_mb']} MB, the largest packages:",
        common.table(("package", "MB"), packages),
        f"In the repository: {report['assets_mb']} MB of assets.",
        f"{report['rounds']} fresh processes a row. {common.provenance(report)}",
    ]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "footprint.json")
    args = parser.parse_args()
    report = measure(args.rounds)
    common.publish(args.out, report, markdown(report))


if __name__ == "__main__":
    main()
