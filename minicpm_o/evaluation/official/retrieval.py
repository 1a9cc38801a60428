"""Image-text retrieval (Flickr30k, COCO): recall at 1, 5 and 10 in both directions.

Script: `itm_eval` in `train_retrieval.py` of BLIP (arXiv:2201.12086, repository of 2026-11). TR finds a caption of an
image: the best of its captions counts. IR finds the image of a caption. Chance of R@k is k / N.
Equal scores stand in the order of numpy's argsort, reversed, so of a row of equal scores the last comes first; where
only some are equal their order depends on numpy's version and the processor, in the script as here. NaN ranks first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.files import field, numbered, picture, read_json, read_text, texts

_NOWHERE = 10**9
"""Place of the captions of an image that has none: never found."""

Captions = Mapping[int, Sequence[int]]
"""Image -> its captions, as columns of the score matrix."""

RETRIEVAL = ("Get the Karpathy splits (dataset_flickr30k.json or dataset_coco.json of "
             "https://cs.stanford.edu/people/karpathy/deepimagesent) or BLIP's flickr30k_test.json or "
             "coco_karpathy_test.json, and beside the folder of pictures that they name")


@dataclass(frozen=True)
class Recall:
    """Per cent, under the names that BLIP logs."""

    txt_r1: float
    txt_r5: float
    txt_r10: float
    txt_r_mean: float
    img_r1: float
    img_r5: float
    img_r10: float
    img_r_mean: float
    r_mean: float


@dataclass(frozen=True)
class RetrievalScores:
    """Recall, on how many images and captions, and how many scores were no number."""

    name: str
    recall: Recall
    images: int
    captions: int
    not_a_number: int

    @property
    def reported(self) -> dict[str, float]:
        """What BLIP logs."""
        return asdict(self.recall)


def retrieval_scores(image_to_text: NDArray[np.floating[Any]], captions: Captions,
                     text_to_image: NDArray[np.floating[Any]] | None = None) -> RetrievalScores:
    """Recall from scores of every image (row) with every caption (column).

    text_to_image: scores of every caption (row) with every image, where they are others than the same transposed."""
    scores = _matrix(image_to_text, "image_to_text")
    back = scores.T if text_to_image is None else _matrix(text_to_image, "text_to_image")
    if back.shape != scores.shape[::-1]:
        raise InputError(f"text_to_image has the shape {back.shape}; expected {scores.shape[::-1]}, captions by images")
    owners = _owners(captions, *scores.shape)
    found = [min((places[caption] for caption in captions[image]), default=_NOWHERE)
             for image, places in enumerate(map(_places, scores))]
    owner_found = [_places(row)[owners[caption]] for caption, row in enumerate(back)]
    missing = int(np.isnan(scores).sum() + (0 if text_to_image is None else np.isnan(back).sum()))
    return RetrievalScores("retrieval_blip", _recall(found, owner_found), len(scores), len(back), missing)


def _places(row: NDArray[np.floating[Any]]) -> list[int]:
    """Place of every candidate of a row, the best at 0."""
    order = np.argsort(row)[::-1]
    places = np.empty(len(row), dtype=int)
    places[order] = np.arange(len(row))
    return [int(place) for place in places]


def _recall(text_places: Sequence[int], image_places: Sequence[int]) -> Recall:
    text1, text5, text10 = (_at(text_places, first) for first in (1, 5, 10))
    image1, image5, image10 = (_at(image_places, first) for first in (1, 5, 10))
    text, image = (text1 + text5 + text10) / 3, (image1 + image5 + image10) / 3
    return Recall(text1, text5, text10, text, image1, image5, image10, image, (text + image) / 2)


def _at(places: Sequence[int], first: int) -> float:
    return 100.0 * sum(place < first for place in places) / len(places)


def _matrix(scores: NDArray[np.floating[Any]], name: str) -> NDArray[np.floating[Any]]:
    matrix = np.asarray(scores)
    if matrix.ndim != 2 or not matrix.size:
        raise InputError(f"{name} has the shape {matrix.shape}; expected a table with an image or caption a row")
    return matrix


def _owners(captions: Captions, images: int, columns: int) -> list[int]:
    """The image of every caption."""
    owners: dict[int, int] = {}
    for image in range(images):
        if image not in captions:
            raise InputError(f"image {image} has no list of captions; expected one for each of the {images} rows")
        for caption in captions[image]:
            if not 0 <= caption < columns:
                raise InputError(f"image {image} names caption {caption}; expected 0 to {columns - 1}, a column each")
            owners[caption] = image
    lost = [caption for caption in range(columns) if caption not in owners]
    if lost:
        raise InputError(f"{len(lost)} captions belong to no image (first: {lost[0]}); expected one for each column")
    return [owners[caption] for caption in range(columns)]


# --- files ------------------------------------------------------------------------------------------------------


def read_scores(path: Path) -> NDArray[np.float64]:
    """A score matrix from a CSV without header, an image a line, a caption a column."""
    text = read_text(path, "expected a CSV of scores, an image a line, a caption a column")
    rows = [_numbers(line, f"{path.name} line {number}") for number, line in enumerate(text.splitlines(), start=1)]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise InputError(f"{path.name} line {number} has {len(row)} scores; expected {len(rows[0])}, as in line 1")
    return np.array(rows, dtype=np.float64)


def _numbers(line: str, place: str) -> list[float]:
    try:
        return [float(cell) for cell in line.split(",")]
    except ValueError as error:
        raise InputError(f"{place}: {error}; expected numbers and commas only") from error


def read_mapping(path: Path) -> dict[int, tuple[int, ...]]:
    """The captions of every image from a JSON file {"img2txt": {"0": [0, 1, ...], ...}}."""
    mapping = field(read_json(path, "expected a JSON file with img2txt"), "img2txt", dict, path.name)
    try:
        return {int(image): tuple(map(int, captions)) for image, captions in mapping.items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"{path.name}: 'img2txt' holds more than whole numbers ({error}); expected the number of each "
                         'image and the columns of its captions, such as {"0": [0, 1, 2, 3, 4]}') from error


@dataclass(frozen=True)
class RetrievalSet:
    """Pictures and captions; `captions_of` says which belong together."""

    images: tuple[Path, ...]
    captions: tuple[str, ...]
    captions_of: Captions


def load_retrieval(path: Path, pictures: Path, split: str = "test") -> RetrievalSet:
    """A set from BLIP's list [{image, caption}] or from Karpathy's {images: [{filename, split, sentences}]}.

    pictures: the folder that the names of the pictures start from; split: of Karpathy's file only."""
    data = read_json(path, RETRIEVAL)
    pairs = list(_blip_pairs(data, path.name) if isinstance(data, list) else _karpathy_pairs(data, path.name, split))
    if not pairs:
        raise InputError(f"{path.name} has no pictures of the split {split!r}. {RETRIEVAL}")
    images = tuple(picture(pictures / name, RETRIEVAL) for name, _ in pairs)
    captions = tuple(caption for _, group in pairs for caption in group)
    columns = iter(range(len(captions)))
    captions_of = {image: tuple(next(columns) for _ in group) for image, (_, group) in enumerate(pairs)}
    return RetrievalSet(images, captions, captions_of)


def _blip_pairs(rows: Sequence[object], name: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    for place, row in numbered(rows, name):
        yield field(row, "image", str, place), texts(row, "caption", place)


def _karpathy_pairs(data: object, name: str, split: str) -> Iterable[tuple[str, tuple[str, ...]]]:
    for place, row in numbered(field(data, "images", list, name), name):
        if field(row, "split", str, place) == split:
            sentences = field(row, "sentences", list, place)
            file = Path(row["filepath"] if isinstance(row, dict) and "filepath" in row else "")
            yield str(file / field(row, "filename", str, place)), tuple(field(s, "raw", str, place) for s in sentences)
