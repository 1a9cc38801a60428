"""Adaptive slices of a picture, its patches and its placeholder.

slicing.json holds what the reference's processor makes of 72 sizes and limits, and the rows of the learned table at
which it places the patches of a line.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicpm_o.errors import ImageError, OptionError
from minicpm_o.inputs.image import load_image
from minicpm_o.inputs.slices import (
    cut_picture,
    from_strip,
    image_placeholder,
    normalise,
    plan_slices,
    slice_picture,
    to_patches,
    to_strip,
)
from minicpm_o.model.config import SlicingConfig
from minicpm_o.model.encoders.positions import bucket_ids, bucket_positions, grid_places, place_sincos

GOLDEN = json.loads((Path(__file__).parent / "slicing.json").read_text(encoding="utf-8"))
CONFIG = SlicingConfig()


def picture(width: int, height: int) -> Image.Image:
    """Every pixel different from its neighbours, and the corners from each other."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x % 251, y % 241, (x + y) % 239], axis=-1).astype(np.uint8))


def as_list(size: tuple[int, int] | None) -> list[int] | None:
    return None if size is None else list(size)


@pytest.mark.parametrize("golden", GOLDEN["slicing"],
                         ids=lambda case: "{}x{}-{}".format(*case["size"], case["max_slice_nums"]))
