"""Which samples a step draws: sources by task, with fixed shares.

Sources read the sets' jsonl files (formats as distributed) and the cache indices; validation rows never enter.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..inputs.processor import Processor
from . import samples as s
from .agreement import agreement, draw_weighted
from .features import FeatureStore
from .labels import sentence, spoken_label
from .splits import is_validation

SHARES = {
    "captioned": 0.38,
    "labelled": 0.20,
    "scene": 0.11,
    "boxed": 0.10,
    "daquar": 0.04,
    "two_pictures": 0.01,
    "ears": 0.06,
    "spoken": 0.04,
    "spoken_picture": 0.01,
    "digit": 0.04,
    "chat": 0.02,
}
"""Share of trees per source in every batch, on average; a tree holds one to six questions."""

LABEL_AS_CAPTION = 0.3
"""Share of labelled pictures that are also described: a thing that fills the picture is what the picture is about.
More of them, and descriptions of scenes shrink to names too."""

COLOUR_ASKED = 0.3
"""Share of the labelled pictures with a known colour whose colour is asked for."""

MENTIONS = {
    "person": "man woman boy girl child person people men women boys girls kid kids children lady guy player baby",
    "dog": "dog dogs puppy",
    "horse": "horse horses",
    "bicycle": "bike bicycle bikes bicycles bicyclist cyclist",
    "motorcycle": "motorcycle motorbike motorcycles dirtbike",
    "car": "car cars",
    "ball": "ball balls football soccer basketball",
    "bird": "bird birds seagull",
    "skateboard": "skateboard skateboarder skateboarding",
    "surfboard": "surfboard surfer surfing surfs",
    "boat": "boat boats kayak canoe kayaker",
    "bench": "bench",
    "cat": "cat cats kitten",
    "tree": "tree trees forest woods",
    "water": "water river lake ocean sea pool",
    "snow": "snow snowy ski skis skier snowboard snowboarder",
    "grass": "grass grassy lawn",
    "beach": "beach",
    "hat": "hat cap",
}
_IF_SEEN_THEN_SAID = (
    *("person", "dog", "horse", "bicycle", "motorcycle", "boat", "cat", "skateboard", "surfboard", "beach", "snow"),
)
"""Things that five captions would hardly leave out: their absence from the captions is taken for absence."""


@dataclass(frozen=True)
class SceneRow:
    """A made picture: what `prepare.scenes` wrote about it."""

    views: list[int]
    captions: list[str]
    questions: list[tuple[str, str]]
    present: list[str]
    absent: list[str]


@dataclass
class Sources:
    """Rows of the sets, training side only, as (row views, content)."""

    captions: list[tuple[list[int], list[str]]] = field(default_factory=list)
    labels: list[tuple[list[int], str, str]] = field(default_factory=list)
    """(views, label, set)."""
    colours: dict[int, tuple[str | None, str | None]] = field(default_factory=dict)
    """First view of a labelled picture -> colours of the thing and of a plain ground, where there are such."""
    boxes: list[tuple[list[int], list[str]]] = field(default_factory=list)
    daquar: list[tuple[list[int], str, str]] = field(default_factory=list)
    scenes: list[SceneRow] = field(default_factory=list)
    ears: list[int] = field(default_factory=list)
    digits: list[int] = field(default_factory=list)
    spoken: list[tuple[int, str]] = field(default_factory=list)
    spoken_picture: list[tuple[int, list[int], str]] = field(default_factory=list)
    chat: list[tuple[str, str]] = field(default_factory=list)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def gather(data: Path, store: FeatureStore, features: Path, *, validation: bool = False) -> Sources:
    """Read every set, and what was prepared beside the caches in `features`; validation=True: the kept-out side."""
    chat_path, colours_path = features / "chat.json", features / "colours.json"
    views = store.images.rows_by_picture()
    found = Sources()

    def rows(set_name: str, file: str):
        for row in read_rows(data / set_name / file):
            if is_validation(set_name, row["image"]) == validation:
                yield views[set_name, row["image"]], row

    found.captions += [(v, row["en"]) for v, row in rows("flickr8k", "captions.jsonl")]
    for v, row in rows("coco", "annotations.jsonl"):
        if row["captions"]:
            found.captions.append((v, row["captions"]))
        if row.get("boxes_cxcywh"):
            found.boxes.append((v, [box[0] for box in row["boxes_cxcywh"]]))
    for set_name in ("caltech101", "imagenet1000", "clothing"):
        found.labels += [(v, row["label"], set_name) for v, row in rows(set_name, "labels.jsonl")]
    found.colours = read_colours(colours_path, views)
    for v, row in rows("daquar", "qa.jsonl"):
        found.daquar += [(v, tidy_question(q), a) for q, a in row["qa"]]
    if (data / "scenes" / "scenes.jsonl").is_file():
        found.scenes += [
            SceneRow(v, row["en"], [(q, a) for q, a in row["qa"]], row["present"], row["absent"])
            for v, row in rows("scenes", "scenes.jsonl")
        ]
    chat = {entry["question"]: entry["answer"] for entry in read_stage(chat_path, "chat") if entry["answer"]}
    questions: dict[str, list[tuple[list[int], str]]] = {}
    for v, question, answer in found.daquar:
        questions.setdefault(sentence(question).lower(), []).append((v, answer))
    for index, entry in enumerate(store.audio.index):
        if bool(entry["val"]) != validation:
            continue
        if entry["kind"] == "digit":
            found.digits.append(index)
            continue
        found.ears.append(index)
        if entry["text"] in chat:
            found.spoken.append((index, chat[entry["text"]]))
        for v, answer in questions.get(entry["text"].lower(), []):
            found.spoken_picture.append((index, v, answer))
    found.chat = [(q, a) for q, a in chat.items() if is_validation("speech", q) == validation]
    return found


def read_colours(
    path: Path, views: dict[tuple[str, str], list[int]]
) -> dict[int, tuple[str | None, str | None]]:
    """colours.json by the pictures' first views; a thing of its ground's colour is not told apart from it."""
    found = {}
    for set_name, image, thing, behind in read_stage(path, "colours"):
        if (set_name, image) in views and (thing or behind):
            found[views[set_name, image][0]] = (None if thing == behind else thing, behind)
    return found


def read_stage(path: Path, stage: str) -> Any:
    """The JSON that an earlier stage wrote. Raises InputError naming that stage when it is missing."""
    if not path.is_file():
        raise InputError(f"{path} is missing; run the stage of minicpm_o.training.prepare that makes it: "
                         f"--only {stage}")
    return read_json(path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def tidy_question(question: str) -> str:
    """DAQUAR's questions name the picture by its number; ours say `this picture`."""
    words = ["this picture" if w.lower().startswith("image") and w[5:6].isdigit() else w for w in question.split()]
    return " ".join(words).replace("the this", "this")


