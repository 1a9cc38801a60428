"""Where media should join the language model: the runs of `minicpm_o.training.fusion` as a table and two plots.

    python -m minicpm_o.training.fusion --out RUNS && python benchmarks/fusion_depth.py --runs RUNS

Writes benchmarks/results/fusion_depth.{json,md}, docs/fusion_depth.png and docs/fusion_curves.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import common
from minicpm_o.evaluation.intervals import bootstrap_ratio
from minicpm_o.training.curves import smoothed
from minicpm_o.training.fusion.batches import KINDS_ASKED
from minicpm_o.training.fusion.models import VARIANTS
from minicpm_o.training.fusion.run import TESTS
from minicpm_o.training.fusion.scenes import ANSWERS, GROUPS
from minicpm_o.training.mixture import read_json, read_rows

NAME = "fusion_depth"
DOCS = common.ROOT / "docs"
SPLITS = {"seen": "known triples", "new": "triples never seen"}
ALL = "full"
"""The variant that the others are compared with."""

Runs = Mapping[str, Mapping[int, Path]]
"""Variant -> seed -> folder of a finished run."""


def find_runs(folder: Path) -> Runs:
    """Finished runs, of seeds that every variant has."""
    found: dict[str, dict[int, Path]] = {name: {} for name in VARIANTS}
    for path in sorted(folder.glob("*/result.json")):
        settings = read_json(path)
        found[settings["variant"]][settings["seed"]] = path.parent
    seeds = set.intersection(*(set(of_seed) for of_seed in found.values()))
    if not seeds:
        raise SystemExit(f"{folder} has no seed with all of {', '.join(VARIANTS)} finished; run "
                         f"python -m minicpm_o.training.fusion --out {folder}")
    return {name: {seed: found[name][seed] for seed in sorted(seeds)} for name in VARIANTS}


def rightness(runs: Runs, variant: str, split: str) -> np.ndarray:
    """(seeds, scenes, Q) bool."""
    return np.stack([np.load(path / "right.npz")[split] for path in runs[variant].values()])


def group_columns(group: str) -> list[int]:
    return [KINDS_ASKED.index(kind) for kind in GROUPS[group]]


def cell(right: np.ndarray, reference: np.ndarray, columns: Sequence[int]) -> dict[str, Any]:
    """Share of right answers with each seed's own, and the difference from the reference over the same scenes."""
    by_scene, other = (array[:, :, columns].mean((0, 2)) for array in (right, reference))
    return {"value": float(by_scene.mean()), "by_seed": right[:, :, columns].mean((1, 2)).round(4).tolist(),
            "interval": bootstrap_ratio(by_scene), "from_full": float((by_scene - other).mean()),
            "from_full_interval": bootstrap_ratio(by_scene - other)}


def chance(group: str) -> float:
    return float(np.mean([1 / len(ANSWERS[kind]) for kind in GROUPS[group]]))


def summarise(runs: Runs) -> dict[str, Any]:
    """Everything that the table and the plots show."""
    variants = {}
    for name in VARIANTS:
        results = [read_json(path / "result.json") for path in runs[name].values()]
        variants[name] = {
            "weights": results[0]["weights"], "gflop_per_scene": results[0]["gflop_per_scene"],
            "groups": {split: {group: cell(rightness(runs, name, split), rightness(runs, ALL, split),
                                           group_columns(group)) for group in GROUPS} for split in TESTS},
            "kinds": {split: {kind: round(float(np.mean([result[split][kind] for result in results])), 4)
                              for kind in KINDS_ASKED} for split in TESTS}}
    settings = {name: value for name, value in results[0].items() if name in (
        "steps", "scenes", "rate", "weight_decay", "test_scenes")}
    return {"name": NAME,
            "command": f"python -m minicpm_o.training.fusion --out RUNS --steps {settings['steps']} && "
                       f"python benchmarks/{NAME}.py --runs RUNS",
            "machine": common.machine(), "seeds": list(runs[ALL]), "settings": settings,
            "chance": {group: chance(group) for group in GROUPS}, "variants": variants}


