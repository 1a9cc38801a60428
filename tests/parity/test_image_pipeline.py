"""Pictures to grids, pieces, patches and placeholders against the reference's processor."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from minicpm_o.inputs.image import load_image
from minicpm_o.inputs.slices import cut_picture, image_placeholder, slice_picture, to_strip
from minicpm_o.model.config import SlicingConfig
from oracle import assert_close, load_outputs, oracle_cases, read_json

PIXEL_ATOL, STATISTIC_ATOL = 1.6e-2, 1e-3
"""Against another version of Pillow; with its own resize the pixels are the same."""

CASES = pytest.mark.parametrize("case", oracle_cases("_02_image_pipeline"))


def slicing(case: Path) -> SlicingConfig:
    """The processor's own config.json, which is not a model's."""
    values = read_json(case / "config.json")
    return SlicingConfig(max_slices=values["max_slice_nums"], scale_px=values["scale_resolution"],
                         patch_px=values["patch_size"], use_image_id=values["use_image_id"])


def entries(case: Path) -> list[tuple[dict[str, Any], Image.Image]]:
    """What the reference says of each picture and limit of slices, and the picture."""
    files = [case / picture["file"] for picture in read_json(case / "inputs.json")["images"]]
    return [(entry, load_image(files[entry["image"]])) for entry in read_json(case / "outputs.json")]


@CASES
def test_grids_and_sizes(case: Path) -> None:
    for entry, image in entries(case):
        limit = entry["max_slice_nums"]
        cut, grid = cut_picture(image, slicing(case), max_slices=limit)
        assert (None if grid is None else list(grid)) == entry["grid_cols_rows"], image.size
        assert [list(piece.size) for piece in cut] == entry["piece_sizes_wh"]
        sliced = slice_picture(image, slicing(case), max_slices=limit)
        assert sliced.grid_sizes.tolist() == entry["tgt_sizes_rows_cols"]
        assert len(sliced.pieces) == entry["n_pieces"]
        strips = [to_strip(piece, slicing(case).patch_px) for piece in sliced.pieces]
        if "strip_shapes" in entry:
            assert [list(strip.shape) for strip in strips] == entry["strip_shapes"]


@CASES
def test_pixels(case: Path) -> None:
    samples = load_outputs(case)
    for entry, image in entries(case):
        sliced = slice_picture(image, slicing(case), max_slices=entry["max_slice_nums"])
        for index, piece in enumerate(sliced.pieces):
            name = f"img{entry['image']}.max{entry['max_slice_nums']}.piece{index}"
            strip = to_strip(piece, slicing(case).patch_px)
            assert_close(strip[:, ::5, ::211], samples[name], PIXEL_ATOL, name)
            assert_close(strip.mean(dtype=np.float64), entry["mean"][index], STATISTIC_ATOL, f"mean of {name}")
            assert_close(strip.std(dtype=np.float64), entry["std"][index], STATISTIC_ATOL, f"deviation of {name}")


@CASES
def test_resized_pixels_are_pillows_own(case: Path) -> None:
    made_with = "13.0.0"
    if PIL.__version__ != made_with:
        pytest.skip(f"the hashes are those of Pillow {made_with}; here is {PIL.__version__}")
    for entry, image in entries(case):
        cut, _ = cut_picture(image, slicing(case), max_slices=entry["max_slice_nums"])
        assert [hashlib.sha256(piece.tobytes()).hexdigest() for piece in cut] == entry["sha256_rgb_u8"], image.size


@CASES
def test_placeholders(case: Path) -> None:
    for entry, image in entries(case):
        _, grid = cut_picture(image, slicing(case), max_slices=entry["max_slice_nums"])
        queries = read_json(case / "config.json")["image_feature_size"]
        assert image_placeholder(grid, queries=queries, index=entry["image"]) == entry["placeholder_with_id"]
        assert image_placeholder(grid, queries=queries) == entry["placeholder_without_id"]
