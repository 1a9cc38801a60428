"""A picture to a thumbnail and slices, each a list of normalised patches, as the official checkpoints look at it.

Knows no files; pictures come from `image.load_image`, which halves those above SHRINK_PIXELS (what is left is still
more than 20 slices' worth, so up to that limit the grid stays what it was). Letters: n pieces (thumbnail and slices),
P patches of one, C = 3 * patch_px ** 2 numbers of a patch.

Source: MiniCPM-V (arXiv:2403.11703, adaptive slicing; arXiv:2307.06304, NaViT's patches of pictures of any shape).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import ImageError, OptionError
from ..model.config import SlicingConfig

Size = tuple[int, int]
"""Width and height, or columns and rows."""

MAX_PIECE_PATCHES = 4096
"""A picture so long that its piece has more patches is refused: the attention over them would fill the memory."""


@dataclass(frozen=True)
class SlicePlan:
    """Into what a picture is resized and cut."""

    thumbnail: Size
    """Width and height of the whole picture's piece."""
    grid: Size | None
    """Columns and rows of slices; None: the thumbnail is all."""
    slice: Size | None
    """Width and height of one slice."""


@dataclass(frozen=True)
class SlicedImage:
    """Thumbnail first, then the slices row by row."""

    pieces: tuple[np.ndarray, ...]
    """(P, C) float32 each, patches in reading order, numbers of a patch by channel, row, column."""
    grid_sizes: np.ndarray
    """(n, 2) int32: rows and columns of patches of each piece."""
    grid: Size | None
    """Columns and rows of slices."""


# Slicing


