"""Writes the table of docs/checkpoints.md that says which official model runs on which machine.

    python benchmarks/hardware_table.py            # fill in
    python benchmarks/hardware_table.py --check    # exit 1 when the file does not say what the plans say

Every line is what `minicpm-o doctor --model NAME --memory AMOUNT` answers; the command stands in the line.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import common
from minicpm_o.checkpoints.hub import VERSIONS
from minicpm_o.cli.foresee import memory_plan
from minicpm_o.runtime.memory import MemoryPlan, gigabytes

FILE = common.ROOT / "docs" / "checkpoints.md"
SYSTEM_SHARE = 0.25
"""Of a phone's or laptop's memory that its system and other programs keep."""
GPU_SHARE = 0.05
"""Of a GPU's memory that its driver keeps."""
BITS = (8, 4)
"""The most that fits is what the table says."""


@dataclass(frozen=True)
class Machine:
    """One line of the table."""

    name: str
    gigabytes: float
    gpu: bool = False

    @property
    def memory(self) -> str:
        """What a model may take, as the command line has it."""
        return f"{self.gigabytes * (1 - (GPU_SHARE if self.gpu else SYSTEM_SHARE)):g}GB"


MACHINES = (Machine("phone, 6 GB", 6), Machine("phone, 8 GB", 8), Machine("phone, 12 GB", 12),
            Machine("laptop, 16 GB", 16), Machine("GPU, 12 GB", 12, gpu=True), Machine("GPU, 24 GB", 24, gpu=True))


def plan(model: str, machine: Machine) -> tuple[MemoryPlan, str]:
    """The largest that fits, or else the plan of the smallest; and the command that prints it."""
    command = f"doctor --model {model} --memory {machine.memory}"
    if machine.gpu:
        return memory_plan(model, machine.memory, dtype="bfloat16"), f"{command} --dtype bfloat16"
    found = [(memory_plan(model, machine.memory, bits=bits), f"{command} --bits {bits}") for bits in BITS]
    return next((pair for pair in found if pair[0].fits), found[-1])


def verdict(found: MemoryPlan) -> str:
    """What runs there, in a cell."""
    needed = f"{gigabytes(found.total_bytes)} GB"
    if found.fits:
        return f"everything: {found.request.words()} ({needed})"
    if found.nearest is None:
        return f"nothing: {found.request.words()} is {needed}"
    if found.nearest.backend != found.request.backend:
        return f"not on the GPU: {found.request.words()} is {needed}; a bundle runs on the processor"
    return f"{found.nearest.words()}; everything is {needed}"


def table() -> str:
    rows = []
    for machine in MACHINES:
        for model in VERSIONS:
            found, command = plan(model, machine)
            rows.append((machine.name, model.partition("/")[2], verdict(found), f"`minicpm-o {command}`"))
    note = (f"Of a phone's or laptop's memory {1 - SYSTEM_SHARE:.0%} count, the rest is its system's; of a GPU's "
            f"{1 - GPU_SHARE:.0%}.")
    return f"{common.table(('machine', 'model', 'what runs', 'computed by'), rows)}\n\n{note}"


def fill(text: str) -> str:
    """The text with the table between its marks."""
    pattern = re.compile(r"(<!-- hardware:begin -->\n).*?(<!-- hardware:end -->)", flags=re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{FILE} has no marks for the table of hardware")
    body = table()
    return pattern.sub(lambda match: f"{match[1]}{body}\n{match[2]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when something would change")
    check = parser.parse_args().check
    path: Path = FILE
    text = path.read_text(encoding="utf-8")
    filled = fill(text)
    if filled == text:
        return
    if check:
        sys.exit(f"{path.name}: not what the plans of memory say; run `make docs`")
    path.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
