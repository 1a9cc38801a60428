"""`coco/annotations.jsonl`: {"image", "captions": [...], "boxes_cxcywh": [[class, x, y, w, h], ...]}.

Captions where a row has some; presence questions (POPE, arXiv:2305.10355) where it has boxes: up to three classes of a
picture are asked for, and for each one class that no box of the picture has: a random one, the most popular one of the
set, or the one that most often stands beside the picture's classes. So yes and no are balanced in every picture and in
each of the three kinds. No chance enters but a hash of the picture's name.
What differs from POPE: candidates are the classes of this file, and a picture gives each kind one negative, not three.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minicpm_o.errors import InputError
from minicpm_o.evaluation.official.caption import ptb_tokens
from minicpm_o.evaluation.rows import Media, Row, read_rows
from minicpm_o.evaluation.scoring import CaptionScorer, PresenceScorer
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, task_set
from minicpm_o.inputs.prompts import CAPTION, CAPTION_BEAMS, PRESENCE

KINDS = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class Picture:
    """A row of the file: a picture with captions and the distinct classes of its boxes."""

    image: Media
    captions: tuple[str, ...]
    classes: tuple[str, ...]


def load(data_dir: Path) -> TaskSet:
    """Tasks coco/caption and coco/presence."""
    path = data_dir / "coco" / "annotations.jsonl"
    if not path.is_file():
        return TaskSet()
    pictures, bad = read_rows(path, _parse)
    captions = _caption_items(pictures)
    presence = _presence_items(pictures)
    notes = (
        f"coco/caption: {len(pictures) - len(captions)} of {len(pictures)} rows have no captions",
        f"coco/presence: {sum(not picture.classes for picture in pictures)} of {len(pictures)} rows have no boxes",
    )
    tasks = (
        Task("coco/caption", tuple(captions), CaptionScorer(ptb_tokens), max_tokens=48, num_beams=CAPTION_BEAMS),
        Task("coco/presence", tuple(presence), PresenceScorer(), max_tokens=8),
    )
    return task_set(path, tasks, bad, notes)


def _parse(row: Row) -> Iterable[Picture]:
    captions = row.texts("captions") if "captions" in row.fields else ()
    yield Picture(row.media("image"), captions, _classes(row.fields.get("boxes_cxcywh", [])))


def _classes(boxes: object) -> tuple[str, ...]:
    if not isinstance(boxes, list):
        raise InputError("'boxes_cxcywh' is no list; expected [class, x, y, width, height] entries")
    names = [box[0] if isinstance(box, list) and box else None for box in boxes]
    wrong = [box for box, name in zip(boxes, names, strict=True) if not isinstance(name, str) or not name]
    if wrong:
        raise InputError(f"box {str(wrong[0])[:40]} does not begin with the name of a class")
    return tuple(sorted({str(name) for name in names}))


def _caption_items(pictures: Sequence[Picture]) -> list[Item]:
    return [Item(p.image.name, (p.image,), CAPTION, p.captions) for p in pictures if p.captions]


def _presence_items(pictures: Sequence[Picture]) -> list[Item]:
    popularity = Counter(name for picture in pictures for name in picture.classes)
    together = Counter((a, b) for picture in pictures for a in picture.classes for b in picture.classes if a != b)
    items: list[Item] = []
    for index, picture in enumerate(picture for picture in pictures if picture.classes):
        items += _ask_picture(picture, index, popularity, together)
    return items


def _ask_picture(
    picture: Picture, index: int, popularity: Counter[str], together: Counter[tuple[str, str]]
) -> Iterable[Item]:
    """Pairs of a yes and a no question; with fewer than three classes the kinds take turns from picture to picture."""
    free = set(popularity) - set(picture.classes)
    for turn, present in enumerate(_shuffled(picture.classes, picture.image.name)[: len(KINDS)]):
        kind = KINDS[(index + turn) % len(KINDS)]
        if not free:
            return
        absent = min(free, key=lambda name: _rank(name, kind, picture, popularity, together))
        free.remove(absent)
        yield _question(picture, present, kind, "yes")
        yield _question(picture, absent, kind, "no")


def _rank(
    name: str, kind: str, picture: Picture, popularity: Counter[str], together: Counter[tuple[str, str]]
) -> tuple[float, float, str]:
    """Sort key: the smallest is the class to ask for."""
    if kind == "random":
        return 0, float(_hash(f"{picture.image.name} {name}")), name
    if kind == "popular":
        return -popularity[name], 0, name
    return -sum(together[(present, name)] for present in picture.classes), -popularity[name], name


def _question(picture: Picture, name: str, kind: str, answer: str) -> Item:
    question = PRESENCE.format(name=name)
    id = f"{picture.image.name} {kind} {answer} {name}"
    return Item(id, (picture.image,), question, (answer,), group=picture.image.name, tag=kind)


def _shuffled(names: Sequence[str], salt: str) -> list[str]:
    return sorted(names, key=lambda name: _hash(f"{salt} {name}"))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")
