"""Pictures: formats, colour modes, orientation, limits, slices and pixels."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from minicpm_o.errors import ImageError, MissingExtraError
from minicpm_o.inputs import image as image_module
from minicpm_o.inputs.image import load_image, slice_image, to_pixels
from minicpm_o.model.config import VisionConfig

ORIENTATION = 0x0112


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def quadrants(width: int = 60, height: int = 40) -> Image.Image:
    """Red, green / blue, yellow: tells its orientation."""
    image = Image.new("RGB", (width, height), (250, 250, 0))
    for box, colour in (((0, 0), (250, 0, 0)), ((width // 2, 0), (0, 250, 0)), ((0, height // 2), (0, 0, 250))):
        image.paste(colour, (*box, box[0] + width // 2, box[1] + height // 2))
    return image


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    width, height = image.size
    points = [(3, 3), (width - 4, 3), (3, height - 4), (width - 4, height - 4)]
    return [image.getpixel(point) for point in points]


def assert_close(image: Image.Image, expected: Image.Image, atol: float, what: str) -> None:
    assert image.mode == "RGB" and image.size == expected.size, what
    difference = np.abs(np.asarray(image, np.float32) - np.asarray(expected.convert("RGB"), np.float32))
    assert difference.max() <= atol, f"{what}: max {difference.max()}, mean {difference.mean()}"


@pytest.mark.parametrize(("format", "options", "atol"), [
    ("PNG", {}, 0), ("BMP", {}, 0), ("TIFF", {}, 0), ("TIFF", {"compression": "tiff_lzw"}, 0), ("PPM", {}, 0),
    ("WEBP", {"lossless": True}, 0), ("GIF", {}, 0), ("JPEG", {"quality": 95, "subsampling": 0}, 8),
    ("JPEG2000", {}, 4), ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 30)])
def test_formats(format: str, options: dict, atol: float) -> None:
    assert_close(load_image(encode(quadrants(), format, **options)), quadrants(), atol, format)


def test_heic() -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(quadrants(64, 64)).save(buffer, quality=95)
    assert_close(load_image(buffer.getvalue()), quadrants(64, 64), 30, "heic")


def test_heic_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingExtraError, match=r"minicpm-o\[heic\]"):
        load_image(b"\0\0\0\x18ftypheic" + b"\0" * 100)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(format: str, orientation: int) -> None:
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = quadrants() if undo is None else quadrants().transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    upright = load_image(encode(stored, format, exif=exif))
    assert upright.size == (60, 40)
    expected = np.asarray(corners(quadrants()), np.float32)
    assert np.abs(np.asarray(corners(upright), np.float32) - expected).max() < 12


def test_orientation_survives_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "SHRINK_PIXELS", 1000)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for format in ("JPEG", "PNG"):
        upright = load_image(encode(quadrants().transpose(Image.Transpose.ROTATE_90), format, exif=exif))
        assert upright.size == (30, 20), format
        assert upright.getpixel((2, 2))[0] > 200 and upright.getpixel((27, 17))[2] < 60, format


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "L", "I;16", "CMYK"])
def test_shrinking_averages(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same as the small picture, in every mode, across the borders of strips."""
    small = Image.new("RGB", (20, 30), "white")
    small.paste((0, 0, 0), (0, 0, 10, 15))
    large = small.resize((80, 120), Image.Resampling.NEAREST)
    stored = Image.fromarray(np.asarray(large.convert("L"), np.uint16) * 257) if mode == "I;16" else large.convert(mode)
    monkeypatch.setattr(image_module, "SHRINK_PIXELS", 600)
    monkeypatch.setattr(image_module, "STRIP_ROWS", 16)
    assert_close(load_image(stored), small, 2, mode)


