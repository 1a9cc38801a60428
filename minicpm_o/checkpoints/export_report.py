"""What an export cost: seconds and memory of each part, and the error of every matrix that was rounded.

    export_report.json    everything                export_report.md    the tables, for a person

An error is the root of the summed squares of what rounding changed, over that of the weights. Knows no graphs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

JSON_FILE = "export_report.json"
TEXT_FILE = "export_report.md"
WORST = 10
"""Layers that the table names."""
_LAYER = re.compile(r"^(.*?\.\d+)\.")


@dataclass(frozen=True)
class RoundedMatrix:
    """One matrix of a bundle beside the checkpoint's."""

    name: str
    bits: int
    shape: tuple[int, int]
    relative_error: float


@dataclass(frozen=True)
class StepReport:
    """One part of the bundle."""

    name: str
    seconds: float
    bytes: int
    peak_mb: float | None
    """Highest memory of the process up to the end of this part."""
    matrices: tuple[RoundedMatrix, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StepReport:
        """Back from JSON. Raises CheckpointError when it is something else."""
        try:
            matrices = tuple(RoundedMatrix(**{**matrix, "shape": tuple(matrix["shape"])})
                             for matrix in values["matrices"])
            return cls(**{**values, "matrices": matrices})
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"the record of an exported part is damaged ({error!r}); export again") from error


@dataclass(frozen=True)
class ExportReport:
    """A whole export."""

    model: str
    settings: Mapping[str, Any]
    steps: tuple[StepReport, ...]
    layers: tuple[tuple[str, float], ...] = field(init=False)
    """Error of every layer, all its matrices together, the worst first."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(layer_errors(self.steps)))

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    @property
    def peak_mb(self) -> float | None:
        return max((step.peak_mb for step in self.steps if step.peak_mb is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "seconds": round(self.seconds, 1), "peak_mb": self.peak_mb}

    def text(self) -> str:
        """The tables."""
        rows = [(step.name, f"{step.seconds:.1f}", f"{step.bytes / 1e6:.1f}", _mb(step.peak_mb),
                 str(len(step.matrices)), _percent(mean_error(step.matrices))) for step in self.steps]
        worst = [(name, _percent(error)) for name, error in self.layers[:WORST]]
        pieces = [f"# Export of {self.model}", ", ".join(f"{name} {value}" for name, value in self.settings.items()),
                  _table(("part", "seconds", "MB", "peak memory MB", "rounded matrices", "error"), rows)]
        if worst:
            pieces += [f"The {len(worst)} layers that rounding changed most:", _table(("layer", "error"), worst)]
        return "\n\n".join(pieces) + "\n"

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Both files; returns their paths."""
        values, text = folder / JSON_FILE, folder / TEXT_FILE
        values.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        text.write_text(self.text(), encoding="utf-8")
        return values, text


def layer_errors(steps: Sequence[StepReport]) -> list[tuple[str, float]]:
    """"part: layer" and its error, the worst first; a matrix outside of all layers stands for itself."""
    layers: dict[str, list[RoundedMatrix]] = {}
    for step in steps:
        for matrix in step.matrices:
            found = _LAYER.match(f"{matrix.name}.")
            layers.setdefault(f"{step.name}: {found[1] if found else matrix.name}", []).append(matrix)
    errors = [(name, error) for name, matrices in layers.items() if (error := mean_error(matrices)) is not None]
    return sorted(errors, key=lambda pair: -pair[1])


def mean_error(matrices: Sequence[RoundedMatrix]) -> float | None:
    """Root of the mean of the squares, each matrix counted by its size; None of nothing."""
    sizes = [matrix.shape[0] * matrix.shape[1] for matrix in matrices]
    if not sizes:
        return None
    squares = sum(size * matrix.relative_error**2 for size, matrix in zip(sizes, matrices, strict=True))
    return float((squares / sum(sizes)) ** 0.5)


def _percent(error: float | None) -> str:
    return "–" if error is None else f"{100 * error:.2f} %"


def _mb(size: float | None) -> str:
    return "–" if size is None else f"{size:.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
