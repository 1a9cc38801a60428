"""A sample as it may look and sound another time. What happens to it belongs to its name and count, not to chance.

Shapes: N samples. Source: MiniCPM-o 4.5's report, section 4, for the resolutions of pictures (0.2 to 0.4 megapixels).
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance

from ...inputs.messages import AudioPart, ImagePart, Message, Part, TextPart
from ...rates import AUDIO_RATE_HZ
from ..examples import Example
from ..prepare.disturb import disturb

_SIDED = re.compile(r"\b(left|right|clockwise|read|written|word|letter|number)\w*\b|[左右]", re.IGNORECASE)
"""Words that a mirrored picture would make wrong."""
MIN_PIXELS, MAX_PIXELS = 200_000, 400_000


def augment(example: Example, rng: np.random.Generator) -> Example:
    """The example with its pictures cut, recoloured, perhaps mirrored and shrunk, and its sounds disturbed."""
    may_flip = not _SIDED.search(" ".join(_texts(example)))
    flips = may_flip and rng.random() < 0.5
    return replace(example, messages=tuple(
        Message(message.role, tuple(_changed(part, rng, flips) for part in message.parts))
        for message in example.messages))


def _texts(example: Example) -> list[str]:
    said = [part.text for message in example.messages for part in message.parts if isinstance(part, TextPart)]
    return [*said, example.rejected or ""]


def _changed(part: Part, rng: np.random.Generator, flips: bool) -> Part:
    if isinstance(part, ImagePart) and isinstance(part.source, Image.Image):
        return ImagePart(change_image(part.source, rng, flips=flips))
    if isinstance(part, AudioPart) and isinstance(part.source, np.ndarray) and part.rate_hz == AUDIO_RATE_HZ:
        return AudioPart(disturb(part.source, rng), AUDIO_RATE_HZ)
    return part


def change_image(image: Image.Image, rng: np.random.Generator, *, flips: bool) -> Image.Image:
    """Cut to nine tenths of the sides or more, light and colour changed by a fifth at most, at most 0.4 megapixels."""
    width, height = image.size
    w, h = (max(1, round(side * rng.uniform(0.9, 1.0))) for side in (width, height))
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    image = image.crop((x, y, x + w, y + h))
    if flips:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.8, 1.2))
    wanted = rng.uniform(MIN_PIXELS, MAX_PIXELS)
    if w * h > wanted:
        scale = (wanted / (w * h)) ** 0.5
        image = image.resize((max(1, round(w * scale)), max(1, round(h * scale))), Image.Resampling.BICUBIC)
    return image
