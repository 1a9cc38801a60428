"""What DPO and GRPO add to a tuned model: rewards on prompts that were kept out, and what they cost.

    python benchmarks/align_gain.py

A small model of 4.5's parts with random weights is tuned on made pictures until it describes and answers moderately:
one to three solids of one look on a floor. Its eyes learn first, as 4.5's were trained before. Then three models go on
from the same weights: by DPO on pairs of its own descriptions, told apart claim by claim; by GRPO, rewarded for true
claims less invented ones and for right answers; and by more of the same tuning, as many steps, for what training alone
would have brought.
Whole sentences are kept out, so that no composition that is asked was ever learned.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import common
import pretrain_tasks as made
from minicpm_o.evaluation.intervals import bootstrap_ratio, wilson
from minicpm_o.evaluation.metrics import contains_answer
from minicpm_o.inputs.messages import ImagePart, Message, TextPart
from minicpm_o.training import align, sft
from minicpm_o.training.engine import World, train
from minicpm_o.training.examples import Example
from minicpm_o.training.preferences import PairSettings, sample_pairs
from minicpm_o.training.prepare.scenes import GROUNDS, SOLIDS, Solid, draw_solid
from minicpm_o.training.prepare.work import draws
from minicpm_o.training.recipe import ModelSection, OptimSection, Recipe, RunSection
from minicpm_o.training.rewards import answer_reward, facts_reward
from minicpm_o.training.sampling import SamplingSettings, answer_logps, sample_answers
from minicpm_o.training.splits import is_validation
from minicpm_o.training.trainee import OfficialTrainee

NAME = "align_gain"
NUMBERS = ("one", "two", "three")
HUES = ("red", "blue", "green", "yellow", "purple", "black")
PLACES = {"top": 0.22, "middle": 0.5, "bottom": 0.78}
FLOORS = ("grey", "white", "brown")
VALUES: dict[str, Sequence[str]] = {"number": NUMBERS, "colour": HUES, "kind": list(SOLIDS), "place": list(PLACES),
                                    "floor": [f"{floor} floor" for floor in FLOORS]}
QUESTIONS = {"number": "How many?", "colour": "What colour?", "kind": "What shape?", "place": "Where?"}
TASKS = (*QUESTIONS, "yesno")
DESCRIBE = "Describe it."
MAX_TOKENS = 40


@dataclass(frozen=True)
class Size:
    """How long each stage is."""

    known: int = 3000
    """Different pictures to learn from."""
    asked: int = 300
    """And kept out."""
    eyes_steps: int = 700
    sft_steps: int = 300
    dpo_steps: int = 150
    grpo_steps: int = 100
    batch: int = 32
    sampled: int = 600
    """Known pictures that the tuned model describes `group` times each, for DPO's pairs."""
    group: int = 8
    """Answers to a prompt."""
    prompts: int = 32
    """Of a step of GRPO."""
    pairs: int = 16
    """Of a step of DPO."""
    drawn: int = 4
    """Descriptions of a kept-out picture that are scored."""
    dpo_beta: float = 0.3
    dpo_sft_weight: float = 2.0
    grpo_kl: float = 0.2
    sft_lr: float = 1e-3
    dpo_lr: float = 3e-5
    grpo_lr: float = 3e-4
    seed: int = 0


# Samples


@dataclass(frozen=True)
class Scene:
    """A picture, what it shows, and the sentence that says it."""

    picture: Image.Image
    shown: Mapping[str, str]
    sentence: str
    name: str


def make_scene(number: int, seed: int) -> Scene:
    rng = draws(seed, NAME, "scene", number)
    shown = {name: str(rng.choice(list(values))) for name, values in VALUES.items()}
    return Scene(_draw(shown, rng), shown, sentence_of(shown), f"scene {number}")


def sentence_of(shown: Mapping[str, str]) -> str:
    kind = shown["kind"] if shown["number"] == "one" else SOLIDS[shown["kind"]]
    return f"{shown['number'].capitalize()} {shown['colour']} {kind}, {shown['place']}, {shown['floor']}."


