"""Loss curves as a picture, for people who look rather than read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = ("step", "tokens", "tokens_per_s", "samples", "lr", "grad_norm", "loss", "bad")


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Loss, terms, their parts and the learning rate over the steps, each with a running mean; nothing without rows."""
    if not rows:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = curve_groups(rows)
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(5.2 * columns, 3.4 * lines), squeeze=False)
    for axis, (name, curves) in zip(axes.flat, groups.items(), strict=False):
        for label in curves:
            steps, values = _points(rows, label)
            window = 1 if label == "lr" else min(25, len(values) // 8 + 1)
            (drawn,) = axis.plot(steps, values, alpha=0.3, linewidth=1)
            axis.plot(steps, smoothed(values, window), color=drawn.get_color(), linewidth=1.6,
                      label=label.split("/")[-1])
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.25)
        axis.set_xlabel("step", fontsize=8)
        if len(curves) > 1:
            axis.legend(fontsize=7, frameon=False)
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    figure.suptitle(title, fontsize=11)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / lines / 3.4))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def curve_groups(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Title of a panel -> the numbers that share it: the loss, each term with its parts, the rate."""
    names = list(dict.fromkeys(name for row in rows for name in row if name not in PLAIN))
    terms = [name for name in names if "/" not in name]
    groups = {"loss": ["loss"]}
    for term in terms:
        groups[term] = [term]
    parts = [name for name in names if "/" in name]
    for term in terms:
        own = [name for name in parts if name.startswith(f"{term}/")]
        if len(own) > 1:  # one alone is the term itself
            groups[f"{term}, by part"] = own
    return {**groups, "learning rate": ["lr"]}


def _points(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    held = [(row["step"], float(row[name])) for row in rows if name in row]
    held = [(step, value) for step, value in held if np.isfinite(value)]
    return [step for step, _ in held], [value for _, value in held]


def smoothed(values: Sequence[float], window: int) -> np.ndarray:
    """Running mean over at most `window` values before and with each."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / np.maximum(1, ends - starts)
