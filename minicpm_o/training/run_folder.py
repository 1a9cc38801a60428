"""A run's folder: what was asked, with what, what came of it. Rank 0 alone writes here.

    recipe.yaml      every field, defaults too        metrics.jsonl    a row a step
    run.json         commit, versions, machine        curves.png       the same to look at
    checkpoints/     newest states                    export/          the trained model
    tensorboard/     where TensorBoard is installed
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..checkpoints.storage import write_atomic
from ..errors import MissingExtraError
from .engine import StepReport, World
from .recipe import Recipe

PACKAGES = ("torch", "transformers", "peft", "numpy", "tokenizers")


class RunFolder:
    """Writes a run down."""

    def __init__(self, path: Path, recipe: Recipe, world: World) -> None:
        self.path, self.recipe, self.world = path, recipe, world
        self._boards: list[Any] = []
        self._tokens, self._since = 0, time.monotonic()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def open(self, first_step: int) -> None:
        """Begin, or go on after `first_step`: rows of later steps, which will come again, are forgotten."""
        if not self.world.is_first:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / "recipe.yaml", [self.recipe.to_yaml().encode()])
        write_atomic(self.path / "run.json", [json.dumps(surroundings(self.recipe, self.world), indent=2).encode()])
        kept = [row for row in read_metrics(self.metrics) if row["step"] <= first_step]
        write_atomic(self.metrics, ["".join(json.dumps(row) + "\n" for row in kept).encode()])
        self._boards = open_boards(self.recipe, self.path)

    def note(self, report: StepReport, counts: Mapping[str, int]) -> dict[str, Any]:
        """The step as a row; kept every `log_every` steps."""
        self._tokens += report.tokens
        row = {"step": report.step, "loss": report.loss, **report.terms, **report.parts, **report.extra,
               "grad_norm": report.grad_norm, "lr": report.lr, "tokens": report.tokens}
        row |= {"bad": True} if report.is_bad else {}
        if report.step % self.recipe.run.log_every and report.step != self.recipe.run.steps:
            return row
        seconds = time.monotonic() - self._since
        row |= {"tokens_per_s": round(self._tokens / max(seconds, 1e-9), 1), "samples": dict(counts)}
        self._tokens, self._since = 0, time.monotonic()
        if self.world.is_first:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(_finite(row)) + "\n")
            for write in self._boards:
                write({key: value for key, value in row.items() if isinstance(value, int | float)}, report.step)
        return row


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN: such numbers are written as text."""
    return {key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line that was cut off by a stop is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def surroundings(recipe: Recipe, world: World) -> dict[str, Any]:
    """What the run could depend on beside its recipe."""
    return {
        "minicpm_o": __version__, "commit": _commit(), "fingerprint": recipe.fingerprint(), "seed": recipe.run.seed,
        "ranks": world.size, "device": _device_name(world.device),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(), **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _commit() -> str | None:
    """Commit of the checkout that the package lies in, with a + for changes; None for an installed package."""
    here = Path(__file__).resolve().parent
    try:
        done = [subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
                for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "."))]
    except (OSError, subprocess.CalledProcessError):
        return None
    return done[0] + ("+" if done[1] else "")


def open_boards(recipe: Recipe, folder: Path) -> list[Any]:
    """Where else the numbers go: functions of (row, step). Raises MissingExtraError for wandb, asked for and not here.
    """
    boards: list[Any] = []
    if recipe.run.tensorboard:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            pass  # it is the default, and not needed
        else:
            writer = SummaryWriter(str(folder / "tensorboard"))

            def to_tensorboard(row: Mapping[str, float], step: int) -> None:
                for name, value in row.items():
                    writer.add_scalar(name, value, step)
                writer.flush()

            boards.append(to_tensorboard)
    if recipe.run.wandb:
        try:
            import wandb
        except ImportError as error:
            raise MissingExtraError("run.wandb is set and the package wandb is not installed: pip install wandb, or "
                                    "leave it out") from error
        run = wandb.init(project=recipe.run.wandb, dir=str(folder), config=recipe.model_dump(mode="json"))
        boards.append(lambda row, step: run.log(dict(row), step=step))
    return boards
