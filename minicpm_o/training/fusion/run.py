"""Trains every variant with every seed on the same batches, and notes which questions each answers.

    python -m minicpm_o.training.fusion --out RUNS                # all variants, seeds 1 2 3: about an hour and a half
    python -m minicpm_o.training.fusion --out RUNS --variants full late --seeds 1

First an eye learns what stands where (`eyes`), once per seed: RUNS/eye_SEED_STEPS.pt. A run is RUNS/VARIANT_SEED:
metrics.jsonl (learning curve), checkpoint.pt (where it goes on), right.npz (scenes, Q) and result.json, with which it
is finished and passed over. `benchmarks/fusion_depth.py` makes the report of them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from ..mixture import read_json
from ..prepare.work import write_json
from .batches import KINDS_ASKED, make_batch
from .eyes import EyeLesson, teach_eye
from .learner import Learner
from .models import VARIANTS, FusionModel, build_variant, num_weights
from .scenes import Split

SEEDS = (1, 2, 3)
"""Of the report. What was tried beforehand used seed 0."""
TESTS: tuple[Split, ...] = ("seen", "new")
_TEST_SEED = 0
"""Test scenes are the same for all seeds."""


@dataclass(frozen=True)
class RunConfig:
    """How long and how fast; the same for every variant."""

    eye_steps: int = 500
    """Of the eye's own lesson; every variant of a seed begins with what it learned."""
    steps: int = 1000
    scenes: int = 24
    """Of a step, each with one question of every kind."""
    rate: float = 1e-3
    """Highest learning rate; a tenth of the steps lead up to it, a cosine leads down."""
    weight_decay: float = 0.01
    clip: float = 1.0
    dev_scenes: int = 96
    test_scenes: int = 600
    note_every: int = 50
    """Steps between points of the learning curve, and between checkpoints."""


def train(name: str, seed: int, config: RunConfig, folder: Path) -> None:
    """One run, from where it was left. Raises InputError where a run with other settings lies in the folder."""
    settings = {"variant": name, "seed": seed, **asdict(config)}
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder / "settings.json", settings)
    if (folder / "result.json").exists():
        return
    model = build_variant(name, seed)
    if name != "blind":
        begin_with_eye(model, seed, config, folder.parent / f"eye_{seed}_{config.eye_steps}.pt")
    learner = Learner(model, config.rate, config.steps, config.weight_decay, config.clip)
    step, seconds = learner.resume(folder)
    with progress(f"{name}, seed {seed}", config.steps, step) as advance:
        started = time.monotonic() - seconds
        while step < config.steps:
            batch = make_batch("train", seed, step * config.scenes, config.scenes)
            loss = learner.step(F.cross_entropy(model(batch).flatten(0, 1), batch.answers.flatten()))
            step += 1
            advance()
            if step % config.note_every == 0 or step == config.steps:
                seconds = time.monotonic() - started
                note(folder / "metrics.jsonl", {"step": step, "seconds": round(seconds, 1), "loss": round(loss, 4),
                                                **by_kind(answered(model, "dev", config.dev_scenes, config.scenes))})
                learner.save(folder, step, time.monotonic() - started)
    finish(model, config, folder, settings, seconds)


def begin_with_eye(model: FusionModel, seed: int, config: RunConfig, path: Path) -> None:
    """Put the seed's taught eye in; the first variant that needs it teaches it."""
    if not config.eye_steps:
        return
    if not path.exists():
        loss = teach_eye(model.eye, model.config, seed, EyeLesson(config.eye_steps))
        note(path.with_suffix(".jsonl"), {"steps": config.eye_steps, "loss": round(loss, 4)})
        torch.save(model.eye.state_dict(), path)
    model.eye.load_state_dict(torch.load(path, weights_only=True))


def finish(model: FusionModel, config: RunConfig, folder: Path, settings: dict, seconds: float) -> None:
    """Test the trained model, and close the run."""
    right = {split: answered(model, split, config.test_scenes, config.scenes) for split in TESTS}
    np.savez_compressed(folder / "right.npz", **right)
    result = {**settings, "weights": num_weights(model), "gflop_per_scene": gflop_per_scene(model),
              "seconds": round(seconds, 1), **{split: by_kind(right[split]) for split in TESTS}}
    write_json(folder / "result.json", result)
    (folder / "checkpoint.pt").unlink(missing_ok=True)


def check_settings(path: Path, settings: dict) -> None:
    """Note a run's settings. Raises InputError when it was begun with others."""
    if not path.exists():
        write_json(path, settings)
    elif (found := read_json(path)) != settings:
        differ = sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key))
        raise InputError(f"{path.parent} was begun with other settings ({', '.join(differ)}); give another --out")


def note(path: Path, row: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


# What a model answers


@torch.inference_mode()
def answered(model: nn.Module, split: Split, count: int, size: int) -> np.ndarray:
    """(scenes, Q) bool: which questions of the split's first `count` scenes are answered rightly."""
    model.eval()
    right: list[Tensor] = []
    for first in range(0, count, size):
        batch = make_batch(split, _TEST_SEED, first, min(size, count - first))
        right.append(model(batch).argmax(-1) == batch.answers)
    model.train()
    return torch.cat(right).numpy()


def by_kind(right: np.ndarray) -> dict[str, float]:
    """Share of right answers per kind of question."""
    return {kind: round(float(share), 4) for kind, share in zip(KINDS_ASKED, right.mean(0), strict=True)}


def gflop_per_scene(model: nn.Module) -> float:
    """Billions of floating-point operations to answer a scene's questions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(make_batch("dev", _TEST_SEED, 0, 8))
    return round(counter.get_total_flops() / 8 / 1e9, 4)


# The command


def progress(what: str, total: int, done: int):
    """A bar on stderr; gives the function that advances it. Without a terminal there is none."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import Progress

    @contextmanager
    def bar():
        with Progress(console=Console(stderr=True)) as shown:
            task = shown.add_task(what, total=total, completed=done)
            yield lambda: shown.advance(task)

    return bar()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.training.fusion", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; goes on where it was left")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=RunConfig.steps)
    parser.add_argument("--eye-steps", type=int, default=RunConfig.eye_steps)
    parser.add_argument("--scenes", type=int, default=RunConfig.scenes)
    parser.add_argument("--rate", type=float, default=RunConfig.rate)
    parser.add_argument("--threads", type=int, default=1, help="of torch; another number changes the last digits")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    config = RunConfig(eye_steps=options.eye_steps, steps=options.steps, scenes=options.scenes, rate=options.rate)
    for seed in options.seeds:
        for name in options.variants:
            train(name, seed, config, options.out / f"{name}_{seed}")


if __name__ == "__main__":
    main()