def test_broken_exif_is_told_and_the_picture_used() -> None:
    data = encode(quadrants(), "WEBP", exif=b"Exif\0\0" + b"nonsense" * 4)
    with pytest.warns(UserWarning, match="EXIF block .* is broken"):
        assert load_image(data).size == (60, 40)


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    clear.putpixel((0, 0), (200, 0, 0, 255))
    half = Image.new("LA", (4, 4), (0, 128))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((0, 0), 0)
    assert load_image(encode(clear)).getpixel((1, 1)) == (255, 255, 255)
    assert load_image(encode(clear)).getpixel((0, 0)) == (200, 0, 0)
    assert load_image(encode(half)).getpixel((1, 1)) == (127, 127, 127)
    for format in ("PNG", "GIF"):
        loaded = load_image(encode(palette, format, transparency=0))
        assert (loaded.getpixel((0, 0)), loaded.getpixel((1, 1))) == ((255, 255, 255), (10, 20, 30)), format


def test_colour_keyed_png() -> None:
    keyed = Image.new("RGB", (4, 4), (1, 2, 3))
    keyed.putpixel((0, 0), (9, 9, 9))
    loaded = load_image(encode(keyed, transparency=(1, 2, 3)))
    assert (loaded.getpixel((0, 0)), loaded.getpixel((1, 1))) == ((9, 9, 9), (255, 255, 255))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey(format: str) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    loaded = load_image(encode(Image.fromarray(ramp), format))
    assert_close(loaded, Image.fromarray((ramp / 257).round().astype(np.uint8)), 0, format)


def test_numbers_in_tiff() -> None:
    ramp = np.arange(256, dtype=np.float32).reshape(16, 16)
    expected = Image.fromarray(ramp.astype(np.uint8))
    assert_close(load_image(encode(Image.fromarray(ramp / 255), "TIFF")), expected, 1, "floats to 1")
    assert_close(load_image(encode(Image.fromarray(ramp.astype(np.int32)), "TIFF")), expected, 1, "8 bits in 32")
    assert_close(load_image(encode(Image.fromarray(ramp * 10 - 900), "TIFF")), expected, 1, "any range")
    with pytest.raises(ImageError, match="NaN"):
        load_image(encode(Image.fromarray(ramp * np.nan), "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"])
