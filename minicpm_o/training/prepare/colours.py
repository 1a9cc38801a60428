"""Labelled photographs to the colours of the thing and of what lies behind it: colours.json, by pixels alone.

Where the thing is, the frozen classifier tells: the cells whose features speak for its likeliest class (class
activation maps, arXiv:1512.04150). A colour is told only where one name covers most of the pixels.
Shapes: P grid cells, E encoder width.
"""

from __future__ import annotations

import colorsys
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ...inputs.image import load_image
from ...model.config import VisionConfig
from ..features import ImageCache
from ..mixture import read_stage
from .work import Marker, bar, find_files, write_json

_LOG = logging.getLogger("minicpm_o")
LABELLED = ("caltech101", "imagenet1000")
THING_SHARE = 0.2
"""The cells that speak loudest for the class are taken for the thing, as a share of all cells ..."""
BEHIND_SHARE = 0.4
"""... and the quietest for what lies behind."""
MOST = 0.5
PLAIN = 0.85
"""Share of pixels that must have one colour name: for a thing, and for a background to be called plain."""
_CELL_PX = 8


def colour_name(red: int, green: int, blue: int) -> str:
    """The everyday name of a colour, by hue where there is one; components 0 to 255."""
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.2:
        return "black"
    if saturation < 0.18:
        return "white" if value > 0.8 else "grey"
    degrees = hue * 360
    if degrees < 40 and value < 0.62:
        return "brown"
    limits = ((15, "red"), (42, "orange"), (70, "yellow"), (165, "green"), (195, "cyan"), (255, "blue"),
              (290, "purple"), (340, "pink"), (361, "red"))
    return next(name for limit, name in limits if degrees < limit)


def shared_colour(pixels: Sequence[Sequence[int]], share: float) -> str | None:
    """The name that more than `share` of the pixels have; None where no name has so many."""
    names = Counter(colour_name(*pixel) for pixel in pixels)
    name, count = names.most_common(1)[0]
    return name if count > share * sum(names.values()) else None


def thing_and_ground(image: Image.Image, activation: np.ndarray) -> tuple[str | None, str | None]:
    """Colours of the thing and of a plain ground; activation (P,): how much each cell speaks for the thing."""
    grid = round(len(activation) ** 0.5)
    small = np.asarray(image.convert("RGB").resize((grid * _CELL_PX,) * 2, Image.Resampling.BOX))
    cells = small.reshape(grid, _CELL_PX, grid, _CELL_PX, 3).swapaxes(1, 2).reshape(len(activation), -1, 3)
    order = np.argsort(activation)
    thing = cells[order[-max(1, int(THING_SHARE * len(order))) :]].reshape(-1, 3)
    behind = cells[order[: int(BEHIND_SHARE * len(order))]].reshape(-1, 3)
    return shared_colour(thing.tolist(), MOST), shared_colour(behind.tolist(), PLAIN)


def prepare_colours(data: Path, out: Path, open_classes: Callable[[], np.ndarray]) -> None:
    """Write colours.json: [set, image, colour of the thing or null, colour of the ground or null] for every picture.

    open_classes: the classifier's weights (classes, E), asked for where there is work. Raises InputError, ImageError.
    """
    index = read_stage(out / "images" / "index.json", "images")
    rows = [row for row, entry in enumerate(index) if entry["set"] in LABELLED and entry["view"] == 0]
    path = out / "colours.json"
    marker = Marker(out / "colours.done.json", [index[row] for row in rows], len(rows), (path,))
    if marker.is_finished():
        _LOG.info("%s is there already", path)
        return
    images, classes, found = ImageCache.open(out / "images"), open_classes(), []
    for row in bar(rows, "colours"):
        entry = index[row]
        activation = images.features[row].astype(np.float32) @ classes[int(np.argmax(images.class_logits[row]))]
        picture = load_image(data / entry["set"] / entry["image"])
        found.append([entry["set"], entry["image"], *thing_and_ground(picture, activation)])
    write_json(path, found)
    marker.reach(len(rows))


def open_classes(vision: VisionConfig) -> np.ndarray:
    """The frozen classifier's weights (classes, E). Raises PartMissingError."""
    from ...checkpoints.torch_legacy import read_state_dict

    (weights,) = find_files(f"vision-{vision.variant}").values()
    return read_state_dict(weights)["_fc.weight"]
