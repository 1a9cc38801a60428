"""Made scenes in which things do something to each other, a sound of one of them, and questions with one-word answers.

Four to six things of different colours stand in a field of three by three cells. Two pairs of neighbours are events: an
agent does something to a patient, and marks tell what and in which direction. One of these four things beeps: every
colour has its own pitch. A fifth of all (colour, action, colour) triples, either way round, never occurs in training.
Shapes: S picture side, M mel bins, F mel frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from ...inputs.mel import clip_log_mel
from ...rates import AUDIO_RATE_HZ
from ..prepare.scenes import COLOURS, GROUNDS
from ..prepare.work import draws

Split = Literal["train", "dev", "seen", "new"]
"""dev and seen have training's triples in other scenes; in new every event is a triple that training never has."""

SIDE_PX = 64
MEL_BINS, MEL_FRAMES = 40, 48
HUES = ("red", "blue", "green", "yellow", "purple", "cyan", "orange", "pink")
"""Colours of things; no two things of a scene share one."""
KINDS = ("ball", "cube", "cone", "ring", "cross")
ACTIONS = {"push": "pushes", "pull": "pulls", "hit": "hits", "chase": "chases", "carry": "carries", "watch": "watches"}
COUNTS = {4: "four", 5: "five", 6: "six"}

ANSWERS = {
    "who": HUES, "whom": HUES, "what": tuple(ACTIONS), "way": ("yes", "no"),
    "partner": HUES, "role": ("yes", "no"),
    "present": ("yes", "no"), "count": tuple(COUNTS.values()), "shape": KINDS,
    "beep": HUES, "beep_shape": KINDS,
}
"""Kinds of questions and what can be the answer."""
GROUPS = {
    "relation": ("who", "whom", "what", "way"),
    "relation with sound": ("partner", "role"),
    "control": ("present", "count", "shape"),
    "control with sound": ("beep", "beep_shape"),
}

Triple = tuple[str, str, str]
"""Colour of the agent, action, colour of the patient."""
Cell = tuple[int, int]
_CELLS = tuple(product(range(3), range(3)))
_INK = (20, 20, 20)
_RADIUS = 5


@dataclass(frozen=True)
class Thing:
    """A coloured shape; x and y of its middle in pixels."""

    colour: str
    kind: str
    x: float
    y: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Event:
    """Who does what to whom."""

    agent: Thing
    action: str
    patient: Thing

    @property
    def triple(self) -> Triple:
        return self.agent.colour, self.action, self.patient.colour


@dataclass(frozen=True)
class Question:
    """One of each kind belongs to every scene."""

    kind: str
    text: str
    answer: str


@dataclass(frozen=True)
class Scene:
    """What there is to see, to hear and to ask."""

    events: tuple[Event, ...]
    others: tuple[Thing, ...]
    """Things that do nothing."""
    beeper: Thing
    picture: np.ndarray
    """(S, S, 3) uint8."""
    log_mel: np.ndarray
    """(M, F) float32."""
    questions: tuple[Question, ...]

    @property
    def things(self) -> tuple[Thing, ...]:
        return (*(thing for event in self.events for thing in (event.agent, event.patient)), *self.others)


def make_scene(split: Split, seed: int, index: int) -> Scene:
    """The scene of this name, always the same."""
    rng = draws(seed, "fusion", split, index)
    events, others = draw_story(allowed_triples(split == "new"), rng)
    picture, log_mel = paint(events, others, rng), None
    beeper = (events[0].agent, events[0].patient)[rng.integers(2)]
    log_mel = beeps(beeper.colour, rng)
    return Scene(events, others, beeper, picture, log_mel, ask(events, others, beeper, rng))


# What happens


@cache
def allowed_triples(is_new: bool) -> tuple[Triple, ...]:
    """Triples of training, or those that are kept from it. Both ways round of a pair are on the same side, so that
    no question about a kept-out triple is asked in training, with the answer no."""
    pairs = [(one, action, other) for one, other in permutations(HUES, 2) for action in ACTIONS if one < other]
    order = draws(0, "fusion", "triples").permutation(len(pairs))
    fifth = len(pairs) // 5
    chosen = [pairs[i] for i in (order[:fifth] if is_new else order[fifth:])]
    return tuple(triple for one, action, other in chosen for triple in ((one, action, other), (other, action, one)))


