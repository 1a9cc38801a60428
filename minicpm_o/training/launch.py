"""A recipe to a run: model, data and stage put together, the engine started, the model exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import OptionError
from . import align, pretrain, sft
from .curves import draw_curves
from .data.mixture import Mixture
from .engine import Checkpoints, StepReport, World, join_world, train
from .lora import choose_parts, counted_parts
from .recipe import ModelSection, Recipe
from .run_folder import RunFolder, read_metrics
from .save import export_merged, export_unmerged, load_unmerged
from .terms import Feed, Objective
from .trainee import NanoTrainee, Trainee, open_trainee

STAGES: dict[str, Any] = {"pretrain": pretrain, "sft": sft, "align": align}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Assembled:
    """Everything that a run needs."""

    trainee: Trainee
    objective: Objective
    feed: Feed


def open_model(section: ModelSection) -> Trainee:
    """The model with what learns set free. Raises CheckpointError, OptionError."""
    connectors = section.start if section.name == "nano" else None
    trainee = open_trainee(section.name, dtype=DTYPES[section.dtype], connectors=connectors)
    if section.start is not None and connectors is None:
        load_unmerged(trainee, section.start)
    if isinstance(trainee, NanoTrainee):
        if section.lora is not None:
            raise OptionError("nano has its LoRA already, which its connectors hold; leave model.lora out")
        lora = {name for name, parameter in trainee.model.named_parameters() if ".lora_" in name}
        choose_parts(trainee.model, section.train, None)
        for name, parameter in trainee.model.named_parameters():  # its language model learns through the LoRA alone
            if name.startswith("language."):
                parameter.requires_grad_(parameter.requires_grad and name in lora)
        return trainee
    choose_parts(trainee.model, section.train, section.lora)
    return trainee


def assemble(recipe: Recipe, world: World, folder: Path | None = None) -> Assembled:
    """Model, objective and feed. folder: what the data's relative paths start from."""
    run = recipe.run
    if recipe.stage == "align" and recipe.align and recipe.align.method == "grpo" and run.parallel == "fsdp2":
        raise OptionError("grpo draws answers of different lengths on every rank, which sharded ranks cannot; set "
                          "run.parallel=ddp")
    torch.manual_seed(run.seed)
    trainee = open_model(recipe.model)
    mixture = Mixture(recipe.data, run.seed, world.rank, world.size, batch_size=run.batch_size,
                      micro_batch_size=run.micro_batch_size, folder=folder)
    objective, feed = STAGES[recipe.stage].build(recipe.section(), trainee, mixture, run.seed)
    return Assembled(trainee, objective, feed)


def run_recipe(recipe: Recipe, path: Path, *, data_folder: Path | None = None,
               show: Callable[[dict[str, Any]], None] = lambda row: None) -> Path:
    """Train and export; goes on where an earlier start stopped. Returns the folder of the export.

    show: called with the row of every step.
    """
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    with join_world() as world:
        made = assemble(recipe, world, data_folder)
        folder = RunFolder(path, recipe, world)
        begun = Checkpoints(folder.checkpoints, recipe, world).steps()
        folder.open(begun[-1] if begun else 0)

        def report(done: StepReport) -> None:
            row = folder.note(done, made.feed.counts())
            if world.is_first:
                show(row)

        with _drawn(folder):
            train(made.objective, made.feed, recipe, folder.checkpoints, world, report)
        return export(made, folder)


@contextmanager
def _drawn(folder: RunFolder) -> Iterator[None]:
    """Curves are drawn however the run ends."""
    try:
        yield
    finally:
        if folder.world.is_first:
            draw_curves(read_metrics(folder.metrics), folder.path / "curves.png",
                        f"{folder.recipe.stage} of {folder.recipe.model.name}")


def export(made: Assembled, folder: RunFolder) -> Path:
    """The trained model: merged, and where it has a LoRA the change alone beside it."""
    gathered = _gathered(made.trainee)
    if folder.world.is_first:
        export_merged(gathered, folder.export)
        if not isinstance(gathered, NanoTrainee) and folder.recipe.model.lora is not None:
            export_unmerged(gathered, folder.path / "change")
    return folder.export


def _gathered(trainee: Trainee) -> Trainee:
    """The trainee with whole tensors where they were sharded."""
    from torch.distributed.tensor import DTensor

    for module in trainee.model.modules():
        for name, parameter in list(module._parameters.items()):
            if isinstance(parameter, DTensor):
                whole = torch.nn.Parameter(parameter.full_tensor().detach(), parameter.requires_grad)
                module._parameters[name] = whole
    return trainee


def foreseen(recipe: Recipe) -> dict[str, Any]:
    """What a run would train, without running it: parts, parameters, memory of weights, gradients and moments."""
    with torch.random.fork_rng(devices=[]):
        made = assemble(recipe, World())
    parts = counted_parts(made.trainee.model)
    learning = sum(p.numel() for p in made.objective.parameters() if p.requires_grad)
    whole = sum(p.numel() * p.element_size() for p in made.objective.parameters())
    size = torch.finfo(DTYPES[recipe.model.dtype]).bits // 8
    return {"parts": {name: {"learns": count, "of": total} for name, (count, total) in parts.items()},
            "learning": learning, "megabytes": round((whole + learning * 3 * size) / 1e6, 1)}