def _draw(shown: Mapping[str, str], rng: np.random.Generator) -> Image.Image:
    """Solids side by side on a ground that is lit from somewhere."""
    count = NUMBERS.index(shown["number"]) + 1
    angle = rng.uniform(0, 2 * np.pi)
    x, y = np.meshgrid(np.linspace(-1, 1, made.SIDE_PX), np.linspace(-1, 1, made.SIDE_PX))
    light = (np.cos(angle) * x + np.sin(angle) * y) * rng.uniform(15, 40)
    ground = np.array(GROUNDS[shown["floor"].split()[0]], np.float32) * 0.85 + light[..., None]
    canvas = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    for slot in sorted(rng.choice(3, count, replace=False)):
        jitter = rng.uniform(-0.03, 0.03, 2)
        draw_solid(canvas, Solid(shown["kind"], shown["colour"], 0.2 + 0.3 * slot + jitter[0],
                                 PLACES[shown["place"]] + jitter[1], 0.14))
    return canvas


def facts_of(scene: Scene) -> dict[str, Any]:
    """Claims that are true of the picture, and those that are not."""
    absent = [value for name, values in VALUES.items() for value in values if value != scene.shown[name]]
    return {"present": list(scene.shown.values()), "absent": absent}


def caption(scene: Scene) -> Example:
    return _example(scene, DESCRIBE, scene.sentence, "caption", facts_of(scene))


def question(scene: Scene, kind: str, seed: int) -> Example:
    """One of five kinds of question."""
    if kind != "yesno":
        answer = f"{scene.shown[kind].capitalize()}."
        return _example(scene, QUESTIONS[kind], answer, kind, {"answer": answer})
    rng = draws(seed, NAME, "asked", scene.name)
    true = (scene.shown["colour"], scene.shown["kind"])
    hue, name = true if rng.random() < 0.5 else (str(rng.choice(HUES)), str(rng.choice(list(SOLIDS))))
    answer = "Yes." if (hue, name) == true else "No."
    return _example(scene, f"Is it a {hue} {name}?", answer, kind, {"answer": answer})


def captions(scenes: Sequence[Scene]) -> list[Example]:
    return [caption(scene) for scene in scenes]


def questions(scenes: Sequence[Scene], seed: int) -> list[Example]:
    """Every kind of question about every scene."""
    return [question(scene, kind, seed) for scene in scenes for kind in TASKS]


def _example(scene: Scene, asked: str, answer: str, task: str, facts: Mapping[str, Any]) -> Example:
    messages = (Message("user", (ImagePart(scene.picture), TextPart(asked))),
                Message("assistant", (TextPart(answer),)))
    return Example(messages, task, f"{scene.name} {task}", facts=facts)


def sides(size: Size) -> tuple[list[Scene], list[Scene]]:
    """Scenes to learn from and scenes kept out, told apart by their sentences."""
    known: list[Scene] = []
    asked: list[Scene] = []
    number = 0
    while len(known) < size.known or len(asked) < size.asked:
        scene = make_scene(number, size.seed)
        side, most = (asked, size.asked) if is_validation(NAME, scene.sentence) else (known, size.known)
        if len(side) < most:
            side.append(scene)
        number += 1
    return known, asked


@dataclass
class Drawn:
    """So many captions, questions and pairs a step, from what is there of each."""

    sources: Sequence[tuple[Sequence[Example], int]]
    name: str
    seed: int

    def draw(self, step: int) -> list[list[Example]]:
        rng = draws(self.seed, NAME, self.name, step)
        return [[examples[place] for examples, count in self.sources
                 for place in rng.choice(len(examples), count, replace=False)]]

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None: ...

    def counts(self) -> dict[str, int]:
        return {}


# Stages


