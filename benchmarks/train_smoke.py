"""All three stages of training end to end on a tiny model and made data, and what a trainer has to hold.

    python benchmarks/train_smoke.py          (make train-smoke)

Losses fall by stated factors; the same seed gives the same losses; a run that was killed with SIGKILL goes on with the
losses that it would have had; two ranks, copied or sharded, have the losses of one. Prints a table; ends with 1 when
something does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import table

FALLS = {"pretrain": 0.85, "sft": 0.9, "dpo": 0.97}
"""Stage -> share of the first steps' loss that the last steps' may have at most."""
TOLERANCE = 1e-4
"""Largest relative difference between the losses of two ranks and of one: sums come in another order."""
STEPS = {"pretrain": 18, "sft": 30, "dpo": 14, "grpo": 4}


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    what: str
    found: str
    wanted: str
    holds: bool


def command(recipe: str, run: Path, *changes: str, ranks: int = 1) -> list[str]:
    """The command line that a person would type."""
    python = [sys.executable, "-m"]
    launcher = [*python, "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"]
    return [*(launcher if ranks > 1 else python), "minicpm_o", "train", recipe, *changes, "--out", str(run), "--quiet"]


def run(recipe: str, folder: Path, *changes: str, ranks: int = 1) -> list[dict[str, float]]:
    """Train; returns the rows of metrics.jsonl. Ends the smoke run when the command fails."""
    done = subprocess.run(command(recipe, folder, *changes, ranks=ranks), capture_output=True, text=True,
                          env=os.environ | {"OMP_NUM_THREADS": "1"} if ranks > 1 else None)
    if done.returncode:
        raise SystemExit(f"{recipe} {' '.join(changes)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return rows_of(folder)


def rows_of(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def losses(rows: list[dict[str, float]]) -> list[float]:
    return [row["loss"] for row in rows]


def fall(values: list[float]) -> float:
    """Mean loss of the last third by that of the first."""
    third = max(1, len(values) // 3)
    return (sum(values[-third:]) / third) / (sum(values[:third]) / third)


def killed(recipe: str, folder: Path, *changes: str, after: int) -> int:
    """Start, kill without warning once `after` steps are written down; returns how many were."""
    process = subprocess.Popen(command(recipe, folder, *changes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(rows_of(folder)) < after:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(rows_of(folder))


def difference(one: list[float], other: list[float]) -> float:
    """Largest relative difference; infinite when one is longer."""
    if len(one) != len(other):
        return float("inf")
    return max(abs(a - b) / max(abs(a), 1e-9) for a, b in zip(one, other, strict=True))


def check_stages(work: Path) -> list[Check]:
    """Each stage begins with what the one before exported."""
    checks, model = [], "tiny-4.5"
    for stage, steps in STEPS.items():
        rows = run(f"tiny-{stage}", work / stage, f"model.name={model}", f"run.steps={steps}")
        model = str(work / stage / "export")
        if stage in FALLS:
            ratio = fall(losses(rows))
            checks.append(Check(f"{stage}: loss falls", f"to {ratio:.2f}", f"to {FALLS[stage]} at most",
                                ratio <= FALLS[stage]))
        else:
            whole = all(abs(row["loss"]) < 1e6 and row["grpo/tokens"] > 0 for row in rows)
            rewards = f"reward {rows[0]['grpo/reward']:.2f} to {rows[-1]['grpo/reward']:.2f}"
            checks.append(Check("grpo: answers are drawn and rewarded", rewards, "numbers", whole))
    return checks


def check_repeats(work: Path) -> list[Check]:
    """The same again, killed and resumed, and shared by two."""
    changes = ("run.steps=12", "run.save_every=4")
    whole = losses(run("tiny-sft", work / "whole", *changes))
    again = losses(run("tiny-sft", work / "again", *changes))
    checks = [Check("same seed, same losses", f"differ by {difference(whole, again):.1e}", "0", whole == again)]
    done = killed("tiny-sft", work / "killed", *changes, after=6)
    resumed = losses(run("tiny-sft", work / "killed", *changes))
    checks.append(Check(f"killed after step {done}, resumed", f"differ by {difference(whole, resumed):.1e}", "0",
                        whole == resumed and done < 12))
    for parallel in ("ddp", "fsdp2"):
        two = losses(run("tiny-sft", work / parallel, *changes, "run.micro_batch_size=4", f"run.parallel={parallel}",
                         ranks=2))
        gap = difference(whole, two)
        checks.append(Check(f"two ranks, {parallel}", f"differ by {gap:.1e}", f"{TOLERANCE:.0e} at most",
                            gap <= TOLERANCE))
    return checks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder to keep the runs in, with their curves")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = options.keep or Path(folder)
        checks = [*check_stages(work), *check_repeats(work)]
    lines = [[check.what, check.found, check.wanted, "yes" if check.holds else "NO"] for check in checks]
    print(table(["what", "found", "wanted", "holds"], lines))
    print(f"\n{time.monotonic() - started:.0f} s")
    raise SystemExit(0 if all(check.holds for check in checks) else 1)


if __name__ == "__main__":
    main()