def test_modes_of_pil_images(mode: str) -> None:
    grey = Image.new("L", (8, 8), 255)
    given = Image.fromarray(np.full((8, 8), 65535, np.uint16)) if mode == "I;16" else grey.convert(mode)
    assert given.mode == mode
    assert_close(load_image(given), grey, 2, mode)
    assert given.mode == mode and given.size == (8, 8)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format: str) -> None:
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))                     # magenta and yellow ink: red
    red = load_image(encode(ink, format)).getpixel((8, 8))
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "PNG", "WEBP"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:])
        red = load_image(data).getpixel((4, 4))
        assert red[0] > 230 and red[2] < 25, format


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF"])
def test_truncated_files_never_give_a_picture(format: str) -> None:
    rng = np.random.default_rng(0)
    data = encode(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)), format)
    for keep in (1, 4, 12, 20, 60, len(data) // 3, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ImageError, match=r"given .* bytes"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load_image(data[:keep])


def test_truncated_pil_image() -> None:
    image = Image.open(io.BytesIO(encode(Image.effect_noise((64, 64), 50))[:2000]))
    with pytest.raises(ImageError, match="the given PIL image is truncated or broken"):
        load_image(image)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_scrambled_files_raise_only_image_errors(format: str) -> None:
    clean = encode(Image.effect_noise((48, 48), 50).convert("RGB"), format)
    rng = np.random.default_rng(1)
    for _ in range(60):
        data = np.frombuffer(clean, np.uint8).copy()
        where = rng.integers(0, len(data), 6)
        data[where] = rng.integers(0, 256, 6)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert load_image(data.tobytes()).mode == "RGB"
        except ImageError as error:
            assert len(str(error)) > 20


@pytest.mark.parametrize(("content", "words"), [
    (b"just words", r"not a picture that can be read; give jpg"),
    (b"%PDF-1.7 ...", "looks like a PDF document"),
    (b"RIFF\0\0\0\0WAVEfmt ", "looks like WAV sound"),
    (b"<svg xmlns=''/>", "looks like an SVG drawing"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    (b"\x89PNG\r\n\x1a\n", "PNG picture but is truncated"),
])
def test_wrong_types(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "thing.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"thing\.jpg'.*" + words):
        load_image(path)


def test_array_is_a_waveform() -> None:
    with pytest.raises(ImageError, match=r"Image\.fromarray"):
        load_image(np.zeros((4, 4, 3), np.uint8))


def test_missing_directory_and_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    for path, words in (("none.png", "no image file"), (".", "directory"), ("empty.png", "empty")):
        with pytest.raises(ImageError, match=words):
            load_image(tmp_path / path)
    with pytest.raises(ImageError, match="0 x 5 pixels"):
        load_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(("size", "words"), [
    ((20_000, 10_000), "limit of 100"), ((12_000, 9_000), "108 megapixels.*limit of 100"),
    ((100_000, 100_000), "limit of 100 megapixels; shrink")])
def test_bombs_are_refused_from_their_header(size: tuple[int, int], words: str, png_header: Callable) -> None:
    with pytest.raises(ImageError, match=words), warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(png_header(*size))


def test_bomb_given_as_a_pil_image() -> None:
    with pytest.raises(ImageError, match="101 megapixels"):
        load_image(Image.new("1", (10_100, 10_000)))


def test_compressed_text_bomb() -> None:
    import struct
    import zlib

    clean = encode(quadrants())
    body = b"Comment\0\0" + zlib.compress(b"a" * 100_000_000)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_image(clean[:33] + chunk + clean[33:])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own account of memory")
@pytest.mark.parametrize(("mode", "format"), [("RGB", "JPEG"), ("RGBA", "PNG"), ("P", "PNG")])
def test_large_pictures_keep_memory_low(mode: str, format: str, tmp_path: Path) -> None:
    """36 megapixels: whole they would be 144 MB in Pillow, and as much again for each copy."""
    path = tmp_path / "large"
    Image.new(mode, (6000, 6000)).save(path, format, **({"transparency": 0} if mode == "P" else {}))
    code = ("import resource, sys; from minicpm_o.inputs.image import load_image\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "print(*load_image(sys.argv[1]).size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    width, height, kib = map(int, done.stdout.split())
    assert (width, height) == (3000, 3000)
    assert kib < {"RGB": 60_000, "RGBA": 230_000, "P": 130_000}[mode]


@pytest.mark.parametrize(("size", "sizes"), [
    ((100, 100), []), ((174, 100), []), ((1, 1), []), ((175, 100), [(88, 100), (87, 100)]),
    ((100, 300), [(100, 100)] * 3), ((900, 100), [(225, 100)] * 4), ((10_000, 1), [(2500, 1)] * 4)])
def test_slices(size: tuple[int, int], sizes: list[tuple[int, int]]) -> None:
    pieces = slice_image(Image.new("RGB", size), VisionConfig())
    assert pieces[0].size == size
    assert [piece.size for piece in pieces[1:]] == sizes


def test_slices_tile_the_picture_in_reading_order() -> None:
    wide = Image.effect_noise((431, 100), 60).convert("RGB")
    for image, axis in ((wide, 1), (wide.transpose(Image.Transpose.TRANSPOSE), 0)):
        pieces = slice_image(image, VisionConfig())[1:]
        joined = np.concatenate([np.asarray(piece) for piece in pieces], axis=axis)
        assert np.array_equal(joined, np.asarray(image))


def test_pixels() -> None:
    config = VisionConfig()
    pieces = [Image.new("RGB", (50, 20), (127, 255, 0)), quadrants(700, 300)]
    pixels = to_pixels(pieces, config)
    assert pixels.shape == (2, 3, config.image_px, config.image_px) and pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0, :, 0, 0], [0, 1, -127 / 128], atol=1e-6)
    np.testing.assert_allclose(pixels[1, :, 5, 5], (np.array([250, 0, 0]) - 127) / 128, atol=0.02)
    assert to_pixels([], config).shape == (0, 3, config.image_px, config.image_px)
    assert np.array_equal(to_pixels(pieces[1:], config), pixels[1:])        # alone = in a batch


def test_pixels_want_rgb() -> None:
    with pytest.raises(ImageError, match="mode L, expected RGB"):
        to_pixels([Image.new("L", (5, 5))], VisionConfig())


def test_upright_rgb_is_handed_through() -> None:
    image = quadrants()
    assert ImageOps.exif_transpose(image).size == load_image(image).size
    assert np.array_equal(np.asarray(load_image(image)), np.asarray(image))