def small_trainee(seed: int) -> OfficialTrainee:
    """`pretrain_tasks`' model, whose eyes know places from the start."""
    torch.manual_seed(seed)
    trainee = made.small_trainee()
    nn.init.normal_(trainee.model.vision.embeddings.position_embedding.weight, std=0.3)
    return trainee


def teach_eyes(trainee: OfficialTrainee, known: Sequence[Scene], size: Size) -> None:
    """Eyes and resampler learn what is on a picture, as 4.5 begins with eyes that were trained before.

    Without this the language model learns colours from words alone, and nothing that has a place or a shape.
    """
    heads = nn.ModuleDict({name: nn.Linear(trainee.config.language.width, len(VALUES[name])) for name in VALUES})
    parts = nn.ModuleList([trainee.model.vision, trainee.model.connectors, heads])
    optimizer = torch.optim.AdamW(parts.parameters(), lr=1e-3, betas=(0.9, 0.98))
    for step in range(size.eyes_steps):
        rng = draws(size.seed, NAME, "eyes", step)
        scenes = [known[place] for place in rng.choice(len(known), size.batch, replace=False)]
        prompts = [trainee.prompt(caption(scene).messages[:-1]) for scene in scenes]
        tokens = trainee.model.see([piece for row in prompts for piece in row.media.pieces],
                                   np.concatenate([row.media.grid_sizes for row in prompts]))
        seen = torch.stack(list(tokens)).mean(1)  # (B, Q, D) -> (B, D)
        loss = sum(F.cross_entropy(heads[name](seen), labels(scenes, name)) for name in VALUES)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            print("eyes", step + 1, round(float(loss.detach()), 3), flush=True)


def labels(scenes: Sequence[Scene], name: str) -> torch.Tensor:
    return torch.tensor([VALUES[name].index(scene.shown[name]) for scene in scenes])


def fit(stage: str, built: tuple[Any, Any], steps: int, lr: float, seed: int) -> None:
    """A stage in the engine; the samples are made here, so that its recipe has no sources."""
    def report(done: Any) -> None:
        if done.step % 25 == 0:
            told = {name: round(value, 3) for name, value in {**done.terms, **done.parts}.items()}
            print(stage, done.step, told, flush=True)

    recipe = Recipe.model_construct(
        stage=stage, model=ModelSection(name="small"), data=None,
        optim=OptimSection(lr=lr, betas=(0.9, 0.98), warmup_steps=10),
        run=RunSection(steps=steps, save_every=steps, seed=seed))
    with tempfile.TemporaryDirectory() as folder:
        train(*built, recipe, Path(folder), World(), report)


def copied(trainee: OfficialTrainee) -> OfficialTrainee:
    """The same weights, apart."""
    return OfficialTrainee(trainee.name, trainee.folder, copy.deepcopy(trainee.model))


def tuned_model(known: Sequence[Scene], size: Size) -> OfficialTrainee:
    """The model before alignment."""
    trainee = small_trainee(size.seed)
    teach_eyes(trainee, known, size)
    more_sft(trainee, known, size, size.sft_steps, size.sft_lr, "sft")
    return trainee