def draw_story(triples: Sequence[Triple], rng: np.random.Generator) -> tuple[tuple[Event, ...], tuple[Thing, ...]]:
    """Two events and none to two things that only stand there, each in a cell of its own."""
    first = triples[rng.integers(len(triples))]
    rest = [triple for triple in triples if not {first[0], first[2]} & {triple[0], triple[2]}]
    second = rest[rng.integers(len(rest))]
    events, taken = [], set[Cell]()
    for triple in (first, second):
        cells = [pair for pair in neighbours(triple[1]) if not taken & set(pair)]
        pair = cells[rng.integers(len(cells))]
        events.append(_event(triple, pair, rng))
        taken |= set(pair)
    hues = [hue for hue in HUES if hue not in (*first, *second)]
    free = [cell for cell in _CELLS if cell not in taken]
    count = rng.integers(3)
    places, colours = rng.permutation(len(free))[:count], rng.permutation(len(hues))[:count]
    others = tuple(_thing(hues[c], free[p], rng) for c, p in zip(colours, places, strict=True))
    return tuple(events), others


@cache
def neighbours(action: str) -> tuple[tuple[Cell, Cell], ...]:
    """Cells (column, row) of agent and patient, side by side or one above the other; who is carried is above."""
    pairs = [(a, b) for a, b in permutations(_CELLS, 2) if abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1]
    return tuple((a, b) for a, b in pairs if action != "carry" or (a[0] == b[0] and b[1] < a[1]))


def _thing(colour: str, cell: Cell, rng: np.random.Generator) -> Thing:
    x, y = ((place + 0.5) * SIDE_PX / 3 + rng.uniform(-1, 1) for place in cell)
    return Thing(colour, KINDS[rng.integers(len(KINDS))], x, y)


def _event(triple: Triple, cells: tuple[Cell, Cell], rng: np.random.Generator) -> Event:
    agent, patient = _thing(triple[0], cells[0], rng), _thing(triple[2], cells[1], rng)
    if triple[1] in ("push", "carry"):  # they touch
        step = 2 * _RADIUS + 1
        dx, dy = cells[1][0] - cells[0][0], cells[1][1] - cells[0][1]
        agent = Thing(agent.colour, agent.kind, patient.x - dx * step, patient.y - dy * step)
    return Event(agent, triple[1], patient)


# What it looks and sounds like


