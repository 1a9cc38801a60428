"""Each task of pre-training on samples that were kept out, beside its trivial baseline.

    python benchmarks/pretrain_tasks.py --out benchmarks/results/pretrain_tasks.json

A model of 4.5's parts, small and with random weights, learns all tasks at once from pictures and sounds that this
script makes: shaded solids on lit grounds, tones one after the other, each with a sentence that says what it is, and
documents that hold both. Whole sentences are kept out, by their hash, so that what is scored was never seen or heard in
that composition.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import common
from minicpm_o.checkpoints.random_official import official_config
from minicpm_o.evaluation.intervals import bootstrap_ratio, wilson
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, Part, TextPart
from minicpm_o.model.config import OfficialConfig, QueryResamplerConfig
from minicpm_o.model.omni import OmniModel
from minicpm_o.rates import AUDIO_RATE_HZ
from minicpm_o.training.engine import StepReport, World, train
from minicpm_o.training.examples import Example
from minicpm_o.training.prepare.scenes import COLOURS, GROUNDS, SOLIDS, Solid, draw_solid
from minicpm_o.training.prepare.work import draws
from minicpm_o.training.pretrain import PretrainConfig, build
from minicpm_o.training.pretrain_scores import Score, evaluate
from minicpm_o.training.recipe import ModelSection, OptimSection, Recipe, RunSection
from minicpm_o.training.splits import is_validation
from minicpm_o.training.trainee import OfficialTrainee, open_trainee

SET = "pretrain_tasks"
SIDE_PX = 112
HALF_S = 0.8
"""Length of either tone of a sound."""
STEADINESS = ("steady", "rising", "falling", "beating")
TIMBRES = ("pure", "rough")
PITCHES_HZ = {"low": 180.0, "middle": 420.0, "high": 980.0, "shrill": 2300.0}
PLACES = {"on the left": 0.25, "in the middle": 0.5, "on the right": 0.75}
SIZES = {"small": 0.13, "large": 0.22}
HUES = [name for name in COLOURS if name not in ("white", "orange", "pink")]
FLOORS = ("grey", "green", "blue", "brown", "white")
CONFIG = PretrainConfig.model_validate({
    "next_token": {"learn": "answers", "tasks": ["document"]},
    "masked_language": {"tasks": ["picture", "sound"]},
    "masked_image": {"tasks": ["picture"]},
    "masked_audio": {"tasks": ["sound"]},
    "contrastive": {"tasks": ["picture", "sound"]},
    "matching": {"tasks": ["picture", "sound"]},
    "phases": [{"until": 0.1, "train": ["connectors", "heads", "vision", "hearing"]}, {"train": ["all"]}],
})


@dataclass(frozen=True)
class Size:
    """How long the run is."""

    steps: int = 360
    pictures: int = 12
    sounds: int = 12
    documents: int = 6
    """Of each in a step."""
    known: int = 1200
    """Different pictures, and sounds, to learn from."""
    asked: int = 76
    """And kept out."""
    lr: float = 2e-3
    warmup: int = 40
    seed: int = 0


# Samples


def picture(rng: np.random.Generator) -> tuple[Image.Image, str]:
    """A solid on a ground that is lit from somewhere, and a sentence."""
    hue, kind, where, size, floor = (str(rng.choice(list(names))) for names in (HUES, SOLIDS, PLACES, SIZES, FLOORS))
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.meshgrid(np.linspace(-1, 1, SIDE_PX), np.linspace(-1, 1, SIDE_PX))
    light = (np.cos(angle) * x + np.sin(angle) * y) * rng.uniform(30, 60)
    ground = np.array(GROUNDS[floor], np.float32) * 0.8 + light[..., None]
    canvas = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    jitter = rng.uniform(-0.05, 0.05, 2)
    draw_solid(canvas, Solid(kind, hue, PLACES[where] + jitter[0], 0.5 + jitter[1], SIZES[size]))
    return canvas, f"A {size} {hue} {kind} {where}, on a {floor} floor."


def sound(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Two tones (N,), one after the other, and a sentence."""
    tones = [tuple(str(rng.choice(list(names))) for names in (PITCHES_HZ, TIMBRES, STEADINESS)) for _ in range(2)]
    waveform = np.concatenate([tone(*words, rng) for words in tones]) + rng.normal(0, 1e-3, 2 * half_samples())
    first, second = (" ".join(words) for words in tones)
    return waveform.astype(np.float32), f"{first.capitalize()}, then {second}."


