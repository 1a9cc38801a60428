"""A picture file to an upright RGB picture, and that to normalised pixels for the vision encoder.

Knows nothing of tokens. Letters: B pictures and slices, S side of the encoder's square input.
Normalisation is that of EfficientNet-Lite (https://github.com/tensorflow/tpu, models/official/efficientnet/lite).
"""

from __future__ import annotations

import itertools
import struct
import warnings
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ..errors import ImageError, MissingExtraError
from ..model.config import VisionConfig
from .sources import Source, guess_format, looks_like, name_of, open_source

MAX_PIXELS = 100_000_000
"""Pictures above this are refused from their header, before anything is decoded."""

SHRINK_PIXELS = 16_000_000
"""Pictures above this are halved while decoding until they fit: no encoder sees that much, and memory stays low."""

STRIP_ROWS = 1024
"""Rows shrunk at a time; a multiple of every factor of shrinking."""

MEAN = 127 / 255
STD = 128 / 255

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is opened: formats that Pillow decodes by itself, without calling other programs."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError,
                  RuntimeError, struct.error, zlib.error)
"""What Pillow's decoders raise on broken files; its documentation promises only OSError, which is not so."""


def load_image(source: Source, *, allow_urls: bool = False) -> Image.Image:
    """Open a picture as it is meant to be looked at: RGB, upright (EXIF), transparency on white, first frame.

    Reads jpg, png, webp, gif, bmp, tiff, ppm, jp2, avif, and heic with the extra `heic`. Pictures of more than
    SHRINK_PIXELS come at half, a quarter or an eighth of their size. A PIL image is not changed.
    Raises ImageError if the picture is missing, empty, truncated, above MAX_PIXELS or not a picture;
    MissingExtraError for heic without its extra.
    """
    if isinstance(source, Image.Image):
        return _finish(source, "the given PIL image")
    if isinstance(source, np.ndarray):
        raise ImageError("an array is taken for a waveform, not for an image; wrap it with PIL.Image.fromarray")
    with open_source(source, kind="image", allow_urls=allow_urls) as file:
        image = _open(file, name_of(source))
        return _finish(image, name_of(source))


def slice_image(image: Image.Image, config: VisionConfig) -> list[Image.Image]:
    """The whole picture, followed by near-square slices along the long side when it is tall or wide.

    No slices below `config.slice_aspect`, else round(long / short) of them, at most `config.max_slices`,
    in reading order.
    """
    width, height = image.size
    long, short = max(width, height), min(width, height)
    if long / short < config.slice_aspect:
        return [image]
    num_slices = min(config.max_slices, round(long / short))
    edges = [round(i * long / num_slices) for i in range(num_slices + 1)]
    boxes = [(a, 0, b, height) if width >= height else (0, a, width, b) for a, b in itertools.pairwise(edges)]
    return [image, *(image.crop(box) for box in boxes)]


def to_pixels(pieces: Sequence[Image.Image], config: VisionConfig) -> np.ndarray:
    """Resize every piece to S x S (bicubic, the whole piece squashed) and normalise.

    pieces: B pictures in RGB; returns (B, 3, S, S) float32 in [-0.992, 1].
    Raises ImageError if a piece is not RGB (pass it through `load_image`).
    """
    side = config.image_px
    pixels = np.empty((len(pieces), 3, side, side), dtype=np.float32)
    for row, piece in zip(pixels, pieces, strict=True):
        if piece.mode != "RGB":
            raise ImageError(f"a piece has mode {piece.mode}, expected RGB; pass it through load_image first")
        small = piece.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
        row[:] = np.asarray(small).transpose(2, 0, 1)                       # (S, S, 3) -> (3, S, S)
    pixels /= 255
    pixels -= MEAN
    pixels /= STD
    return pixels


def _open(file: BinaryIO, name: str) -> Image.Image:
    """Open a file's header, refuse what is too large, and ask the decoder for a smaller size where it can."""
    head = file.read(16)
    file.seek(0)
    formats = (*FORMATS, "HEIF") if _is_heif(head) and _enable_heif(name) else FORMATS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is checked below
            image = Image.open(file, formats=formats)
    except Image.DecompressionBombError as cause:
        raise ImageError(f"{name} is a picture of more than the limit of {MAX_PIXELS / 1e6:.0f} megapixels; "
                         f"shrink it first") from cause
    except Image.UnidentifiedImageError as cause:
        raise ImageError(_unknown(file, name)) from cause
    except _DECODE_ERRORS as cause:
        raise ImageError(f"{name} cannot be decoded as a picture: {cause}; save it again as PNG or JPEG") from cause
    _check_size(image, name)
    _draft(image)
    return image


