"""Nano's samples as the engine trains them: trees of questions about cached media, one next-token loss.

A picture's or sound's tokens are a trunk that several questions share as branches (`samples`); frozen encoders ran once
into caches, so that what trains are the connectors and a LoRA on the language model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..model.omni import OmniModel
from .counted import Counted
from .features import FeatureStore
from .objectives.next_token import next_token
from .rows import NOT_LEARNED, Batch, Row, collate
from .samples import Sample
from .terms import Objective, Term

Draw = Callable[[random.Random], list[Sample]]


def tree_row(sample: Sample, store: FeatureStore) -> Row:
    """A sample with what its media are to the encoders; branches see the trunk and themselves."""
    return Row(sample.ids, np.where(sample.is_answer, sample.ids, NOT_LEARNED), store.media(sample),
               ("trunk", *sample.tasks), sample.segments, (0,) * (1 + len(sample.tasks)), sample.positions)


class TreeObjective(Objective):
    """Next token over the answers."""

    def __init__(self, model: OmniModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, micro: Batch) -> dict[str, Term]:
        return {"next_token": next_token(self.model, micro)}

    def counts(self, micro: Batch) -> dict[str, float]:
        return {"next_token": micro.num_labels}

    def num_tokens(self, micro: Batch) -> int:
        return micro.num_tokens

    def blocks(self) -> Sequence[nn.Module]:
        return list(self.model.decoder.model.layers)

    def to_micro(self, micro: Batch, device: Any) -> Batch:
        return micro.to(device)


class TreeFeed(Counted):
    """The samples that a step draws, by length in micro-batches, so that little is padded. One process.

    Counts questions by task.
    """

    def __init__(self, draw: Draw, store: FeatureStore, micro_batch_size: int, seed: int = 0) -> None:
        super().__init__()
        self.draw, self.store, self.micro_batch_size, self.seed = draw, store, micro_batch_size, seed

    def step(self, step: int) -> list[Batch]:
        samples = self.draw(random.Random(f"{self.seed}/{step}"))
        self._counts.update(task for sample in samples for task in sample.tasks)
        return batches(samples, self.store, self.micro_batch_size)


def batches(samples: Sequence[Sample], store: FeatureStore, size: int) -> list[Batch]:
    """Samples of like length together, at most `size` in a batch."""
    rows = [tree_row(sample, store) for sample in sorted(samples, key=lambda sample: len(sample.ids))]
    return [collate(rows[start : start + size]) for start in range(0, len(rows), size)]


@torch.inference_mode()
def held_out_loss(model: OmniModel, held_out: Sequence[Batch]) -> dict[str, float]:
    """Mean next-token loss by task, without dropout."""
    was_training = model.training
    model.eval()
    sums: dict[str, tuple[float, float]] = {}
    for batch in held_out:
        for task, (total, count) in next_token(model, batch).parts.items():
            before = sums.get(task, (0.0, 0.0))
            sums[task] = (before[0] + total, before[1] + count)
    model.train(was_training)
    return {task: total / count for task, (total, count) in sorted(sums.items())}