def markdown(report: dict[str, Any]) -> str:
    """Tables for people."""
    parts = []
    for split, words in SPLITS.items():
        rows = [[name, *(_shown(told["groups"][split][group], name) for group in GROUPS)]
                for name, told in report["variants"].items()]
        rows.append(["chance", *(f"{report['chance'][group]:.3f}" for group in GROUPS)])
        parts += [f"{words}:", common.table((f"right, {words}", *GROUPS), rows)]
    kinds = [[name, f"{told['weights'] / 1e6:.2f} M", f"{told['gflop_per_scene']:.3f}",
              *(f"{told['kinds']['seen'][kind]:.2f}" for kind in KINDS_ASKED)]
             for name, told in report["variants"].items()]
    settings = report["settings"]
    return "\n\n".join([
        *parts, "By kind of question, known triples, and what a variant weighs and computes:",
        common.table(("variant", "weights", "GFLOP a scene", *KINDS_ASKED), kinds),
        f"Means of seeds {', '.join(map(str, report['seeds']))}, in brackets the lowest and the highest of them; "
        f"{settings['test_scenes']} scenes a split, {settings['steps']} steps of {settings['scenes']} scenes with "
        f"{len(KINDS_ASKED)} questions each. Behind the comma: the difference from {ALL} over the same scenes, with "
        "its 95 % interval. " + common.provenance(report)]) + "\n"


def _shown(value: Mapping[str, Any], name: str) -> str:
    low, high = min(value["by_seed"]), max(value["by_seed"])
    shown = f"{value['value']:.3f} ({low:.2f} … {high:.2f})"
    if name == ALL:
        return shown
    lower, upper = value["from_full_interval"]
    return f"{shown}, {value['from_full']:+.3f} ({lower:+.3f} … {upper:+.3f})".replace("-", "−")


def draw_bars(report: dict[str, Any], path: Path) -> None:
    """Right answers by group of questions and variant; every seed a dot, chance a line."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(GROUPS), figsize=(3.6 * len(GROUPS), 6.4), sharey=True, squeeze=False)
    places = np.arange(len(VARIANTS))
    for line, (split, words) in zip(axes, SPLITS.items(), strict=True):
        for axis, group in zip(line, GROUPS, strict=True):
            told = [report["variants"][name]["groups"][split][group] for name in VARIANTS]
            axis.bar(places, [value["value"] for value in told],
                     color=["tab:blue" if name == ALL else "lightsteelblue" for name in VARIANTS])
            for place, value in zip(places, told, strict=True):
                axis.plot([place] * len(value["by_seed"]), value["by_seed"], "k.", markersize=4)
            axis.axhline(report["chance"][group], color="tab:red", linewidth=1, linestyle="--")
            axis.set_xticks(places, VARIANTS, rotation=60, ha="right", fontsize=8)
            axis.set_title(f"{group}\n{words}", fontsize=9)
            axis.set_ylim(0, 1)
            axis.grid(alpha=0.25, axis="y")
    axes[0, 0].set_ylabel("right answers")
    axes[1, 0].set_ylabel("right answers")
    _save(figure, path)


def draw_learning(runs: Runs, path: Path) -> None:
    """Right answers to questions of relations over the steps, a line per variant, the mean of the seeds."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(GROUPS), figsize=(3.9 * len(GROUPS), 3.4), sharey=True)
    for axis, (group, kinds) in zip(axes, GROUPS.items(), strict=True):
        for name in VARIANTS:
            curves = [read_rows(folder / "metrics.jsonl") for folder in runs[name].values()]
            steps = [row["step"] for row in curves[0]]
            values = np.mean([[np.mean([row[kind] for kind in kinds]) for row in rows] for rows in curves], axis=0)
            axis.plot(steps, smoothed(values, 3), label=name, linewidth=2 if name == ALL else 1.2)
        axis.set_title(group, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("right answers, other scenes")
    axes[-1].legend(fontsize=7, frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the finished runs")
    parser.add_argument("--out", type=Path, default=common.RESULTS / f"{NAME}.json")
    parser.add_argument("--plots", type=Path, default=DOCS, help="folder of the plots")
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    runs = find_runs(args.runs)
    report = summarise(runs)
    common.publish(args.out, report, markdown(report))
    draw_bars(report, args.plots / "fusion_depth.png")
    draw_learning(runs, args.plots / "fusion_curves.png")


if __name__ == "__main__":
    main()
