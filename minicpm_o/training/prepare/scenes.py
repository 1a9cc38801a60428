"""Made pictures that say exactly what is on them: the set `scenes`, for what few photographs can teach.

    python -m minicpm_o.training.prepare.scenes --out SETS

Cut-out stamps of Tux Paint (Debian: tuxpaint-stamps-default, optional) on plain or shaded grounds teach names and
colours; drawn solids teach colours, counts and places. Writes SETS/scenes/scenes.jsonl and its pictures; every draw
belongs to the scene's name. Shapes: S picture side.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..labels import sentence, with_article
from .colours import shared_colour
from .work import bar, draws, write_json

STAMPS = Path("/usr/share/tuxpaint/stamps")
"""Where Debian puts Tux Paint's stamps."""
SIDE_PX = 256
_LOG = logging.getLogger("minicpm_o")
_CAPTION = re.compile(r"(?:A|An|Some|Two) [A-Za-z' -]+\.")
_LEFT_OUT = ("symbols", "sound", "part")
_NUMBERS = "no one two three four five six seven eight nine ten".split()

COLOURS = {
    "red": (200, 30, 30),
    "blue": (40, 70, 200),
    "green": (40, 150, 50),
    "yellow": (235, 210, 40),
    "orange": (240, 140, 30),
    "purple": (130, 50, 170),
    "brown": (125, 80, 40),
    "pink": (245, 150, 190),
    "cyan": (60, 190, 200),
    "grey": (130, 130, 130),
    "black": (30, 30, 30),
    "white": (240, 240, 240),
}
GROUNDS = {
    "white": (250, 250, 250),
    "grey": (165, 165, 165),
    "black": (20, 20, 20),
    "green": (110, 170, 80),
    "blue": (130, 180, 225),
    "brown": (150, 115, 80),
}
SOLIDS = {"ball": "balls", "cube": "cubes", "cylinder": "cylinders", "cone": "cones"}


@dataclass
class Scene:
    """A picture, sentences that describe it, questions with answers, and whether a name is in it."""

    picture: Image.Image
    captions: list[str]
    questions: list[tuple[str, str]] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class SceneConfig:
    """How many scenes of a kind."""

    per_stamp: int = 3
    several: int = 700
    solids: int = 1300
    seed: int = 0


@dataclass(frozen=True)
class Stamp:
    """A cut-out and its name with an article, in small letters: `a red apple`."""

    path: Path
    name: str


