"""`train` and `data`: a recipe to a run, and a look at the samples."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from .output import say


def check_extra() -> None:
    """Raises MissingExtraError where what training needs is not installed."""
    missing = [name for name in ("torch", "transformers", "peft", "yaml") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"training needs {', '.join(missing)}: pip install 'minicpm-o[train]'")


def show_recipes(as_json: bool) -> dict[str, Any] | None:
    """Name and first comment line of every recipe that comes with the package."""
    check_extra()
    from ..training.recipe import packaged_recipes

    found = {name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
             for name, path in packaged_recipes().items()}
    if as_json:
        return {"recipes": found}
    for name, text in found.items():
        print(f"{name:20} {text}")
    return None


def train_model(name: str, changes: Sequence[str], run: Path | None, *, dry_run: bool, quiet: bool, as_json: bool
                ) -> dict[str, Any] | None:
    """One run; goes on where an earlier start in the same folder stopped."""
    check_extra()
    from ..training.recipe import load_recipe

    recipe = load_recipe(name, changes)
    if dry_run:
        return _foresee(recipe, as_json)
    from ..training.launch import run_recipe

    own = Path(name).expanduser()
    folder = own.parent if own.is_file() else None
    path = run or Path("runs") / f"{own.stem}-{datetime.now():%Y%m%d-%H%M%S}"
    is_first = os.environ.get("RANK", "0") == "0"
    with _Bar(recipe.run.steps, quiet=quiet or not is_first) as show:
        try:
            exported = run_recipe(recipe, path, data_folder=folder, show=show)
        except KeyboardInterrupt:
            say(f"stopped; a checkpoint is in {path / 'checkpoints'}. Go on with: minicpm-o train {name} "
                f"{' '.join(changes)} --out {path}")
            raise
    made = {"run": str(path), "export": str(exported), "metrics": str(path / "metrics.jsonl"),
            "curves": str(path / "curves.png")}
    if as_json or not is_first:
        return made
    print(f"trained model: {made['export']}\ncurves: {made['curves']}\nmetrics: {made['metrics']}")
    return None


def _foresee(recipe: Any, as_json: bool) -> dict[str, Any] | None:
    from ..training.launch import foreseen

    found = foreseen(recipe)
    if as_json:
        return {"recipe": recipe.model_dump(mode="json"), **found}
    print(recipe.to_yaml())
    for part, counts in found["parts"].items():
        print(f"{part:12} {counts['learns']:>14,} of {counts['of']:>14,} parameters learn")
    print(f"{'in all':12} {found['learning']:>14,} learn; weights, gradients and moments take about "
          f"{found['megabytes']:,} MB, activations come on top")
    return None


def inspect_data(source: str, samples: int, out: Path, model: str | None, *, as_json: bool) -> dict[str, Any] | None:
    """Write the page of samples."""
    check_extra()
    from ..training.data.inspect import inspect_source

    found = inspect_source(source, samples, model)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(found.html, encoding="utf-8")
    if as_json:
        return {"page": str(out), "sources": found.counts, "problems": found.problems}
    print(f"{out}: " + ", ".join(f"{name} {count}" for name, count in found.counts.items()))
    for problem in found.problems:
        say(problem)
    return None


class _Bar:
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