def tone(pitch: str, timbre: str, steadiness: str, rng: np.random.Generator) -> np.ndarray:
    """(N,) of HALF_S."""
    time_s = np.arange(half_samples()) / AUDIO_RATE_HZ
    slope = {"rising": 0.5, "falling": -0.5}.get(steadiness, 0.0)
    hertz = PITCHES_HZ[pitch] * rng.uniform(0.93, 1.07) * 2 ** (slope * (time_s / HALF_S - 0.5))
    phase = 2 * np.pi * np.cumsum(hertz) / AUDIO_RATE_HZ
    waves = 3 if timbre == "rough" else 1
    wave = sum(np.sin(n * phase) / n for n in range(1, 2 * waves, 2))
    beat = 0.55 + 0.45 * np.sin(2 * np.pi * 5 * time_s) if steadiness == "beating" else 1.0
    return 0.2 * rng.uniform(0.7, 1.3) * beat * wave


def half_samples() -> int:
    return int(HALF_S * AUDIO_RATE_HZ)


def pair(kind: str, number: int, seed: int) -> Example:
    """A picture or a sound that a user sends, and what it is."""
    rng = draws(seed, SET, kind, number)
    part, words = _made(kind, rng)
    return Example((Message("user", (part,)), Message("assistant", (TextPart(words),))), kind, f"{kind} {number}")


def _made(kind: str, rng: np.random.Generator) -> tuple[Part, str]:
    if kind == "picture":
        image, words = picture(rng)
        return ImagePart(image), words
    waveform, words = sound(rng)
    return AudioPart(waveform, AUDIO_RATE_HZ), words


def document(seen: Example, heard: Example) -> Example:
    """Both as one text with its picture and its sound."""
    parts = (TextPart("This can be seen:"), *seen.messages[0].parts, *seen.messages[1].parts,
             TextPart("And this can be heard:"), *heard.messages[0].parts, *heard.messages[1].parts)
    return Example((Message("assistant", parts),), "document", f"{seen.name}, {heard.name}")


def is_kept_out(example: Example) -> bool:
    """By its sentence, so that no composition is on both sides."""
    return is_validation(SET, example.messages[1].parts[0].text)


def make_pairs(kind: str, size: Size) -> tuple[list[Example], list[Example]]:
    """To learn from, and kept out, none of these with the same sentence."""
    known: list[Example] = []
    asked: dict[str, Example] = {}
    number = 0
    while len(known) < size.known or (len(asked) < size.asked and number < 2 * size.known):
        example = pair(kind, number, size.seed)
        if is_kept_out(example):
            asked.setdefault(example.messages[1].parts[0].text, example)
        elif len(known) < size.known:
            known.append(example)
        number += 1
    return known, list(asked.values())[: size.asked]


@dataclass
class Draws:
    """So many of each kind a step, as they follow from seed and step."""

    pictures: Sequence[Example]
    sounds: Sequence[Example]
    size: Size

    def draw(self, step: int) -> list[list[Example]]:
        rng, size = draws(self.size.seed, SET, "step", step), self.size

        def some(examples: Sequence[Example], count: int) -> list[Example]:
            return [examples[place] for place in rng.choice(len(examples), count, replace=False)]

        documents = map(document, some(self.pictures, size.documents), some(self.sounds, size.documents))
        return [[*some(self.pictures, size.pictures), *some(self.sounds, size.sounds), *documents]]

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None: ...

    def counts(self) -> dict[str, int]:
        return {}


# Model and run


def small_config() -> OfficialConfig:
    """4.5's parts without its voice, small: pictures of 8 x 8 patches in 16 tokens, three layers of language."""
    tiny = official_config("4.5", "tiny")
    return replace(
        tiny, name="small", talker=None, flow=None, hift=None, language=replace(tiny.language, layers=3, ffn=256),
        vision=replace(tiny.vision, width=96, ffn=192, heads=4), resampler=QueryResamplerConfig(queries=16),
        hearing=replace(tiny.hearing, width=96, heads=4, ffn=192),
        slicing=replace(tiny.slicing, scale_px=SIDE_PX, max_slices=1))


def small_trainee() -> OfficialTrainee:
    """The model with new weights; its words are the tiny checkpoint's."""
    folder = open_trainee("tiny-4.5").folder
    model = OmniModel(small_config())
    for table in (model.vision.embeddings.position_embedding, model.hearing.embed_positions):
        nn.init.normal_(table.weight, std=0.02)  # torch's own begins fifty times as large and drowns what is seen
    return OfficialTrainee("small", folder, model.train())


