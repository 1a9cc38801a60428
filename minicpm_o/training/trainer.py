"""The loop: batches of samples over cached features, one loss, one optimiser, a checkpoint that resumes.

Frozen encoders run once into caches; what trains are the connectors and a LoRA on the language model (peft).
Shapes: B batch, T fused tokens, V vocabulary.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.omni import EncodedMedia, OmniModel, tree_bias
from .features import FeatureStore
from .samples import Sample


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast."""

    steps: int = 2000
    batch_size: int = 6
    """Trees, each of one to seven questions."""
    micro_batch_size: int = 3
    """Trees that run together; they are sorted by length first, so that little is padded."""
    connector_lr: float = 1e-3
    lora_lr: float = 8e-4
    lora_rank: int = 16
    lora_dropout: float = 0.0
    weight_decay: float = 0.02
    warmup_steps: int = 30
    max_seconds: float = 3600.0
    """The cosine follows whichever of steps and seconds is nearer its end, so a slow machine still anneals."""
    log_every: int = 10
    save_every: int = 25
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Trees as tensors, right-padded."""

    ids: list[Tensor]
    media: list[EncodedMedia]
    labels: Tensor
    """(B, T) of the next token, -100 where nothing is asked."""
    positions: Tensor
    """(B, T)."""
    segments: Tensor
    """(B, T): 0 the trunk, 1... the branches, -1 padding."""
    tasks: list[tuple[str, ...]]
    """Per sample, one name per branch."""

    @property
    def num_labels(self) -> int:
        return int((self.labels != -100).sum())


def collate(samples: Sequence[Sample], store: FeatureStore) -> Batch:
    """Samples to a batch; reads the caches."""
    longest = max(len(sample.ids) for sample in samples)
    labels = torch.full((len(samples), longest), -100)
    positions = torch.zeros(len(samples), longest, dtype=torch.long)
    segments = torch.full((len(samples), longest), -1)
    for row, sample in enumerate(samples):
        length = len(sample.ids)
        next_ids = torch.from_numpy(np.where(sample.is_answer, sample.ids, -100))
        labels[row, : length - 1] = next_ids[1:]
        positions[row, :length] = torch.from_numpy(sample.positions)
        segments[row, :length] = torch.from_numpy(sample.segments)
    ids = [torch.from_numpy(sample.ids) for sample in samples]
    media = [store.media(sample) for sample in samples]
    return Batch(ids, media, labels, positions, segments, [sample.tasks for sample in samples])


def collate_by_length(samples: Sequence[Sample], store: FeatureStore, size: int) -> list[Batch]:
    """Samples to batches of at most `size` with like lengths."""
    by_length = sorted(samples, key=lambda sample: len(sample.ids))
    return [collate(by_length[i : i + size], store) for i in range(0, len(by_length), size)]


def batch_loss(model: OmniModel, batch: Batch) -> tuple[Tensor, dict[str, tuple[float, int]]]:
    """Next-token loss over the answers, and (sum, count) per task for the log."""
    fused = model.fuse(batch.ids, batch.media)
    embeds = nn.utils.rnn.pad_sequence(fused, batch_first=True)  # (B, T, D)
    wanted = batch.labels != -100
    logits = model(embeds, batch.positions, tree_bias(batch.segments), wanted)  # (wanted, V)
    losses = F.cross_entropy(logits.float(), batch.labels[wanted], reduction="none")
    rows, columns = wanted.nonzero(as_tuple=True)
    names = [batch.tasks[r][s - 1] for r, s in zip(rows.tolist(), batch.segments[rows, columns].tolist(), strict=True)]
    per_task: dict[str, tuple[float, int]] = {}
    for name, loss in zip(names, losses.detach().tolist(), strict=True):
        total, count = per_task.get(name, (0.0, 0))
        per_task[name] = (total + loss, count + 1)
    return losses.mean(), per_task


def make_optimizer(model: OmniModel, config: TrainConfig) -> torch.optim.Optimizer:
    lora = [p for p in model.language.parameters() if p.requires_grad]
    connectors = [p for p in model.connectors.parameters() if p.requires_grad]
    groups = [
        {"params": connectors, "lr": config.connector_lr},
        {"params": lora, "lr": config.lora_lr},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return optimizer


def rate(progress: float, step: int, warmup_steps: int) -> float:
    """Share of the peak rate: linear warm-up, then a cosine to a twentieth."""
    warm = min(1.0, (step + 1) / warmup_steps)
    return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def trainable_state(model: OmniModel) -> dict[str, Tensor]:
    """Name -> tensor of everything that trains."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def save_checkpoint(path: Path, model: OmniModel, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    temporary = path.with_suffix(".tmp")
    state = {"model": trainable_state(model), "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds}
    torch.save(state, temporary)
    temporary.replace(path)


def train(
    model: OmniModel,
    draw: Callable[[random.Random], list[Sample]],
    store: FeatureStore,
    config: TrainConfig,
    run_folder: Path,
) -> None:
    """Train until steps or seconds are used up; resumes from run_folder/checkpoint.pt when it is there."""
    run_folder.mkdir(parents=True, exist_ok=True)
    (run_folder / "config.json").write_text(json.dumps(asdict(config), indent=2))
    optimizer = make_optimizer(model, config)
    checkpoint, step, spent = run_folder / "checkpoint.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]
    started, log = time.monotonic() - spent, _Log(run_folder / "metrics.jsonl")
    model.train()
    while step < config.steps and time.monotonic() - started < config.max_seconds:
        seconds = time.monotonic() - started
        scale = rate(max(step / config.steps, seconds / config.max_seconds), step, config.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * scale
        batches = collate_by_length(draw(random.Random(f"{config.seed}/{step}")), store, config.micro_batch_size)
        num_labels = sum(batch.num_labels for batch in batches)
        for batch in batches:
            loss, per_task = batch_loss(model, batch)
            (loss * (batch.num_labels / num_labels)).backward()
            log.add(per_task, int((batch.segments >= 0).sum()))
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % config.log_every == 0:
            log.write(step, time.monotonic() - started, scale)
        if step % config.save_every == 0:
            save_checkpoint(checkpoint, model, optimizer, step, time.monotonic() - started)
    save_checkpoint(checkpoint, model, optimizer, step, time.monotonic() - started)


class _Log:
    """Loss per task over the last steps, to jsonl and to the terminal."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}
        self._tokens, self._since = 0, time.monotonic()

    def add(self, per_task: dict[str, tuple[float, int]], num_tokens: int) -> None:
        for task, (total, count) in per_task.items():
            old_total, old_count = self._sums.get(task, (0.0, 0))
            self._sums[task] = (old_total + total, old_count + count)
        self._tokens += num_tokens

    def write(self, step: int, seconds: float, scale: float) -> None:
        losses = {task: round(total / max(count, 1), 3) for task, (total, count) in sorted(self._sums.items())}
        speed = self._tokens / (time.monotonic() - self._since)
        row = {"step": step, "seconds": round(seconds), "tokens_per_s": round(speed), "rate": round(scale, 3), **losses}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
        self._reset()


def evaluate_loss(model: OmniModel, batches: Iterator[Batch]) -> dict[str, float]:
    """Mean next-token loss per task, without dropout."""
    was_training = model.training
    model.eval()
    sums: dict[str, tuple[float, int]] = {}
    with torch.inference_mode():
        for batch in batches:
            for task, (total, count) in batch_loss(model, batch)[1].items():
                old_total, old_count = sums.get(task, (0.0, 0))
                sums[task] = (old_total + total, old_count + count)
    model.train(was_training)
    return {task: total / max(count, 1) for task, (total, count) in sorted(sums.items())}
