"""Samples that are made when they are wanted, each by its number: solids on a floor, bar charts, words to read, beeps.

What is asked of them is known exactly, so that they teach and test without anybody's data. Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...errors import OptionError
from ...inputs.messages import AudioPart, ImagePart, Message, Part, TextPart
from ...inputs.prompts import CAPTION, SOUND_CAPTION
from ...rates import AUDIO_RATE_HZ
from ..examples import Example
from ..labels import sentence
from ..prepare.scenes import COLOURS, SIDE_PX, SOLIDS, solids_scene
from ..prepare.work import draws

WORDS = ("apple river window garden music yellow planet summer bridge castle doctor engine forest guitar island jacket "
         "kitchen ladder mirror number orange pencil rocket silver ticket valley winter button cloud dragon").split()
TONES_HZ = {"low": 220.0, "high": 880.0}
NUMBERS = ("one", "two", "three", "four", "five")


def made_example(kind: str, index: int, *, name: str, task: str | None = None) -> Example:
    """Number `index` of a kind. Raises OptionError for a kind that there is not."""
    if kind not in KINDS:
        raise OptionError(f"there is nothing made of the kind {kind!r}; kinds are {', '.join(KINDS)}")
    rng = draws(0, "made", kind, index)
    parts, question, answer, facts = KINDS[kind](rng)
    messages = (Message("user", (*parts, TextPart(question))), Message("assistant", (TextPart(answer),)))
    own, rejected = facts.pop("task", kind), facts.pop("rejected", None)
    return Example(messages, task or own, name, rejected, facts=facts)


Made = tuple[list[Part], str, str, dict[str, Any]]


def _shapes(rng: np.random.Generator) -> Made:
    """A description as often as a question."""
    scene = solids_scene(rng)
    facts: dict[str, Any] = {"references": scene.captions, "present": scene.present, "absent": scene.absent}
    if rng.random() < 0.5:
        return [ImagePart(scene.picture)], CAPTION, scene.captions[0], {**facts, "task": "caption"}
    asked = [*scene.questions, *((f"Is there a {name}?", "Yes.") for name in scene.present[:1]),
             *((f"Is there a {name}?", "No.") for name in scene.absent[:1])]
    question, answer = asked[rng.integers(len(asked))]
    return [ImagePart(scene.picture)], question, answer, {**facts, "answer": answer, "task": "shapes"}


def _captions(rng: np.random.Generator) -> Made:
    scene = solids_scene(rng)
    return [ImagePart(scene.picture)], CAPTION, scene.captions[0], {"references": scene.captions, "task": "caption"}


def _pairs(rng: np.random.Generator) -> Made:
    """A true description, and one in which a colour, a shape or a number is another."""
    scene = solids_scene(rng)
    caption = scene.captions[0]
    worse = _falsified(caption, rng)
    return [ImagePart(scene.picture)], CAPTION, caption, {
        "references": scene.captions, "present": scene.present, "absent": scene.absent, "rejected": worse,
        "task": "preference"}


def _falsified(caption: str, rng: np.random.Generator) -> str:
    """The sentence with one of its words exchanged for another of its kind."""
    words = caption.rstrip(".").split()
    kinds = [[*COLOURS], [*SOLIDS], [*SOLIDS.values()], [*NUMBERS]]
    places = [(place, kind) for place, word in enumerate(words) for kind in kinds if word.lower().strip(",") in kind]
    place, kind = places[rng.integers(len(places))]
    others = [word for word in kind if word != words[place].lower().strip(",")]
    mark = "," if words[place].endswith(",") else ""
    return sentence(" ".join([*words[:place], others[rng.integers(len(others))] + mark, *words[place + 1 :]]))


def _charts(rng: np.random.Generator) -> Made:
    """Bars of different colours and heights: which is the highest, how high is one."""
    count = int(rng.integers(2, 6))
    hues = [str(hue) for hue in rng.permutation([hue for hue in COLOURS if hue != "white"])[:count]]
    heights = [int(height) for height in rng.permutation(np.arange(1, 10))[:count]]
    picture = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
    pen, step = ImageDraw.Draw(picture), SIDE_PX // (count + 1)
    pen.line((20, 8, 20, SIDE_PX - 24, SIDE_PX - 8, SIDE_PX - 24), fill="black", width=2)
    for level in range(1, 10):
        y = SIDE_PX - 24 - level * 24
        pen.text((4, y - 6), str(level), fill="black", font=ImageFont.load_default(12))
        pen.line((17, y, 23, y), fill="black")
    for place, (hue, height) in enumerate(zip(hues, heights, strict=True)):
        x = 30 + place * step
        pen.rectangle((x, SIDE_PX - 24 - height * 24, x + step // 2, SIDE_PX - 25), fill=COLOURS[hue])
    if rng.random() < 0.5:
        answer = sentence(hues[int(np.argmax(heights))])
        return [ImagePart(picture)], "Which bar is the highest?", answer, {"answer": answer}
    chosen = int(rng.integers(count))
    answer = f"{heights[chosen]}."
    return [ImagePart(picture)], f"How high is the {hues[chosen]} bar?", answer, {"answer": answer}


def _reading(rng: np.random.Generator) -> Made:
    """One to three words or a number, to be read."""
    words = [WORDS[i] for i in rng.permutation(len(WORDS))[: int(rng.integers(1, 4))]]
    if rng.random() < 0.3:
        words = [str(int(rng.integers(10, 10_000)))]
    picture = Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(int(value) for value in rng.integers(190, 256, 3)))
    pen = ImageDraw.Draw(picture)
    for place, word in enumerate(words):
        font, ink = ImageFont.load_default(int(rng.integers(28, 44))), tuple(map(int, rng.integers(0, 110, 3)))
        pen.text((int(rng.integers(8, 60)), 30 + place * 70), word, font=font, fill=ink)
    answer = " ".join(words)
    return [ImagePart(picture)], "What is written here?", answer, {"answer": answer}


def _beeps(rng: np.random.Generator) -> Made:
    """One to five tones, low or high, in some noise."""
    count, pitch = int(rng.integers(1, 6)), str(rng.choice(list(TONES_HZ)))
    waveform = beeps(count, TONES_HZ[pitch] * rng.uniform(0.9, 1.1), rng)
    text = sentence(f"{NUMBERS[count - 1]} {pitch} beep{'s' if count > 1 else ''}")
    facts = {"references": [text], "answer": text}
    return [AudioPart(waveform, AUDIO_RATE_HZ)], SOUND_CAPTION, text, facts


def beeps(count: int, pitch_hz: float, rng: np.random.Generator) -> np.ndarray:
    """(N,) float32: tones of a seventh of a second with pauses, in faint noise."""
    length, pause = int(0.14 * AUDIO_RATE_HZ), int(0.1 * AUDIO_RATE_HZ)
    fade = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / 200)
    tone = np.sin(2 * np.pi * pitch_hz * np.arange(length) / AUDIO_RATE_HZ) * fade * rng.uniform(0.2, 0.6)
    waveform = np.concatenate([np.concatenate([tone, np.zeros(pause)]) for _ in range(count)])
    return (waveform + rng.standard_normal(len(waveform)) * 0.005).astype(np.float32)


KINDS: Mapping[str, Callable[[np.random.Generator], Made]] = {
    "shapes": _shapes, "captions": _captions, "pairs": _pairs, "charts": _charts, "reading": _reading, "beeps": _beeps,
}