def recipe_of(size: Size) -> Recipe:
    """What the engine reads of a recipe; the samples are made here, so that it has no sources."""
    return Recipe.model_construct(
        stage="pretrain", model=ModelSection(name="small"), data=None, pretrain=CONFIG,
        optim=OptimSection(lr=size.lr, betas=(0.9, 0.98), weight_decay=0.02, warmup_steps=size.warmup),
        run=RunSection(steps=size.steps, save_every=size.steps, seed=size.seed))


class Log:
    """Mean losses of every 50 steps, on the terminal."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def __call__(self, done: StepReport) -> None:
        for name, loss in done.terms.items():
            self._sums.setdefault(name, []).append(loss)
        if done.step % 50 == 0:
            print(done.step, *(f"{name} {np.mean(losses):.3f}" for name, losses in self._sums.items()), flush=True)
            self._sums = {}


def run(size: Size) -> dict[str, Any]:
    """The whole report."""
    torch.manual_seed(size.seed)
    sides = [make_pairs(kind, size) for kind in ("picture", "sound")]
    (known_seen, asked_seen), (known_heard, asked_heard) = sides
    data = Draws(known_seen, known_heard, size)
    objective, feed = build(CONFIG, small_trainee(), data, size.seed)
    asked = [*asked_seen, *asked_heard, *map(document, asked_seen[:32], asked_heard[:32])]
    known = [example for step in range(12) for micro in data.draw(step) for example in micro]
    untrained = evaluate(objective, feed, asked, known)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        train(objective, feed, recipe_of(size), Path(folder), World(), Log())
    cpu_s = time.process_time() - started
    trained = evaluate(objective, feed, asked, known)
    return {
        "name": SET, "command": f"python benchmarks/{SET}.py", "machine": common.machine() | {
            "torch": torch.__version__}, "size": vars(size), "recipe": json.loads(CONFIG.model_dump_json()),
        "parameters": {"model": num_parameters(objective.model), "heads": num_parameters(objective.heads)},
        "train_cpu_s": round(cpu_s), "kept_out": {"pictures": len(asked_seen), "sounds": len(asked_heard)},
        "rows": [row(before, after) for before, after in zip(untrained, trained, strict=True)]}


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def row(before: Score, after: Score) -> dict[str, Any]:
    """A task's line; it beats the trivial baseline when all of its interval does."""
    hits, n = sum(after.totals), sum(after.counts)
    interval = wilson(round(hits), round(n)) if after.is_rate else bootstrap_ratio(after.totals, after.counts)
    worse_end = interval[0] if after.is_rate else interval[1]
    beats = worse_end > after.trivial if after.is_rate else worse_end < after.trivial
    return {"task": after.task, "metric": after.metric, "trained": after.value, "interval": interval,
            "untrained": before.value, "trivial": after.trivial, "n": round(n), "beats_trivial": beats}


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    def number(value: float, metric: str) -> str:
        return f"{100 * value:.1f} %" if metric in ("accuracy", "R@1", "R@5") else f"{value:.3f}"

    rows = [[line["task"], line["metric"], number(line["trained"], line["metric"]),
             " … ".join(number(end, line["metric"]) for end in line["interval"]),
             number(line["untrained"], line["metric"]), number(line["trivial"], line["metric"]), line["n"],
             "yes" if line["beats_trivial"] else "no"]
            for line in report["rows"]]
    head = ("task", "metric", "trained", "95 %", "untrained", "trivial", "n", "beats it")
    millions = {name: f"{count / 1e6:.2f} M" for name, count in report["parameters"].items()}
    return "\n\n".join([
        common.table(head, rows),
        "Trivial: the words' own frequencies or the most frequent word, the mean patch or frame of the training "
        "samples, drawing lots, tossing a coin. Square errors are of patches with their own mean and spread taken off, "
        "and of log-mel frames. Sentences are kept out by their hash: what is scored was never learned in that "
        "composition.",
        f"A model of 4.5's parts with {millions['model']} random weights and {millions['heads']} of heads, all tasks "
        f"at once, {report['size']['steps']} steps in {report['train_cpu_s']} CPU seconds on one thread; "
        f"{report['kept_out']['pictures']} pictures and {report['kept_out']['sounds']} sounds kept out. "
        + common.provenance(report)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=Size.steps)
    parser.add_argument("--known", type=int, default=Size.known, help="different pictures, and sounds, to learn from")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=common.RESULTS / f"{SET}.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = run(Size(steps=args.steps, known=args.known))
    common.publish(args.out, report, markdown(report))
    if failed := [line["task"] for line in report["rows"] if not line["beats_trivial"]]:
        raise SystemExit(f"no better than the trivial baseline: {', '.join(failed)}")


if __name__ == "__main__":
    main()
