"""The eye learns what stands where before any variant begins, as the encoders of real systems were trained before.

All variants of a seed begin with the same eye, and go on training it. Without this lesson none of them learned within a
thousand steps to tell whether a colour is in the picture. Nothing of who does what to whom is taught here.
Shapes: B scenes, P picture's tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batches import pictures_of
from .learner import Learner
from .models import Eye, FusionConfig
from .scenes import HUES, KINDS, SIDE_PX, Scene, make_scene

NOTHING = 0
"""Class of a field where no thing has its middle."""


@dataclass(frozen=True)
class EyeLesson:
    """How long and how fast."""

    steps: int = 600
    scenes: int = 32
    rate: float = 1e-3


def teach_eye(eye: Eye, config: FusionConfig, seed: int, lesson: EyeLesson) -> float:
    """In place: every token tells the colour and the kind of the thing in its field. Returns the last losses' mean."""
    heads = nn.ModuleList(nn.Linear(config.language.width, 1 + len(names)) for names in (HUES, KINDS))
    learner, losses = Learner(nn.ModuleList([eye, heads]), lesson.rate, lesson.steps), []
    for step in range(lesson.steps):
        scenes = [make_scene("train", seed, step * lesson.scenes + i) for i in range(lesson.scenes)]
        losses.append(learner.step(_loss(eye, heads, scenes, config)))
    return float(np.mean(losses[-20:]))


def _loss(eye: Eye, heads: nn.ModuleList, scenes: Sequence[Scene], config: FusionConfig) -> Tensor:
    tokens = eye(pictures_of(scenes))  # (B, P, D)
    labels = torch.from_numpy(np.stack([labels_of(scene, config) for scene in scenes]))  # (B, P, 2)
    return sum((F.cross_entropy(head(tokens).flatten(0, 1), labels[..., number].flatten())
                for number, head in enumerate(heads)), torch.zeros(()))


def labels_of(scene: Scene, config: FusionConfig) -> np.ndarray:
    """(P, 2) colour and kind of the thing whose middle lies in a token's field, NOTHING for none."""
    field, side = config.patch_px * config.merge, SIDE_PX // (config.patch_px * config.merge)
    labels = np.full((side * side, 2), NOTHING)
    for thing in scene.things:
        row, column = (min(side - 1, int(place // field)) for place in (thing.y, thing.x))
        labels[row * side + column] = 1 + HUES.index(thing.colour), 1 + KINDS.index(thing.kind)
    return labels