def slice_picture(image: Image.Image, config: SlicingConfig, *, max_slices: int | None = None) -> SlicedImage:
    """Cut a picture in RGB into thumbnail and slices and these into normalised patches.

    max_slices: instead of the config's. Raises ImageError if the picture is not RGB, has no pixels or is too long and
    thin, OptionError if max_slices is less than 1.
    """
    cut, grid = cut_picture(image, config, max_slices=max_slices)
    patch_px = config.patch_px
    pieces = tuple(to_patches(piece, patch_px) for piece in cut)
    sizes = [(piece.height // patch_px, piece.width // patch_px) for piece in cut]
    return SlicedImage(pieces, np.array(sizes, dtype=np.int32), grid)


def cut_picture(image: Image.Image, config: SlicingConfig, *,
              max_slices: int | None = None) -> tuple[list[Image.Image], Size | None]:
    """Thumbnail and slices as pictures, and the grid (columns, rows); errors as of `slice_picture`."""
    if image.mode != "RGB":
        raise ImageError(f"the picture has mode {image.mode}, expected RGB; pass it through load_image first")
    plan = plan_slices(image.size, config, max_slices=max_slices)
    thumbnail = image.resize(plan.thumbnail, Image.Resampling.BICUBIC)
    if plan.grid is None or plan.slice is None:
        return [thumbnail], None
    (columns, rows), (width, height) = plan.grid, plan.slice
    large = image.resize((columns * width, rows * height), Image.Resampling.BICUBIC)
    boxes = [(x * width, y * height, (x + 1) * width, (y + 1) * height) for y in range(rows) for x in range(columns)]
    return [thumbnail, *(large.crop(box) for box in boxes)], plan.grid


def plan_slices(size: Size, config: SlicingConfig, *, max_slices: int | None = None) -> SlicePlan:
    """size is (width, height); errors as of `slice_picture`."""
    limit = config.max_slices if max_slices is None else max_slices
    if limit < 1:
        raise OptionError(f"max_slices is {limit}; it must be 1 or more (1 keeps pictures whole)")
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"the picture has {width} x {height} pixels; give a picture with content")
    grid = choose_grid(width, height, config.scale_px, limit)
    thumbnail = _best_size(width, height, config, enlarge=grid is None)
    plan = SlicePlan(thumbnail, None, None) if grid is None else SlicePlan(
        thumbnail, grid, _slice_size(width, height, grid, config))
    _check_length(plan, size, config)
    return plan


def choose_grid(width: int, height: int, scale_px: int, limit: int) -> Size | None:
    """Columns and rows whose shape is nearest the picture's, about as many as it holds squares of scale_px.

    None when it holds one at most. Of equally near grids the first counts: fewer slices, then fewer columns.
    """
    wanted = min(math.ceil(width * height / (scale_px * scale_px)), limit)
    if wanted <= 1:
        return None
    log_aspect = math.log(width / height)
    best, least = (1, 1), math.inf
    for columns, rows in _grids(wanted, limit):
        error = abs(log_aspect - math.log(columns / rows))
        if error < least:
            best, least = (columns, rows), error
    return best


def _grids(wanted: int, limit: int) -> Iterator[Size]:
    """Every grid of one slice less than wanted, as many, or one more."""
    for count in (wanted - 1, wanted, wanted + 1):
        if count != 1 and count <= limit:
            yield from ((columns, count // columns) for columns in range(1, count + 1) if count % columns == 0)


def _best_size(width: float, height: float, config: SlicingConfig, *, enlarge: bool) -> Size:
    """About as many pixels as a square of scale_px in the same shape, in whole patches; less stays unless enlarged."""
    scale_px = config.scale_px
    if width * height > scale_px * scale_px or enlarge:
        aspect = width / height
        height = int(scale_px / math.sqrt(aspect))
        width = int(height * aspect)                                        # of the cut height, as the training did
    return _snap(width, config.patch_px), _snap(height, config.patch_px)


def _slice_size(width: int, height: int, grid: Size, config: SlicingConfig) -> Size:
    columns, rows = grid
    return _best_size(_snap(width, columns) / columns, _snap(height, rows) / rows, config, enlarge=True)


def _snap(length: float, step: int) -> int:
    """The nearest multiple of step, at least one; halves go to the even one, as Python rounds."""
    return max(round(length / step) * step, step)


def _check_length(plan: SlicePlan, size: Size, config: SlicingConfig) -> None:
    for width, height in filter(None, (plan.thumbnail, plan.slice)):
        patches = (width // config.patch_px) * (height // config.patch_px)
        if patches > MAX_PIECE_PATCHES:
            raise ImageError(f"a picture of {size[0]} x {size[1]} pixels is too long and thin: it would be looked at "
                             f"as {patches} patches, at most {MAX_PIECE_PATCHES} are; cut it into pieces")


# Patches


def normalise(pixels: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]."""
    values: np.ndarray = pixels.astype(np.float32) / np.float32(255)
    values -= np.float32(0.5)
    values /= np.float32(0.5)
    return values


def to_patches(image: Image.Image, patch_px: int) -> np.ndarray:
    """A picture in RGB of whole patches -> (P, C) float32, normalised."""
    width, height = image.size
    rows, columns = height // patch_px, width // patch_px
    if image.mode != "RGB" or (rows * patch_px, columns * patch_px) != (height, width):
        raise ImageError(f"a piece is {width} x {height} pixels in mode {image.mode}, expected RGB and multiples of "
                         f"{patch_px}; cut it with slice_picture")
    pixels = normalise(np.asarray(image)).reshape(rows, patch_px, columns, patch_px, 3)
    by_patch: np.ndarray = pixels.transpose(0, 2, 4, 1, 3)                  # (rows, columns, 3, y, x)
    return by_patch.reshape(rows * columns, -1)


def to_strip(patches: np.ndarray, patch_px: int) -> np.ndarray:
    """(P, C) -> (3, patch_px, P * patch_px): the patches side by side, as the reference's processor hands them over."""
    by_row: np.ndarray = patches.reshape(len(patches), -1, patch_px, patch_px).transpose(1, 2, 0, 3)  # (3, y, P, x)
    return by_row.reshape(len(by_row), patch_px, -1)


def from_strip(strip: np.ndarray, patch_px: int) -> np.ndarray:
    """Inverse of `to_strip`. Raises ImageError if the strip is not whole patches."""
    if strip.ndim != 3 or strip.shape[1] != patch_px or strip.shape[2] % patch_px:
        raise ImageError(f"a strip of patches has shape {strip.shape}, expected (channels, {patch_px}, a multiple of "
                         f"{patch_px})")
    by_patch: np.ndarray = strip.reshape(len(strip), patch_px, -1, patch_px).transpose(2, 0, 1, 3)  # (P, 3, y, x)
    return by_patch.reshape(len(by_patch), -1)


# Placeholders


def image_placeholder(grid: Size | None, *, queries: int, index: int | None = None, unknown: str = "<unk>") -> str:
    """What a sliced picture is in the prompt: its number, the thumbnail's tokens, then the slices' row by row.

    grid: columns and rows; queries: tokens of a piece; index: the picture's number in the prompt from 0, None leaves it
    out; unknown: the text of the token that a feature takes the place of.
    """
    run = unknown * queries
    number = "" if index is None else f"<image_id>{index}</image_id>"
    columns, rows = grid or (0, 0)
    row = f"<slice>{run}</slice>" * columns
    return f"{number}<image>{run}</image>" + "\n".join([row] * rows)