class Mixture:
    """Draws batches of samples in fixed shares."""

    def __init__(
        self, processor: Processor, store: FeatureStore, sources: Sources, shares: dict[str, float] = SHARES
    ) -> None:
        self.processor, self.store, self.sources, self.shares = processor, store, sources, dict(shares)
        if not sources.scenes:
            self.shares.pop("scene", None)
        self._by_set: dict[str, list[tuple[list[int], str, str]]] = {}
        for entry in sources.labels:
            self._by_set.setdefault(entry[2], []).append(entry)
        self._box_classes = sorted({name for _, names in sources.boxes for name in names})
        self._asked: dict[int, list[tuple[str, str]]] = {}
        for views, question, answer in sources.daquar:
            self._asked.setdefault(views[0], []).append((question, answer))
        self._written = [row for row in sources.ears if self._heard(row) is not None]
        self._views = {views[0]: views for views, _, _ in sources.daquar}
        self._makers: dict[str, Callable[[random.Random], tuple[s.Trunk, list[s.Branch]]]] = {
            "captioned": self._captioned,
            "labelled": self._labelled,
            "boxed": self._boxed,
            "scene": self._scene,
            "two_pictures": self._two_pictures,
            "daquar": self._daquar,
            "ears": self._ears,
            "spoken": self._spoken,
            "spoken_picture": self._spoken_picture,
            "digit": self._digit,
            "chat": self._chat,
        }

    @cached_property
    def _agreement(self) -> list[list[float]]:
        """Of the captions, as long as somebody draws them."""
        return agreement([texts for _, texts in self.sources.captions])

    def draw(self, rng: random.Random, batch_size: int) -> list[s.Sample]:
        kinds = rng.choices(list(self.shares), weights=list(self.shares.values()), k=batch_size)
        return [self.one(rng, kind) for kind in kinds]

    def one(self, rng: random.Random, kind: str) -> s.Sample:
        return s.lay_out(self.processor, *self.tree(rng, kind))

    def tree(self, rng: random.Random, kind: str) -> tuple[s.Trunk, list[s.Branch]]:
        """Media of a source and the questions about them."""
        return self._makers[kind](rng)

    def _captioned(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        number = rng.randrange(len(self.sources.captions))
        views, captions = self.sources.captions[number]
        prompt = rng.choice(s.CAPTION_PROMPTS)
        chosen = draw_weighted(rng, captions, self._agreement[number], 3)
        branches = [s.caption_branch(rng, caption, prompt) for caption in chosen]
        branches.append(s.match_branch(rng, rng.choice(captions), True))
        branches.append(s.match_branch(rng, self._other_caption(rng, captions), False))
        branches += self._mention_branches(rng, captions)
        return s.Trunk((rng.choice(views),)), branches

    def _other_caption(self, rng: random.Random, captions: list[str]) -> str:
        other = captions
        while other is captions:
            other = rng.choice(self.sources.captions)[1]
        return rng.choice(other)

    def _mention_branches(self, rng: random.Random, captions: list[str]) -> list[s.Branch]:
        """One question about something that a caption mentions, one about something that none does."""
        words = set(" ".join(captions).lower().replace(".", " ").replace(",", " ").split())
        said = [name for name, mentions in MENTIONS.items() if words & set(mentions.split())]
        unsaid = [name for name in _IF_SEEN_THEN_SAID if name not in said]
        if not said or not unsaid:
            return []
        return [s.presence_branch(rng, rng.choice(said), True), s.presence_branch(rng, rng.choice(unsaid), False)]

    def _label(self, rng: random.Random) -> tuple[list[int], str, str]:
        sets = list(self._by_set)
        weights = [{"caltech101": 6, "imagenet1000": 3, "clothing": 1}[name] for name in sets]
        return rng.choice(self._by_set[rng.choices(sets, weights)[0]])

    def _labelled(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        views, label, set_name = self._label(rng)
        others: list[str] = []
        while len(others) < 4:
            other = rng.choice(self._by_set[set_name])[1]
            if other != label and other not in others:
                others.append(other)
        branches = [s.naming_branch(rng, label), s.naming_branch(rng, label)]
        branches += [s.presence_branch(rng, label, True), s.presence_branch(rng, others[3], False)]
        if rng.random() < 0.4:
            branches.append(s.choice_branch(rng, label, others[:3]))
        colour, ground = self.sources.colours.get(views[0], (None, None))
        if rng.random() < LABEL_AS_CAPTION:
            branches.append(s.label_caption_branch(rng, label, colour, ground))
        if colour and rng.random() < COLOUR_ASKED:
            branches.append(s.Branch("colour", f"What colour is the {spoken_label(label)}?", sentence(colour)))
        return s.Trunk((rng.choice(views),)), branches

    def _two_pictures(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        first, second = self._label(rng), self._label(rng)
        branches = [s.second_picture_branch((first[1], second[1]), which) for which in (0, 1)]
        return s.Trunk((rng.choice(first[0]), rng.choice(second[0]))), branches

    def _boxed(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        views, names = rng.choice(self.sources.boxes)
        present = sorted(set(names))
        branches = []
        for name in rng.sample(present, min(3, len(present))):
            branches.append(s.presence_branch(rng, name, True))
            branches.append(s.presence_branch(rng, self._absent(rng, names), False))
        return s.Trunk((rng.choice(views),)), branches

    def _scene(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        row = rng.choice(self.sources.scenes)
        branches = [s.caption_branch(rng, caption) for caption in rng.sample(row.captions, min(2, len(row.captions)))]
        branches += [s.Branch("scene", q, a) for q, a in rng.sample(row.questions, min(3, len(row.questions)))]
        if row.absent:
            branches.append(s.presence_branch(rng, rng.choice(row.present), True))
            branches.append(s.presence_branch(rng, rng.choice(row.absent), False))
        return s.Trunk((rng.choice(row.views),)), branches

    def _absent(self, rng: random.Random, names: list[str]) -> str:
        """A class that is not there, drawn as often as it is seen elsewhere: no class may mean "no" by itself."""
        while True:
            other = rng.choice(self.sources.boxes)[1]
            name = rng.choice(other if rng.random() < 0.8 else self._box_classes)
            if name not in names:
                return name

    def _daquar(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        key = rng.choice(list(self._asked))
        asked = rng.sample(self._asked[key], min(4, len(self._asked[key])))
        branches = [s.Branch("daquar", q, sentence(a.replace("_", " "))) for q, a in asked]
        return s.Trunk((rng.choice(self._views[key]),)), branches

    def _sound(self, index: int) -> tuple[s.Trunk, str]:
        entry = self.store.audio.index[index]
        return s.Trunk((), index, entry["n"]), entry["text"]

    def _ears(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        row = rng.choice(self._written or self.sources.ears)
        trunk, text = self._sound(row)
        return trunk, [s.ears_branch(rng, text, self._heard(row))]

    def _digit(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        row = rng.choice(self.sources.digits)
        trunk, text = self._sound(row)
        branches = [s.digit_branch(text, self._heard(row))]
        return trunk, branches if rng.random() < 0.7 else [s.ears_branch(rng, sentence(text), self._heard(row))]

    def _spoken(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        row, answer = rng.choice(self.sources.spoken)
        trunk, text = self._sound(row)
        heard = self._heard(row)
        return trunk, [*s.spoken_branches(rng, text, answer, heard), s.ears_branch(rng, text, heard)]

    def _spoken_picture(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        row, views, answer = rng.choice(self.sources.spoken_picture)
        trunk, text = self._sound(row)
        answer = sentence(answer.replace("_", " "))
        branches = s.spoken_branches(rng, text, answer, self._heard(row))
        return replace(trunk, images=(rng.choice(views),)), branches

    def _heard(self, row: int) -> str | None:
        """What own ears wrote down of a sound; None where they were not asked."""
        heard: str | None = self.store.audio.index[row].get("heard")
        return heard

    def _chat(self, rng: random.Random) -> tuple[s.Trunk, list[s.Branch]]:
        chosen = rng.sample(self.sources.chat, min(2, len(self.sources.chat)))
        return s.Trunk(), [s.chat_branch(question, answer) for question, answer in chosen]


def validation_samples(mixture: Mixture, per_kind: int) -> list[s.Sample]:
    """A fixed list of samples of the kept-out side, from every source that has one."""
    rng = random.Random("validation")
    kinds = [kind for kind in mixture.shares if kind != "spoken_picture" or mixture.sources.spoken_picture]
    return [mixture.one(rng, kind) for kind in kinds for _ in range(per_kind)]