@dataclass(frozen=True)
class Solid:
    """One drawn thing: middle and half width in shares of the side."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float


def find_stamps(folder: Path) -> list[Stamp]:
    """Stamps with a short English name; none, with a warning, where they are not installed."""
    found = []
    for path in sorted(folder.rglob("*.png")):
        words = path.with_suffix(".txt")
        if path.relative_to(folder).parts[0] in _LEFT_OUT or not words.is_file():
            continue
        caption = words.read_text(encoding="utf-8", errors="ignore").splitlines()[0].strip()
        if _CAPTION.fullmatch(caption) and len(caption.split()) <= 6:
            found.append(Stamp(path, caption[:1].lower() + caption[1:-1]))
    if not found:
        _LOG.warning("there are no stamps in %s: going on with drawn solids alone "
                     "(Debian: apt-get install tuxpaint-stamps-default; or give their folder with --stamps)", folder)
    return found


def main_colour(picture: Image.Image) -> str | None:
    """The name of the colour that half of the opaque pixels have; None when there is no such one."""
    small = np.asarray(picture.resize((48, 48)))
    pixels = small[small[..., 3] > 200][:, :3]
    if len(pixels) < 50:
        return None
    return shared_colour(pixels[:: max(1, len(pixels) // 300)].tolist(), 0.5)


def ground(rng: np.random.Generator) -> tuple[Image.Image, str | None]:
    """What lies behind: one colour, whose name is returned, or a soft pattern without a name."""
    name = list(GROUNDS)[rng.choice(len(GROUNDS), p=(0.4, 0.2, 0.1, 0.1, 0.1, 0.1))]
    colour = np.array(GROUNDS[name], dtype=np.float32) + rng.normal(0, 6, 3)
    if rng.random() < 0.6:
        return Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(int(v) for v in np.clip(colour, 0, 255))), name
    noise = rng.normal(0, 1, (int(rng.integers(2, 12)), int(rng.integers(2, 12)), 3)) * rng.uniform(10, 45)
    pattern = np.clip(colour + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pattern).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), None


def place(picture: Image.Image, stamp: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Paste the cut-out as large as it fits into the middle of the box (left, top, right, bottom)."""
    left, top, right, bottom = box
    share = min((right - left) / stamp.width, (bottom - top) / stamp.height)
    size = max(1, round(stamp.width * share)), max(1, round(stamp.height * share))
    small = stamp.resize(size, Image.Resampling.LANCZOS)
    picture.paste(small, ((left + right - size[0]) // 2, (top + bottom - size[1]) // 2), small)


def one_stamp(stamp: Stamp, others: Sequence[Stamp], rng: np.random.Generator) -> Scene:
    """A single thing, large; its colour is told where it has one."""
    picture, behind = ground(rng)
    cutout = _open(stamp.path)
    if rng.random() < 0.5:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = int(SIDE_PX * rng.uniform(0.5, 0.98))
    left, top = (int(rng.integers(SIDE_PX - side + 1)) for _ in range(2))
    place(picture, cutout, (left, top, left + side, top + side))
    bare = stamp.name.split(" ", 1)[1]
    colour = main_colour(cutout)
    told = any(name in bare.split() for name in COLOURS) or not stamp.name.startswith("a") or colour is None
    name = stamp.name if told else with_article(f"{colour} {bare}")
    captions = [sentence(name), sentence(stamp.name)]
    if behind:
        captions.append(sentence(f"{name} on a {behind} background"))
    questions = [("What is in this picture?", sentence(stamp.name))]
    if colour and not told:
        questions.append((f"What colour is the {bare}?", sentence(colour)))
    absent = others[rng.integers(len(others))].name.split(" ", 1)[1]
    return Scene(picture, captions, questions, [bare], [absent] if absent != bare else [])


def several_stamps(stamps: Sequence[Stamp], rng: np.random.Generator) -> Scene:
    """Two to four things side by side or in four fields."""
    picture, behind = ground(rng)
    count = int(rng.integers(2, 5))
    chosen = [stamps[i] for i in rng.permutation(len(stamps))[: count + 1]]
    absent, chosen = chosen[-1], chosen[:-1]
    columns, rows = (2, 2) if count == 4 else (count, 1)
    wide, high = SIDE_PX // columns, SIDE_PX // rows
    for index, stamp in enumerate(chosen):
        left, top = index % columns * wide, index // columns * high
        place(picture, _open(stamp.path), (left + 6, top + 6, left + wide - 6, top + high - 6))
    names = [stamp.name for stamp in chosen]
    listed = ", ".join(names[:-1]) + " and " + names[-1]
    captions = [sentence(listed)] + ([sentence(f"{listed} on a {behind} background")] if behind else [])
    questions = []
    if rows == 1:
        questions += [("What is on the left?", sentence(names[0])), ("What is on the right?", sentence(names[-1]))]
    if count == 3:
        questions.append(("What is in the middle?", sentence(names[1])))
    return Scene(picture, captions, questions, [name.split(" ", 1)[1] for name in names],
                 [absent.name.split(" ", 1)[1]])


def draw_solids(rng: np.random.Generator) -> list[Solid]:
    """One to nine solids, none upon another, the far ones smaller."""
    count, tries, found = int(rng.integers(1, 10)), 0, list[Solid]()
    colours = rng.permutation([name for name in COLOURS if name not in ("white", "orange", "pink")])
    colours = colours[: int(rng.integers(1, len(colours) + 1))]
    scale = rng.uniform(0.075, 0.2 if count < 4 else 0.11)
    while len(found) < count and tries < 400:
        tries += 1
        y = rng.uniform(0.3, 0.85)
        radius = scale * rng.uniform(0.75, 1.25) * (0.6 + 0.6 * y)
        x = rng.uniform(radius, 1 - radius)
        if all((x - s.x) ** 2 + (y - s.y) ** 2 > (1.25 * (radius + s.radius)) ** 2 for s in found):
            kind = list(SOLIDS)[rng.integers(len(SOLIDS))]
            found.append(Solid(kind, str(colours[rng.integers(len(colours))]), x, y, radius))
    return sorted(found, key=lambda solid: solid.y)


def solids_scene(rng: np.random.Generator) -> Scene:
    """Drawn solids on a floor: how many, which, of which colour, and where."""
    solids = draw_solids(rng)
    canvas, name = solids_picture(solids, rng)
    return Scene(canvas, _solid_captions(solids, name, rng), _solid_questions(solids, rng),
                 *_solid_names(solids, rng))


def solids_picture(solids: Sequence[Solid], rng: np.random.Generator) -> tuple[Image.Image, str]:
    """Solids on a floor, some a little out of focus; the floor's colour."""
    name = ("grey", "white", "brown", "green", "blue")[rng.choice(5, p=(0.5, 0.2, 0.1, 0.1, 0.1))]
    floor = np.array(GROUNDS[name], dtype=np.float32)
    light = np.linspace(rng.uniform(-40, 0), rng.uniform(0, 30), SIDE_PX)[:, None, None]
    canvas = Image.fromarray(np.clip(floor + light + np.zeros((1, SIDE_PX, 1)), 0, 255).astype(np.uint8))
    for solid in solids:
        draw_solid(canvas, solid)
    if rng.random() < 0.4:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    return canvas, name


def draw_solid(canvas: Image.Image, solid: Solid) -> None:
    """A shaded ball, cube, cylinder or cone with its shadow."""
    scale = 3  # drawn large and shrunk, so that edges are soft
    x, y, r = (int(value * SIDE_PX * scale) for value in (solid.x, solid.y, solid.radius))
    base = np.array(COLOURS[solid.colour])
    dark, plain, bright = (tuple(int(v) for v in np.clip(base * k + b, 0, 255)) for k, b in ((0.6, 0), (1, 0), (1, 55)))
    layer = Image.new("RGBA", (SIDE_PX * scale, SIDE_PX * scale))
    pen = ImageDraw.Draw(layer)
    pen.ellipse((x - r, y + r * 0.55, x + r * 1.6, y + r * 1.15), fill=(0, 0, 0, 70))
    if solid.kind == "ball":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=dark)
        pen.ellipse((x - r * 0.95, y - r * 0.97, x + r * 0.7, y + r * 0.7), fill=plain)
        pen.ellipse((x - r * 0.55, y - r * 0.6, x - r * 0.05, y - r * 0.1), fill=bright)
    elif solid.kind == "cube":
        a = int(r * 0.75)
        pen.polygon([(x - a, y - a // 2), (x, y - a), (x + a, y - a // 2), (x, y)], fill=bright)
        pen.polygon([(x - a, y - a // 2), (x, y), (x, y + a), (x - a, y + a // 2)], fill=plain)
        pen.polygon([(x + a, y - a // 2), (x, y), (x, y + a), (x + a, y + a // 2)], fill=dark)
    elif solid.kind == "cylinder":
        a = int(r * 0.7)
        pen.ellipse((x - a, y + r * 0.4, x + a, y + r), fill=dark)
        pen.rectangle((x - a, y - r * 0.7, x + a, y + r * 0.7), fill=plain)
        pen.rectangle((x + a * 0.3, y - r * 0.7, x + a, y + r * 0.75), fill=dark)
        pen.ellipse((x - a, y - r, x + a, y - r * 0.4), fill=bright)
    else:
        a = int(r * 0.8)
        pen.ellipse((x - a, y + r * 0.5, x + a, y + r), fill=dark)
        pen.polygon([(x, y - r), (x + a, y + r * 0.75), (x - a, y + r * 0.75)], fill=plain)
        pen.polygon([(x, y - r), (x + a, y + r * 0.75), (x + a * 0.3, y + r * 0.95)], fill=dark)
    small = layer.resize(canvas.size, Image.Resampling.LANCZOS)
    canvas.paste(small, (0, 0), small)


def _solid_captions(solids: Sequence[Solid], floor: str, rng: np.random.Generator) -> list[str]:
    groups = Counter((solid.colour, solid.kind) for solid in solids)
    listed = [f"{_NUMBERS[n]} {colour} {SOLIDS[kind] if n > 1 else kind}" for (colour, kind), n in groups.items()]
    shown = listed if len(listed) <= 3 else listed[:2]
    rest = len(solids) - sum(groups[key] for key in list(groups)[: len(shown)])
    words = ", ".join(shown[:-1]) + (" and " if len(shown) > 1 else "") + shown[-1]
    if rest:
        words = ", ".join(shown) + f" and {_NUMBERS[rest]} other shape{'s' if rest > 1 else ''}"
    captions = [sentence(f"{words} on a {floor} floor")]
    if len(solids) > 1:
        kinds = {solid.kind for solid in solids}
        thing = SOLIDS[next(iter(kinds))] if len(kinds) == 1 else "shapes"
        hues = {solid.colour for solid in solids}
        colour = next(iter(hues)) if len(hues) == 1 else ("coloured", "colourful")[rng.integers(2)]
        captions.append(sentence(f"{_NUMBERS[len(solids)]} {colour} {thing} on a {floor} floor"))
    return captions


def _solid_questions(solids: Sequence[Solid], rng: np.random.Generator) -> list[tuple[str, str]]:
    questions = [("How many shapes are there?", _count(len(solids)))]
    kinds = Counter(solid.kind for solid in solids)
    hues = Counter(solid.colour for solid in solids)
    kind = list(SOLIDS)[rng.integers(len(SOLIDS))]
    questions.append((f"How many {SOLIDS[kind]} are there?", _count(kinds[kind])))
    hue = list(COLOURS)[rng.integers(9)]
    questions.append((f"How many {hue} shapes are there?", _count(hues[hue])))
    for solid in solids:
        if kinds[solid.kind] == 1:
            questions.append((f"What colour is the {solid.kind}?", sentence(solid.colour)))
        if hues[solid.colour] == 1:
            questions.append((f"What shape is the {solid.colour} thing?", sentence(with_article(solid.kind))))
    first, second = rng.permutation(list(SOLIDS))[:2]
    more = kinds[first] > kinds[second]
    questions.append((f"Are there more {SOLIDS[first]} than {SOLIDS[second]}?", "Yes." if more else "No."))
    return questions


def _solid_names(solids: Sequence[Solid], rng: np.random.Generator) -> tuple[list[str], list[str]]:
    present = sorted({f"{solid.colour} {solid.kind}" for solid in solids})
    used = sorted({solid.colour for solid in solids})
    absent = [f"{used[rng.integers(len(used))]} {list(SOLIDS)[rng.integers(len(SOLIDS))]}" for _ in range(4)]
    absent += [f"{list(COLOURS)[rng.integers(9)]} {solids[0].kind}"]
    return present, [name for name in dict.fromkeys(absent) if name not in present]


def _open(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGBA")
    return image.crop(image.getchannel("A").getbbox())


def _count(number: int) -> str:
    return sentence(_NUMBERS[number] if number else "none")


def make_scenes(out: Path, stamps: Sequence[Stamp], config: SceneConfig = SceneConfig()) -> int:
    """Write OUT/scenes; returns how many scenes there are. The rows come last, so a set that has them is whole."""
    folder = out / "scenes"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"stamp_{i:04d}_{copy}" for i in range(len(stamps)) for copy in range(config.per_stamp)]
    names += [f"several_{i:04d}" for i in range(config.several if len(stamps) > 4 else 0)]
    names += [f"solids_{i:04d}" for i in range(config.solids)]
    rows = []
    for name in bar(names, "scenes"):
        rng, kind = draws(config.seed, "scene", name), name.split("_")[0]
        if kind == "stamp":
            scene = one_stamp(stamps[int(name.split("_")[1])], stamps, rng)
        else:
            scene = several_stamps(stamps, rng) if kind == "several" else solids_scene(rng)
        image = f"images/{name}.jpg"
        scene.picture.convert("RGB").save(folder / image, quality=90)
        rows.append({"image": image, "en": list(dict.fromkeys(scene.captions)), "qa": scene.questions,
                     "present": scene.present, "absent": scene.absent})
    path = folder / "scenes.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    write_json(folder / "made.json", {"stamps": len(stamps), "scenes": len(rows), "seed": config.seed})
    return len(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.training.prepare.scenes", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the training sets; `scenes` is added to it")
    parser.add_argument("--stamps", type=Path, default=STAMPS, help="folder of Tux Paint's stamps; optional")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(f"{make_scenes(options.out, find_stamps(options.stamps))} scenes in {options.out / 'scenes'}")


if __name__ == "__main__":
    main()
