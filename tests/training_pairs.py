"""A tiny trainee, small pictures and sounds with words, and a source that gives them out: what tests of training share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, TextPart
from minicpm_o.training.examples import Example

if TYPE_CHECKING:
    from minicpm_o.training.trainee import OfficialTrainee

NAMES = ("red", "green", "blue", "white")
COLOURS = ((220, 20, 20), (20, 200, 20), (20, 20, 220), (240, 240, 240))


def tiny_trainee(home: Path) -> OfficialTrainee:
    """tiny-4.5, looking at pictures of 6 x 6 patches instead of 32 x 32."""
    from minicpm_o.training.trainee import open_trainee

    trainee = open_trainee("tiny-4.5", home=home)
    trainee.processor.config = replace(trainee.config, slicing=replace(trainee.config.slicing, scale_px=84))
    return trainee


def picture(number: int, size: tuple[int, int] = (42, 42)) -> Image.Image:
    """One colour, with a grain of its own."""
    grain = np.random.default_rng(number).integers(-15, 15, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.array(COLOURS[number % 4]) + grain, 0, 255).astype(np.uint8))


def sound(number: int, samples: int = 9_600) -> np.ndarray:
    """A tone."""
    return (0.2 * np.sin(0.05 * (1 + number % 4) * np.arange(samples))).astype(np.float32)


def picture_pair(number: int, size: tuple[int, int] = (42, 42)) -> Example:
    return Example((Message("user", (ImagePart(picture(number, size)),)),
                    Message("assistant", (TextPart(f"It is {NAMES[number % 4]}, number {number}."),))),
                   "picture", f"picture {number}")


def sound_pair(number: int) -> Example:
    return Example((Message("user", (AudioPart(sound(number), 16_000),)),
                    Message("assistant", (TextPart(f"Tone {number % 4} of {number}."),))), "sound", f"sound {number}")


@dataclass
class Still:
    """The same examples at every step, in micro-batches."""

    micros: Sequence[Sequence[Example]]

    def draw(self, step: int) -> Sequence[Sequence[Example]]:
        return self.micros

    def state(self) -> dict[str, Any]:
        return {"given": 1}

    def load(self, state: Mapping[str, Any]) -> None: ...

    def counts(self) -> dict[str, int]:
        return {"still": 1}
