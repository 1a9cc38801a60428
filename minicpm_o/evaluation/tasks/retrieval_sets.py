"""Flickr30k and COCO as their retrieval splits are given out: `retrieval/` -> retrieval and matching over a part.

The benchmark ranks thousands of captions for every picture; here the first pictures stand for it, each with its first
caption, so that a model without a common space of pictures and texts is asked for hours and not for weeks. That is
easier than the benchmark, and its name says that it is a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from minicpm_o.evaluation.official.retrieval import RETRIEVAL, RetrievalSet, load_retrieval
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, merged
from minicpm_o.evaluation.tasks.published import named, published_set
from minicpm_o.evaluation.tasks.retrieval import MOST_MEDIA, pair_tasks
from minicpm_o.inputs.prompts import CAPTION

FOLDER = "retrieval"
NAME = "retrieval_part"
WHERE = (f"{RETRIEVAL}; put the file and the pictures into a folder {FOLDER}/ (flickr30k-images/ for Flickr30k, "
         f"val2014/ for COCO)")
FILES = {
    "flickr30k_test.json": ("flickr30k", ""), "dataset_flickr30k.json": ("flickr30k", "flickr30k-images"),
    "coco_karpathy_test.json": ("coco", ""), "dataset_coco.json": ("coco", ""),
}  # fmt: skip
"""File -> set, and the folder that the names of its pictures start from."""


def load(data_dir: Path) -> TaskSet:
    """Tasks retrieval_part/SET/retrieval and retrieval_part/SET/matching; of two files of a set the first is read."""
    found: dict[str, tuple[Path, Path]] = {}
    for file, (name, pictures) in FILES.items():
        if (path := data_dir / FOLDER / file).is_file():
            found.setdefault(name, (path, path.parent / pictures))
    return merged(published_set(path, partial(_tasks, f"{named(data_dir, NAME)}/{name}", path, pictures))
                  for name, (path, pictures) in found.items())


def _tasks(prefix: str, path: Path, pictures: Path) -> list[Task]:
    return list(tasks(prefix, load_retrieval(path, pictures)))


def tasks(prefix: str, found: RetrievalSet, most: int = MOST_MEDIA) -> Iterator[Task]:
    """Both tasks over the first pictures that have a caption."""
    items = [Item(image.name, (Media("image", image, image.name),), CAPTION, (found.captions[captions[0]],))
             for place, image in enumerate(found.images) if (captions := found.captions_of[place])]
    note = (f"the first {min(most, len(items))} of {len(items)} pictures with one caption each: a part of the set, no "
            f"score of the benchmark")
    for task in pair_tasks(prefix, items[:most]):
        yield replace(task, notes=(note,))
