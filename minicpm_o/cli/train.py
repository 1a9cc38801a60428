"""`train` and `data`: a recipe to a run, and a look at the samples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from .output import say


def check_extra() -> None:
    """Raises MissingExtraError where what training needs is not installed."""
    try:
        import peft  # noqa: F401
        import torch  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"training needs the package {error.name}: pip install 'minicpm-o[train]'") from error


def list_recipes() -> dict[str, str]:
    """Name and first comment line of every recipe that comes with the package."""
    check_extra()
    from ..training.recipe import packaged_recipes

    return {name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
            for name, path in packaged_recipes().items()}


def run_train(name: str, overrides: Sequence[str], run: Path | None, *, dry_run: bool, quiet: bool) -> dict[str, Any]:
    """One run; returns what was made."""
    check_extra()
    from ..training.launch import foreseen, run_recipe
    from ..training.recipe import load_recipe

    recipe = load_recipe(name, overrides)
    own = Path(name).expanduser()
    folder = own.parent if own.is_file() else None
    if dry_run:
        return {"recipe": recipe.model_dump(mode="json"), **foreseen(recipe)}
    path = run or Path("runs") / f"{own.stem}-{datetime.now():%Y%m%d-%H%M%S}"
    is_first = os.environ.get("RANK", "0") == "0"
    with _shown(recipe.run.steps, quiet=quiet or not is_first) as show:
        try:
            exported = run_recipe(recipe, path, data_folder=folder, show=show)
        except KeyboardInterrupt:
            say(f"stopped; a checkpoint is in {path / 'checkpoints'}. Go on with: minicpm-o train {name} "
                f"{' '.join(overrides)} --run {path}")
            raise
    return {"run": str(path), "export": str(exported), "metrics": str(path / "metrics.jsonl"),
            "curves": str(path / "curves.png")}


class _shown:
    """A progress bar with the loss, its terms, tokens a second and the time that is left."""

    def __init__(self, steps: int, *, quiet: bool) -> None:
        self.steps, self.quiet = steps, quiet
        self._bars: Any = None
        self._task: Any = None
        self._speed = 0.0

    def __enter__(self) -> Any:
        if self.quiet:
            return lambda row: None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=20), TimeRemainingColumn(),
                   TextColumn("{task.description}"))
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._bars.start()
        self._task = self._bars.add_task("", total=self.steps)
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _show(self, row: dict[str, Any]) -> None:
        self._speed = row.get("tokens_per_s", self._speed)
        terms = [f"{name} {value:.3f}" for name, value in row.items() if isinstance(value, float) and "/" not in name
                 and name not in ("lr", "grad_norm", "tokens_per_s")]
        skipped = sum(count for name, count in row.get("samples", {}).items() if name.startswith(("skipped", "broken")))
        left_out = f", {skipped} samples left out" if skipped else ""
        bad = ", NOT A NUMBER: step left out" if row.get("bad") else ""
        self._bars.update(self._task, completed=row["step"],
                          description=f"{', '.join(terms)}, {self._speed:.0f} tokens/s{left_out}{bad}")