def test_plans_of_the_reference(golden: dict) -> None:
    plan = plan_slices(tuple(golden["size"]), CONFIG, max_slices=golden["max_slice_nums"])
    assert as_list(plan.grid) == golden["grid"]
    assert as_list(plan.thumbnail) == golden["source"]
    assert as_list(plan.slice) == golden["slice"]
    columns, rows = plan.grid or (0, 0)
    assert columns * rows == golden["n_slices"]
    assert [plan.thumbnail[1] // CONFIG.patch_px, plan.thumbnail[0] // CONFIG.patch_px] == golden["src_tgt"]
    assert image_placeholder(plan.grid, queries=64).count("<unk>") == golden["n_unk"]


@pytest.mark.parametrize("count", sorted(map(int, GOLDEN["buckets"])))
def test_rows_of_the_learned_table(count: int) -> None:
    assert bucket_positions(count, 70).tolist() == GOLDEN["buckets"][str(count)]


@pytest.mark.parametrize("side", [7, 32, 70])
def test_rows_are_rounded_as_torch_rounds(side: int) -> None:
    torch = pytest.importorskip("torch")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("torch rounds by vectors of another length here; the official weights know those of x86")
    borders = torch.arange(1 / side, 1.0, 1 / side)
    for count in range(1, 600):
        places = torch.arange(0, 1 - 1e-6, 1 / torch.tensor(count))
        expected = torch.bucketize(places, borders, right=True).numpy()
        np.testing.assert_array_equal(bucket_positions(count, side), expected, f"{count} patches")


def test_ids_run_row_by_row() -> None:
    assert bucket_ids(2, 3, 70).tolist() == [0, 23, 46, 35 * 70, 35 * 70 + 23, 35 * 70 + 46]
    assert grid_places(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_sines_of_column_then_row() -> None:
    table = place_sincos(np.array([[3, 5]]), 4096)[0]
    expected = [np.sin(5), np.cos(5), np.sin(3), np.cos(3)]                 # the first frequency is 1
    np.testing.assert_allclose(table[[0, 1024, 2048, 3072]], expected, atol=1e-6)
    assert table.dtype == np.float32 and table.shape == (4096,)


def test_pieces_and_grid_sizes() -> None:
    sliced = slice_picture(picture(640, 480), CONFIG)
    assert sliced.grid == (2, 1)
    assert sliced.grid_sizes.tolist() == [[28, 37], [39, 26], [39, 26]] and sliced.grid_sizes.dtype == np.int32
    assert [piece.shape for piece in sliced.pieces] == [(28 * 37, 588), (39 * 26, 588), (39 * 26, 588)]
    assert all(piece.dtype == np.float32 for piece in sliced.pieces)
    assert slice_picture(picture(640, 480), CONFIG, max_slices=1).grid is None


def test_slices_are_cut_row_by_row() -> None:
    image = picture(1344, 1344)                                             # 3 x 3 of 448: no slice is resized
    cut, grid = cut_picture(image, CONFIG)
    assert grid == (3, 3) and len(cut) == 10
    for index, piece in enumerate(cut[1:]):
        x, y = index % 3 * 448, index // 3 * 448
        np.testing.assert_array_equal(np.asarray(piece), np.asarray(image.crop((x, y, x + 448, y + 448))))


def test_a_picture_of_448_px_is_not_resized() -> None:
    image = picture(448, 448)
    (piece,), grid = cut_picture(image, CONFIG)
    assert grid is None and np.array_equal(np.asarray(piece), np.asarray(image))


def test_patches_in_reading_order() -> None:
    image = picture(42, 28)
    patches = to_patches(image, 14)
    pixels = normalise(np.asarray(image))
    assert patches.shape == (6, 588)
    for index in range(6):
        y, x = index // 3 * 14, index % 3 * 14
        np.testing.assert_array_equal(patches[index], pixels[y : y + 14, x : x + 14].transpose(2, 0, 1).ravel())


def test_normalise() -> None:
    values = normalise(np.array([0, 51, 255], dtype=np.uint8))
    np.testing.assert_allclose(values, [-1, -0.6, 1], atol=1e-7)
    assert values.dtype == np.float32


def test_strips_and_back() -> None:
    patches = to_patches(picture(42, 28), 14)
    strip = to_strip(patches, 14)
    assert strip.shape == (3, 14, 6 * 14)
    np.testing.assert_array_equal(strip[:, :, 14:28], patches[1].reshape(3, 14, 14))
    np.testing.assert_array_equal(from_strip(strip, 14), patches)


def test_placeholder() -> None:
    assert image_placeholder(None, queries=2) == "<image><unk><unk></image>"
    assert image_placeholder((2, 2), queries=1, index=3, unknown="u") == (
        "<image_id>3</image_id><image>u</image><slice>u</slice><slice>u</slice>\n<slice>u</slice><slice>u</slice>")


def test_other_scales() -> None:
    sliced = slice_picture(picture(64, 48), SlicingConfig(max_slices=4, scale_px=28, patch_px=7))
    assert sliced.grid == (2, 2) and all(piece.shape[1] == 147 for piece in sliced.pieces)
    for piece, (rows, columns) in zip(sliced.pieces, sliced.grid_sizes.tolist(), strict=True):
        assert len(piece) == rows * columns


def test_long_and_thin() -> None:
    assert slice_picture(picture(5000, 1), CONFIG).grid_sizes.tolist() == [[1, 2143]]
    assert slice_picture(picture(1, 300), CONFIG).pieces[0].shape[0] == plan_patches((1, 300))
    with pytest.raises(ImageError, match="40000 x 1 pixels is too long and thin"):
        slice_picture(picture(40_000, 1), CONFIG)


def plan_patches(size: tuple[int, int]) -> int:
    width, height = plan_slices(size, CONFIG).thumbnail
    return (width // 14) * (height // 14)


def test_halved_pictures_keep_their_grid() -> None:
    image = load_image(Image.new("RGB", (6000, 4000)))
    assert image.size == (3000, 2000)
    for limit in (4, 9, 20):
        assert plan_slices(image.size, CONFIG, max_slices=limit).grid == (
            plan_slices((6000, 4000), CONFIG, max_slices=limit).grid)


def test_wrong_input() -> None:
    with pytest.raises(ImageError, match="mode L, expected RGB; pass it through load_image"):
        slice_picture(Image.new("L", (50, 50)), CONFIG)
    with pytest.raises(ImageError, match="0 x 5 pixels; give a picture with content"):
        slice_picture(Image.new("RGB", (0, 5)), CONFIG)
    with pytest.raises(OptionError, match="max_slices is 0; it must be 1 or more"):
        slice_picture(picture(20, 20), CONFIG, max_slices=0)
    with pytest.raises(ImageError, match="20 x 28 pixels in mode RGB, expected RGB and multiples of 14"):
        to_patches(picture(20, 28), 14)
    with pytest.raises(ImageError, match=r"shape \(3, 14, 20\), expected \(channels, 14, a multiple of 14\)"):
        from_strip(np.zeros((3, 14, 20), np.float32), 14)
