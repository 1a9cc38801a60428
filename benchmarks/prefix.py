"""What the prefix cache on disk saves a new process: the same question again, and another about the same picture.

    python benchmarks/prefix.py --out benchmarks/results/prefix.json

Every run is a fresh process through the command line; the cache begins empty and is this benchmark's own. The four runs
of a case take turns, so that what else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common

COLUMNS = ("run", "load s", "first word s", "whole process s", "peak MB", "prompt tokens", "of them from disk",
           "MB on disk")
SAMPLES = common.ROOT / "minicpm_o" / "assets" / "samples"
RULES = " ".join(f"Rule {number}: answer in one short sentence, be kind, and say so when you do not know."
                 for number in range(1, 16))


@dataclass(frozen=True)
class Case:
    """A beginning of a prompt and two questions behind it."""

    name: str
    words: tuple[str, ...]
    """Of the command line, without the question."""
    questions: tuple[str, str]
    is_typed: bool = False
    """Whether the question comes as a line of stdin."""


CASES = (
    Case("photo", ("ask", "--image", str(SAMPLES / "photo.jpg")), ("What is in this picture?", "Which colours?")),
    Case("a photo four times", ("ask", *["--image", str(SAMPLES / "photo.jpg")] * 4), ("What is here?", "How many?")),
    Case("sound", ("ask", "--audio", str(SAMPLES / "speech.wav")), ("What is said?", "Who may be speaking?")),
    Case("system prompt", ("chat", "--system", RULES), ("What is a fox?", "How do birds fly?"), is_typed=True),
)


def run(case: Case, question: str, model: str, home: Path, limit_mb: int) -> dict[str, Any]:
    """One process: what it says of itself, its seconds, and what then lies on disk."""
    words = [*case.words, *([] if case.is_typed else [question]), "--model", model, "--max-tokens", "16"]
    reply, process_s = common.fresh_process(words, typed=f"{question}\n" if case.is_typed else "",
                                            **{"MINICPM_O_HOME": str(home), common.PREFIX_VARIABLE: str(limit_mb)})
    usage, timing = reply["usage"], reply["timing"]
    return {"text": reply["text"], "load_s": timing["load_s"], "ttft_s": timing["ttft_s"], "process_s": process_s,
            "peak_rss_mb": timing["peak_rss_mb"], "cached": usage["cached"],
            "prompt": sum(usage[kind] for kind in ("text", "image", "audio", "video")),
            "disk_mb": sum(path.stat().st_size for path in home.rglob("*.safetensors")) / 1e6}


def runs(case: Case, model: str, home: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The four runs of a case, from an empty cache."""
    question, other = case.questions
    yield "no cache", run(case, question, model, home, 0)
    yield "first, cache empty", run(case, question, model, home, 256)
    yield "the same again", run(case, question, model, home, 256)
    yield "another question", run(case, other, model, home, 256)


def measure(rounds: int) -> dict[str, Any]:
    """The whole report."""
    from minicpm_o.checkpoints.hub import resolve

    model = str(resolve("nano", progress=True))
    cases = {}
    for case in CASES:
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as home:
                for name, values in runs(case, model, Path(home)):
                    found.setdefault(name, []).append(values)
        same = {values["text"] for name, rows in found.items() if name != "another question" for values in rows}
        cases[case.name] = {"same_answer": len(same) == 1, "runs": {name: middle(rows) for name, rows in found.items()}}
    return {"name": "prefix", "command": "python benchmarks/prefix.py", "machine": common.machine(), "rounds": rounds,
            "cases": cases}


def middle(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the rounds."""
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0] if key != "text"}


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    parts = []
    for name, case in report["cases"].items():
        rows = [(run, *(f"{values[key]:.2f}" for key in ("load_s", "ttft_s", "process_s")),
                 f"{values['peak_rss_mb']:.0f}", int(values["prompt"]), int(values["cached"]),
                 f"{values['disk_mb']:.1f}")
                for run, values in case["runs"].items()]
        told = "the same answer in the first three runs" if case["same_answer"] else "the answers DIFFER"
        parts += [f"{name}: {told}", common.table(COLUMNS, rows)]
    told = (f"{report['rounds']} rounds of fresh processes; medians. The first word is counted from the call, without "
            f"what opening the model's parts takes (load). {common.provenance(report)}")
    return "\n\n".join([*parts, told]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=common.RESULTS / "prefix.json")
    args = parser.parse_args()
    report = measure(args.rounds)
    common.publish(args.out, report, markdown(report))


if __name__ == "__main__":
    main()