def _unknown(file: BinaryIO, name: str) -> str:
    guess = guess_format(_head(file))
    if guess and "picture" in guess:
        return f"{name} starts as {guess[guess.index(' ') + 1:]} but is truncated or broken; save or download it again"
    return (f"{name} is not a picture that can be read{looks_like(file)}; "
            f"give jpg, png, webp, gif, bmp, tiff, avif or heic")


def _head(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(64)


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def _enable_heif(name: str) -> bool:
    try:
        import pillow_heif
    except ImportError as cause:
        raise MissingExtraError(f"{name} is a HEIC picture, which needs pillow-heif; "
                                f"pip install 'minicpm-o[heic]', or save it as JPEG") from cause
    pillow_heif.register_heif_opener()
    return True


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} has {width} x {height} = {width * height / 1e6:.0f} megapixels, more than the "
                         f"limit of {MAX_PIXELS / 1e6:.0f}; shrink it first")
    if width * height == 0:
        raise ImageError(f"{name} has {width} x {height} pixels; give a picture with content")


def _shrink_factor(image: Image.Image) -> int:
    """1, 2, 4 or 8: by how much to divide both sides so that SHRINK_PIXELS is kept."""
    width, height = image.size
    factor = 1
    while factor < 8 and width * height > SHRINK_PIXELS * factor**2:
        factor *= 2
    return factor


def _draft(image: Image.Image) -> None:
    """JPEG decodes straight to a half, quarter or eighth: a 100-megapixel photo never exists whole in memory."""
    if (factor := _shrink_factor(image)) > 1:
        image.draft(None, (image.width // factor, image.height // factor))


def _finish(image: Image.Image, name: str) -> Image.Image:
    """Decode, shrink, turn upright and bring to RGB."""
    _check_size(image, name)
    try:
        image.load()
        return _to_rgb(_upright(_shrink(image), name))
    except _DECODE_ERRORS as cause:
        if isinstance(cause, ImageError):
            raise
        raise ImageError(f"{name} is truncated or broken and cannot be decoded ({cause}); "
                         f"save or download it again") from cause


def _shrink(image: Image.Image) -> Image.Image:
    """Average blocks of pixels, strip by strip: on the way Pillow would copy a whole picture with transparency."""
    factor = _shrink_factor(image)
    if factor == 1:
        return image
    tops = range(0, image.height, STRIP_ROWS)
    boxes = [(0, top, image.width, min(top + STRIP_ROWS, image.height)) for top in tops]
    strips = [_reducible(image.crop(box)).reduce(factor) for box in boxes]
    small = Image.new(strips[0].mode, (strips[0].width, sum(strip.height for strip in strips)))
    for top, strip in zip(tops, strips, strict=True):
        small.paste(strip, (0, top // factor))
    small.info = dict(image.info)                                           # keeps the EXIF orientation
    if small.mode != image.mode:
        small.info.pop("transparency", None)                                # it was a value of the old mode
    return small


def _reducible(image: Image.Image) -> Image.Image:
    """Averaging palette indices or bits means nothing: such pictures become colours first."""
    if image.mode.startswith("I;16"):
        return _grey_to_8_bit(image)
    if image.mode in ("P", "PA", "1"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def _upright(image: Image.Image, name: str) -> Image.Image:
    """Turn as EXIF says. A broken EXIF block is told as a warning: the pixels themselves are sound."""
    try:
        return ImageOps.exif_transpose(image)
    except _DECODE_ERRORS as cause:
        warnings.warn(f"the EXIF block of {name} is broken ({cause}); the picture is used as stored", stacklevel=4)
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey_to_8_bit(image).convert("RGB")
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits or floats to 8 bits. Pillow's own conversion would cut everything above 255 off."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise ImageError("the grey picture holds NaN or infinite values; clean it first")
    low, high = _grey_range(image.mode, values)
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))


def _grey_range(mode: str, values: np.ndarray) -> tuple[float, float]:
    """Values shown as black and white: the 16-bit range, else the nearest customary range that holds them all."""
    low, high = (float(values.min()), float(values.max()))
    if mode.startswith("I;16"):
        return 0.0, 65535.0
    customary: list[Any] = [1.0] if mode == "F" else []
    top = next((top for top in (*customary, 255.0, 65535.0) if high <= top), high)
    return (0.0, top) if low >= 0 else (low, max(high, low + 1))
