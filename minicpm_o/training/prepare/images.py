"""Pictures to what the frozen eye makes of them: images/features.npy, logits.npy, index.json.

A training picture is seen several times, each time cut, mirrored and coloured a little differently; a kept-out one
once, as it is. Shapes: B batch, S picture side, P grid cells, E encoder width.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from ...inputs.image import load_image, to_pixels
from ...model.config import VisionConfig
from ..splits import is_validation
from .work import Marker, bar, draws, find_files, open_array, set_rows, write_json

_LOG = logging.getLogger("minicpm_o")
_SAVE_EVERY = 20
"""Batches between two notes of how far the work is."""

Eyes = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""pixels (B, 3, S, S) float32 -> features (B, P, E), class logits (B, classes)."""


@dataclass(frozen=True)
class PictureSet:
    """A set of pictures: its file of rows, and how often a training picture is seen."""

    name: str
    rows: str
    views: int
    optional: bool = False


PICTURE_SETS = (
    PictureSet("flickr8k", "captions.jsonl", 8),
    PictureSet("coco", "annotations.jsonl", 8),
    PictureSet("caltech101", "labels.jsonl", 2),
    PictureSet("daquar", "qa.jsonl", 2),
    PictureSet("imagenet1000", "labels.jsonl", 2),
    PictureSet("clothing", "labels.jsonl", 1),
    PictureSet("scenes", "scenes.jsonl", 1, optional=True),
)
"""Captioned pictures are few and asked most, so they are seen most."""


@dataclass(frozen=True)
class View:
    """One row of the cache. View 0 is the picture as it is."""

    set: str
    image: str
    view: int
    val: bool
    flip: bool


@dataclass(frozen=True)
class ViewConfig:
    """How far a view may be from the picture, as shares of it."""

    least_area: float = 0.65
    least_stretch: float = 0.93
    """A side may shrink by this much more, so that shapes vary too."""
    flip_share: float = 0.5
    colour: float = 0.15
    """Brightness and colour move up or down by at most this."""
    seed: int = 0


def plan_views(
    data: Path, sets: Iterable[PictureSet] = PICTURE_SETS, config: ViewConfig = ViewConfig(), limit: int | None = None
) -> list[View]:
    """Every row of the cache, in order. Raises InputError when a set is missing that is not optional."""
    views = []
    for one in sets:
        if one.optional and not (data / one.name / one.rows).is_file():
            _LOG.warning("the training set %r is not there; going on without it (docs/training.md says what it is)",
                         one.name)
            continue
        for row in set_rows(data, one.name, one.rows, limit):
            val = is_validation(one.name, row["image"])
            for view in range(1 if val else one.views):
                rng = draws(config.seed, "flip", one.name, row["image"], view)
                views.append(View(one.name, row["image"], view, val, bool(view and rng.random() < config.flip_share)))
    return views


def look(image: Image.Image, view: View, config: ViewConfig = ViewConfig()) -> Image.Image:
    """What this view shows of the picture; the same every time."""
    if view.view == 0:
        return image
    rng = draws(config.seed, "view", view.set, view.image, view.view)
    share = rng.uniform(config.least_area, 1.0) ** 0.5
    wide, high = (max(1, int(side * share * rng.uniform(config.least_stretch, 1.0))) for side in image.size)
    left, top = rng.integers(image.width - wide, endpoint=True), rng.integers(image.height - high, endpoint=True)
    image = image.crop((int(left), int(top), int(left) + wide, int(top) + high))
    if view.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1 - config.colour, 1 + config.colour))
    return image


def prepare_images(
    data: Path,
    out: Path,
    open_eyes: Callable[[], Eyes],
    vision: VisionConfig,
    config: ViewConfig = ViewConfig(),
    *,
    sets: Iterable[PictureSet] = PICTURE_SETS,
    limit: int | None = None,
    batch_size: int = 16,
) -> None:
    """Write the picture cache, going on where an earlier run of the same recipe stopped.

    The index comes last, so a cache that has one is whole. Raises InputError, ImageError.
    """
    folder, views = out / "images", plan_views(data, sets, config, limit)
    index, paths = [asdict(view) for view in views], (folder / "features.npy", folder / "logits.npy")
    recipe = [index, asdict(config), vision.to_dict(), batch_size]
    marker = Marker(folder / "done.json", recipe, len(views), paths)
    if marker.is_finished() and (folder / "index.json").is_file():
        _LOG.info("%s is there already", folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    shapes = ((len(views), vision.grid**2, vision.width), (len(views), vision.num_classes))
    resume = marker.done() > 0
    arrays = [open_array(path, shape, resume=resume) for path, shape in zip(paths, shapes, strict=True)]
    _see_all(views, data, open_eyes(), vision, config, arrays, marker, batch_size)
    write_json(folder / "index.json", index)


def _see_all(
    views: list[View],
    data: Path,
    eyes: Eyes,
    vision: VisionConfig,
    config: ViewConfig,
    arrays: list[np.ndarray],
    marker: Marker,
    batch_size: int,
) -> None:
    starts = range(marker.done(), len(views), batch_size)
    for number, start in enumerate(bar(starts, "images"), start=1):
        chosen = views[start : start + batch_size]
        pieces = [look(load_image(data / view.set / view.image), view, config) for view in chosen]
        for array, seen in zip(arrays, eyes(to_pixels(pieces, vision)), strict=True):
            array[start : start + len(chosen)] = seen
        if number % _SAVE_EVERY == 0 or number == len(starts):
            for array in arrays:
                array.flush()
            marker.reach(start + len(chosen))


def open_eyes(vision: VisionConfig, threads: int) -> Eyes:
    """The frozen eye as the runtime has it, several times faster than in torch. Raises PartMissingError."""
    from ...checkpoints.graphs.vision import build_eye
    from ...checkpoints.torch_legacy import read_state_dict
    from ...runtime.device import make_session, plan_device

    (path,) = find_files(f"vision-{vision.variant}").values()
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "eye.onnx"
        build_eye(read_state_dict(path), vision, graph)
        session = make_session(graph, plan_device(threads=threads), kind="vision")

    def see(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features, class_logits = session.run(["features", "class_logits"], {"pixels": pixels})
        return features, class_logits

    return see