def paint(events: Sequence[Event], others: Sequence[Thing], rng: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8."""
    ground = np.array(GROUNDS["white"]) - int(rng.integers(40))
    canvas = Image.new("RGB", (SIDE_PX, SIDE_PX), tuple(int(v) for v in ground))
    pen = ImageDraw.Draw(canvas)
    for event in events:
        for thing in (event.agent, event.patient):
            _draw_thing(pen, thing)
        _draw_action(pen, event)
    for thing in others:
        _draw_thing(pen, thing)
    return np.asarray(canvas)


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    x, y, r, fill = thing.x, thing.y, _RADIUS, COLOURS[thing.colour]
    if thing.kind == "ball":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.kind == "cube":
        pen.rectangle((x - r + 1, y - r + 1, x + r - 1, y + r - 1), fill=fill)
    elif thing.kind == "cone":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=fill)
    elif thing.kind == "ring":
        pen.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=3)
    else:
        pen.rectangle((x - r, y - 1.5, x + r, y + 1.5), fill=fill)
        pen.rectangle((x - 1.5, y - r, x + 1.5, y + r), fill=fill)


def _draw_action(pen: ImageDraw.ImageDraw, event: Event) -> None:
    """push: strokes behind the agent; chase: behind both; pull: a rope, and a tip before the agent; hit: a stick that
    ends in a star at the patient; watch: an eye, and dots towards the patient; carry: arms around the patient."""
    agent, patient = event.agent, event.patient
    ax, ay = agent.x, agent.y
    dx, dy = patient.x - ax, patient.y - ay
    ux, uy = (float(np.sign(dx)), 0.0) if abs(dx) > abs(dy) else (0.0, float(np.sign(dy)))
    near, far = _RADIUS + 1, max(abs(dx), abs(dy)) - _RADIUS - 1

    def at(along: float, aside: float = 0.0) -> tuple[float, float]:
        return ax + ux * along - uy * aside, ay + uy * along + ux * aside

    if event.action == "push":
        _strokes(pen, at(-near), (ux, uy))
    elif event.action == "chase":
        _strokes(pen, at(-near), (ux, uy))
        _strokes(pen, at(far), (ux, uy))
    elif event.action == "pull":
        pen.line([at(near), at(far)], fill=_INK)
        pen.line([at(-near, 3), at(-near - 3), at(-near, -3)], fill=_INK)
    elif event.action == "hit":
        pen.line([at(near), at(far - 2)], fill=_INK, width=2)
        pen.line([at(far - 3, 3), at(far, -3)], fill=_INK)
        pen.line([at(far - 3, -3), at(far, 3)], fill=_INK)
    elif event.action == "watch":
        pen.ellipse((ax - 2.5, ay - 2.5, ax + 2.5, ay + 2.5), fill=(255, 255, 255))
        pen.rectangle((*at(1), *at(1)), fill=_INK)
        for along in np.arange(near, far + 1, 3):
            pen.point(at(along), fill=_INK)
    else:
        pen.line([at(0, 7), at(far + 3, 7)], fill=_INK)
        pen.line([at(0, -7), at(far + 3, -7)], fill=_INK)


def _strokes(pen: ImageDraw.ImageDraw, start: tuple[float, float], forward: tuple[float, float]) -> None:
    """Two short lines that something fast leaves behind."""
    (x, y), (ux, uy) = start, forward
    for aside in (-2, 2):
        sx, sy = x - uy * aside, y + ux * aside
        pen.line([(sx, sy), (sx - 3 * ux, sy - 3 * uy)], fill=_INK)


def beeps(colour: str, rng: np.random.Generator) -> np.ndarray:
    """(M, F) of two or three short tones over faint noise; the colour has its pitch, a third of an octave each."""
    samples = MEL_FRAMES * AUDIO_RATE_HZ // 100
    time_s = np.arange(samples) / AUDIO_RATE_HZ
    pitch_hz = 330 * 2 ** (HUES.index(colour) / 3) * rng.uniform(0.98, 1.02)
    count = int(rng.integers(2, 4))
    envelope = np.zeros(samples)
    for beat in range(count):
        middle_s = (beat + rng.uniform(0.35, 0.65)) * MEL_FRAMES / 100 / count
        envelope += np.abs(time_s - middle_s) < 0.03
    wave = rng.uniform(0.1, 0.5) * envelope * np.sin(2 * np.pi * pitch_hz * time_s)
    return clip_log_mel((wave + rng.normal(0, 0.003, samples)).astype(np.float32), mel_bins=MEL_BINS)


# What is asked


def ask(events: Sequence[Event], others: Sequence[Thing], beeper: Thing,
        rng: np.random.Generator) -> tuple[Question, ...]:
    """One question of each kind, in the order of ANSWERS."""
    things = [*(thing for event in events for thing in (event.agent, event.patient)), *others]
    return (*_relations(events, rng), *_relations_with_sound(events, beeper), *_controls(things, rng),
            Question("beep", "who beeps ?", beeper.colour),
            Question("beep_shape", "what shape is the one that beeps ?", beeper.kind))


def _relations(events: Sequence[Event], rng: np.random.Generator) -> list[Question]:
    who, whom, what, way = (events[i] for i in rng.integers(len(events), size=4))
    is_so = rng.random() < 0.5
    one, other = (way.agent, way.patient) if is_so else (way.patient, way.agent)
    return [
        Question("who", f"who {ACTIONS[who.action]} the {who.patient.name} ?", who.agent.colour),
        Question("whom", f"whom does the {whom.agent.name} {whom.action} ?", whom.patient.colour),
        Question("what", f"what does the {what.agent.name} do to the {what.patient.name} ?", what.action),
        Question("way", f"does the {one.name} {way.action} the {other.name} ?", "yes" if is_so else "no"),
    ]


def _relations_with_sound(events: Sequence[Event], beeper: Thing) -> list[Question]:
    """Who stands at the other end, and at which end the one that beeps stands."""
    event = next(event for event in events if beeper in (event.agent, event.patient))
    is_agent = beeper == event.agent
    action = event.action
    partner = Question("partner", f"whom does the one that beeps {action} ?", event.patient.colour) if is_agent else (
        Question("partner", f"who {ACTIONS[action]} the one that beeps ?", event.agent.colour))
    return [partner, Question("role", f"does the one that beeps {action} another ?", "yes" if is_agent else "no")]


def _controls(things: Sequence[Thing], rng: np.random.Generator) -> list[Question]:
    """What needs no relation: is a colour there, how many things, which shape has a colour."""
    is_there = rng.random() < 0.5
    hues = [hue for hue in HUES if is_there == any(thing.colour == hue for thing in things)]
    hue, asked = hues[rng.integers(len(hues))], things[rng.integers(len(things))]
    return [
        Question("present", f"is there a {hue} thing ?", "yes" if is_there else "no"),
        Question("count", "how many things are there ?", COUNTS[len(things)]),
        Question("shape", f"what shape is the {asked.colour} one ?", asked.kind),
    ]