def more_sft(trainee: OfficialTrainee, known: Sequence[Scene], size: Size, steps: int, lr: float, name: str) -> None:
    data = Drawn([(captions(known), size.batch // 2), (questions(known, size.seed), size.batch // 2)], name, size.seed)
    fit(name, sft.build(sft.SftConfig(pack=False), trainee, data, size.seed), steps, lr, size.seed)


def more_dpo(trainee: OfficialTrainee, known: Sequence[Scene], size: Size) -> int:
    """Pairs of the model's own answers, then DPO; returns how many pairs there were."""
    asked = captions(known[: size.sampled])
    pairs = list(sample_pairs(trainee, asked, PairSettings(
        {"facts": 1.0}, group=size.group, least_gap=0.3, max_tokens=MAX_TOKENS, seed=size.seed)))
    print(f"dpo: {len(pairs)} pairs of {len(asked)} pictures", flush=True)
    if len(pairs) < size.pairs:
        raise SystemExit(
            f"the tuned model's answers made {len(pairs)} pairs and a step takes {size.pairs}; tune it longer")
    config = align.AlignConfig(method="dpo", dpo=align.DpoConfig(beta=size.dpo_beta, sft_weight=size.dpo_sft_weight))
    built = align.build(config, trainee, Drawn([(pairs, size.pairs)], "dpo", size.seed), size.seed)
    fit("align", built, size.dpo_steps, size.dpo_lr, size.seed)
    return len(pairs)


def more_grpo(trainee: OfficialTrainee, known: Sequence[Scene], size: Size) -> None:
    config = align.AlignConfig(method="grpo", grpo=align.GrpoConfig(
        group=size.group, max_tokens=MAX_TOKENS, rewards={"facts": 1.0, "answer": 1.0},
        kl_weight=size.grpo_kl))
    data = Drawn([(captions(known), size.prompts // 2), (questions(known, size.seed), size.prompts // 2)], "grpo",
                 size.seed)
    fit("align", align.build(config, trainee, data, size.seed), size.grpo_steps, size.grpo_lr, size.seed)


# Scores


def scores(trainee: OfficialTrainee, before: align.Reference, asked: Sequence[Scene], size: Size) -> dict[str, Any]:
    """On what was kept out, every number with its interval; `by_picture` for comparisons picture by picture."""
    trainee.model.eval()
    told = captions(asked)
    drawn, invented = sampled_rewards(trainee, told, size)
    greedy = [facts_reward(text, example.facts) for text, example in
              zip(align.greedy_answers(trainee, told, max_tokens=MAX_TOKENS), told, strict=True)]
    found: dict[str, Any] = {
        "reward": mean(drawn), "reward, greedy": mean(greedy), "invented": mean(invented),
        "prefers the true one": rate(preferred(trainee, asked, size.seed)),
        "kl": align.divergence(trainee, before, told[:96], max_tokens=MAX_TOKENS)}
    for task in TASKS:
        examples = [question(scene, task, size.seed) for scene in asked]
        said = align.greedy_answers(trainee, examples, max_tokens=16)
        found[task] = rate([answer_reward(text, example.facts) for text, example in zip(said, examples, strict=True)])
    return found | {"by_picture": drawn}


def sampled_rewards(trainee: OfficialTrainee, told: Sequence[Example], size: Size) -> tuple[list[float], list[float]]:
    """Mean reward, and mean number of invented claims, of the descriptions drawn for each picture."""
    rewards, invented = [], []
    for start in range(0, len(told), 16):
        some = told[start : start + 16]
        said = sample_answers(trainee.model, [trainee.prompt(example.messages[:-1]) for example in some],
                              trainee.end_ids, SamplingSettings(MAX_TOKENS, seed=start), size.drawn)
        for place, example in enumerate(some):
            texts = [trainee.said(ids) for ids in said[place * size.drawn : (place + 1) * size.drawn]]
            rewards.append(float(np.mean([facts_reward(text, example.facts) for text in texts])))
            invented.append(float(np.mean([sum(contains_answer(text, thing) for thing in example.facts["absent"])
                                           for text in texts])))
    return rewards, invented


@torch.no_grad()
def preferred(trainee: OfficialTrainee, asked: Sequence[Scene], seed: int) -> list[float]:
    """Whether the true description is likelier than one in which one thing is exchanged."""
    hits: list[float] = []
    for start in range(0, len(asked), 16):
        some = asked[start : start + 16]
        sides = [[trainee.row(caption(scene)) for scene in some],
                 [trainee.row(caption(falsified(scene, seed))) for scene in some]]
        better, worse = (answer_logps(trainee.model, rows)[0].sum(1) for rows in sides)
        hits += (better > worse).float().tolist()
    return hits


def falsified(scene: Scene, seed: int) -> Scene:
    """The picture with a sentence that is wrong in one thing."""
    rng = draws(seed, NAME, "worse", scene.name)
    name = str(rng.choice(list(VALUES)))
    shown = {**scene.shown, name: str(rng.choice([value for value in VALUES[name] if value != scene.shown[name]]))}
    return replace(scene, shown=shown, sentence=sentence_of(shown))


def mean(values: Sequence[float]) -> dict[str, Any]:
    return {"value": float(np.mean(values)), "interval": bootstrap_ratio(values), "n": len(values)}


def rate(hits: Sequence[float]) -> dict[str, Any]:
    return {"value": float(np.mean(hits)), "interval": wilson(int(sum(hits)), len(hits)), "n": len(hits)}


def run(size: Size) -> dict[str, Any]:
    """The whole report."""
    started = time.process_time()
    known, asked = sides(size)
    tuned = tuned_model(known, size)
    before = align.Reference(tuned.model)
    found = {"sft": scores(tuned, before, asked, size)}
    models = {name: copied(tuned) for name in ("more sft", "dpo", "grpo")}
    more_sft(models["more sft"], known, size, size.grpo_steps, size.grpo_lr, "sft")
    pairs = more_dpo(models["dpo"], known, size)
    more_grpo(models["grpo"], known, size)
    found |= {name: scores(model, before, asked, size) for name, model in models.items()}
    by_picture = {name: np.array(told.pop("by_picture")) for name, told in found.items()}
    gains = {name: mean((values - by_picture["sft"]).tolist()) for name, values in by_picture.items() if name != "sft"}
    return {"name": NAME, "command": f"python benchmarks/{NAME}.py --seed {size.seed}",
            "machine": common.machine() | {"torch": torch.__version__}, "size": vars(size), "pairs": pairs,
            "cpu_s": round(time.process_time() - started), "models": found, "gains": gains,
            "verdict": verdict(found, gains)}


def verdict(found: Mapping[str, Any], gains: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each raised its reward beyond the interval, and no accuracy fell below the tuned model's."""
    told = {}
    for method in ("dpo", "grpo"):
        told[f"{method} raises its reward"] = gains[method]["interval"][0] > 0
        told[f"{method}: no accuracy below the tuned interval"] = all(
            found[method][task]["value"] >= found["sft"][task]["interval"][0] for task in TASKS)
    return told


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    models = report["models"]

    def cell(value: Any) -> str:
        if not isinstance(value, dict):
            return f"{value:.3f}"
        low, high = value["interval"]
        return f"{value['value']:.3f} ({low:.3f} … {high:.3f})"

    rows = [[what, value["n"] if isinstance(value, dict) else "", *(cell(models[name][what]) for name in models)]
            for what, value in models["sft"].items()]
    rows.insert(1, ["reward's gain", report["size"]["asked"], "", *(cell(report["gains"][name]) for name in
                                                                     models if name != "sft")])
    said = "\n".join(f"- {what}: {'yes' if holds else 'NO'}" for what, holds in report["verdict"].items())
    size = report["size"]
    return "\n\n".join([
        common.table(("kept out", "n", *models), rows),
        f"reward: of {size['drawn']} descriptions drawn for each picture at temperature 1, claims that are true less "
        "invented ones, by the number of things to tell (five); its gain over sft is compared picture by picture. "
        "invented: claims in a description that are not true. prefers the true one: share of pictures whose true "
        "description is likelier than one with a thing exchanged. kl: nats per token from the tuned model, over drawn "
        "descriptions. The others: share of questions answered rightly, greedily. more sft: the same tuning for as "
        "many further steps as GRPO, at its rate. In brackets 95 % intervals.", said,
        f"A model of 1.75 M weights; {report['pairs']} pairs of its own answers to {size['sampled']} known pictures; "
        f"{report['cpu_s']} CPU seconds in all. " + common.provenance(report)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=common.RESULTS / f"{NAME}.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = run(Size(seed=args.seed))
    common.publish(args.out, report, markdown(report))
    if not all(report["verdict"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
