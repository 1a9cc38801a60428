"""What DPO and GRPO add to a tuned model: rewards on prompts that were kept out, and what they cost.

    python benchmarks/align_gain.py

A small model of 4.5's parts is pre-trained and tuned on made pictures (those of `pretrain_tasks`) until it describes
and answers moderately; then it is aligned twice from the same weights: by DPO on pairs of a true description and one
with words exchanged, and by GRPO, whose answers are rewarded by rule: right ones, and what they name rightly less what
they invent.
Whole sentences are kept out, so that no composition that is asked was ever learned.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import common
import pretrain_tasks as made
from minicpm_o.evaluation.intervals import bootstrap_ratio, wilson
from minicpm_o.inputs.messages import ImagePart, Message, TextPart
from minicpm_o.inputs.prompts import CAPTION
from minicpm_o.training import align, pretrain, sft
from minicpm_o.training.engine import World, train
from minicpm_o.training.examples import Example
from minicpm_o.training.prepare.scenes import SOLIDS
from minicpm_o.training.prepare.work import draws
from minicpm_o.training.recipe import ModelSection, OptimSection, Recipe, RunSection
from minicpm_o.training.rewards import answer_reward, facts_reward
from minicpm_o.training.rows import collate
from minicpm_o.training.sampling import batch_logps
from minicpm_o.training.splits import is_validation
from minicpm_o.training.trainee import OfficialTrainee

NAME = "align_gain"
VALUES: dict[str, Sequence[str]] = {"size": list(made.SIZES), "colour": made.HUES, "kind": list(SOLIDS),
                                    "place": list(made.PLACES), "floor": made.FLOORS}


PRETRAIN = pretrain.PretrainConfig.model_validate({
    "next_token": {"learn": "answers"}, "masked_image": {},
    "contrastive": {"media": ["image"]}, "matching": {"media": ["image"]},
    "phases": [{"until": 0.1, "train": ["connectors", "heads", "vision"]}, {"train": ["all"]}]})
REWARDS = {"facts": 1.0, "answer": 1.0, "fluency": 0.2}


@dataclass(frozen=True)
class Size:
    """How long each stage is."""

    pretrain_steps: int = 300
    sft_steps: int = 240
    dpo_steps: int = 80
    grpo_steps: int = 70
    batch: int = 24
    prompts: int = 8
    """Of a step of GRPO, each answered `group` times."""
    group: int = 6
    asked: int = 160
    """Kept-out pictures."""


# Samples


def scene(number: int) -> tuple[ImagePart, dict[str, str], str]:
    """A picture, what it shows, and the sentence that says it."""
    picture, sentence = made.picture(draws(0, NAME, "picture", number))
    words = sentence.rstrip(".").split()
    place = next(place for place in made.PLACES if place in sentence)
    shown = {"size": words[1], "colour": words[2], "kind": words[3], "place": place, "floor": words[-2]}
    return ImagePart(picture), shown, sentence


def facts_of(shown: Mapping[str, str]) -> dict[str, Any]:
    """Phrases that are true of the picture, and those that are not."""
    said = {name: f"{value} floor" if name == "floor" else value for name, value in shown.items()}
    others = [f"{value} floor" if name == "floor" else value for name, values in VALUES.items() for value in values
              if value != shown[name] and not (name == "colour" and value == shown["floor"])]
    return {"present": list(said.values()), "absent": others}


def caption(number: int) -> Example:
    picture, shown, sentence = scene(number)
    return Example((Message("user", (picture, TextPart(CAPTION))), Message("assistant", (TextPart(sentence),))),
                   "caption", f"picture {number}", facts=facts_of(shown))


def question(number: int) -> Example:
    """One of four kinds of question."""
    picture, shown, _ = scene(number)
    rng = draws(0, NAME, "question", number)
    kind = ("colour", "kind", "place", "yesno")[rng.integers(4)]
    if kind == "yesno":
        name = str(rng.choice(list(SOLIDS))) if rng.random() < 0.5 else shown["kind"]
        asked, answer = f"Is it a {name}?", "Yes." if name == shown["kind"] else "No."
    else:
        asked = {"colour": "What colour is it?", "kind": "What shape is it?", "place": "Where is it?"}[kind]
        answer = f"{shown[kind].capitalize()}."
    messages = (Message("user", (picture, TextPart(asked))), Message("assistant", (TextPart(answer),)))
    return Example(messages, kind, f"question {number}", facts={"answer": answer})


def pair(number: int) -> Example:
    """A true description against one in which one or two things are exchanged."""
    picture, shown, sentence = scene(number)
    rng, worse = draws(0, NAME, "worse", number), sentence
    for name in rng.permutation(list(VALUES))[: int(rng.integers(1, 3))]:
        others = [value for value in VALUES[name] if value != shown[name]]
        old, new = shown[name], str(rng.choice(others))
        worse = worse.replace(f"{old} floor", f"{new} floor") if name == "floor" else worse.replace(old, new, 1)
    messages = (Message("user", (picture, TextPart(CAPTION))), Message("assistant", (TextPart(sentence),)))
    return Example(messages, "preference", f"pair {number}", rejected=worse)


def sides(count: int) -> tuple[list[int], list[int]]:
    """Numbers to learn from and numbers kept out, told apart by their sentences."""
    known, asked, number = [], [], 0
    while len(known) < 1500 or len(asked) < count:
        kept_out = is_validation(NAME, scene(number)[2])
        (asked if kept_out else known).append(number)
        number += 1
    return known, asked[:count]


@dataclass
class Drawn:
    """So many examples a step, made by the functions in turn."""

    numbers: Sequence[int]
    makers: Sequence[Any]
    batch: int
    name: str

    def draw(self, step: int) -> list[list[Example]]:
        rng = draws(0, NAME, self.name, step)
        return [[self.makers[place % len(self.makers)](int(rng.choice(self.numbers))) for place in range(self.batch)]]

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None: ...

    def counts(self) -> dict[str, int]:
        return {}


# Stages


def recipe_of(stage: str, steps: int, lr: float) -> Recipe:
    """What the engine reads of a recipe; the samples are made here."""
    return Recipe.model_construct(
        stage=stage, model=ModelSection(name="small"), data=None, optim=OptimSection(lr=lr, warmup_steps=10),
        run=RunSection(steps=steps, save_every=steps))


def fit(stage: str, built: tuple[Any, Any], steps: int, lr: float) -> None:
    def report(done: Any) -> None:
        if done.step % 20 == 0:
            told = {name: round(value, 3) for name, value in {**done.terms, **done.parts}.items()}
            print(stage, done.step, told, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        train(*built, recipe_of(stage, steps, lr), Path(folder), World(), report)


def copied(trainee: OfficialTrainee) -> OfficialTrainee:
    """The same weights, apart."""
    return OfficialTrainee(trainee.name, trainee.folder, copy.deepcopy(trainee.model))


def scores(trainee: OfficialTrainee, before: align.Reference, asked: Sequence[int]) -> dict[str, Any]:
    """Rewards, accuracies and divergence on what was kept out; every number with its interval."""
    captions, questions, pairs = ([make(number) for number in asked] for make in (caption, question, pair))
    earned = [facts_reward(text, example.facts) for text, example in
              zip(align.greedy_answers(trainee, captions), captions, strict=True)]
    right = [(example.task, answer_reward(text, example.facts)) for text, example in
             zip(align.greedy_answers(trainee, questions, max_tokens=20), questions, strict=True)]
    preferred = [float(value > 0) for value in margins(trainee, before, pairs)]
    found: dict[str, Any] = {
        "reward": {"value": float(np.mean(earned)), "interval": bootstrap_ratio(earned), "n": len(earned)},
        "prefers the true one": rate(preferred),
        "kl": align.divergence(trainee, before, captions[:48])}
    for task in sorted({task for task, _ in right}):
        found[task] = rate([hit for name, hit in right if name == task])
    return found


def rate(hits: Sequence[float]) -> dict[str, Any]:
    return {"value": float(np.mean(hits)), "interval": wilson(int(sum(hits)), len(hits)), "n": len(hits)}


@torch.no_grad()
def margins(trainee: OfficialTrainee, before: align.Reference, pairs: Sequence[Example]) -> list[float]:
    """How much more the true description is liked than the false one, as log-probability."""
    feed = align.PairFeed(align.AlignConfig(), trainee, Drawn([], [], 1, ""))
    found: list[float] = []
    for start in range(0, len(pairs), 16):
        micro = feed.micro(pairs[start : start + 16], 0, 0)
        better, worse = (batch_logps(trainee.model.eval(), collate(batch.rows))[0].sum(1) for batch in micro.batches)
        found += (better - worse).tolist()
    return found


def run(size: Size) -> dict[str, Any]:
    """The whole report."""
    torch.manual_seed(0)
    known, asked = sides(size.asked)
    tuned, started = made.small_trainee(), time.process_time()
    fit("pretrain", pretrain.build(PRETRAIN, tuned, Drawn(known, (caption,), 16, "pretrain"), 0), size.pretrain_steps,
        2e-3)
    fit("sft", sft.build(sft.SftConfig(), tuned, Drawn(known, (caption, question), size.batch, "sft"), 0),
        size.sft_steps, 1e-3)
    before = align.Reference(tuned.model)
    found = {"sft": scores(tuned, before, asked)}
    for method, steps, lr in (("dpo", size.dpo_steps, 1e-4), ("grpo", size.grpo_steps, 1e-4)):
        aligned = copied(tuned)
        config = align.AlignConfig(
            method=method, dpo=align.DpoConfig(sft_weight=0.2),
            grpo=align.GrpoConfig(group=size.group, max_tokens=20, rewards=REWARDS, kl_weight=0.1))
        data = (Drawn(known, (pair,), size.batch, method) if method == "dpo"
                else Drawn(known, (caption, question), size.prompts, method))
        fit(method, align.build(config, aligned, data, 0), steps, lr)
        found[method] = scores(aligned, before, asked)
    return {"name": NAME, "command": f"python benchmarks/{NAME}.py",
            "machine": common.machine() | {"torch": torch.__version__}, "size": vars(size),
            "train_cpu_s": round(time.process_time() - started), "models": found, "verdict": verdict(found)}


def verdict(found: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each raised its reward over the tuned model's, and no accuracy fell below the tuned one's interval."""
    told = {}
    for method, what in (("dpo", "prefers the true one"), ("grpo", "reward")):
        told[f"{method} raises its reward"] = found[method][what]["value"] > found["sft"][what]["value"]
        tasks = [task for task in found["sft"] if task in ("colour", "kind", "place", "yesno")]
        told[f"{method}: no accuracy below the tuned interval"] = all(
            found[method][task]["value"] >= found["sft"][task]["interval"][0] for task in tasks)
    return told


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    models = report["models"]

    def cell(value: Any) -> str:
        if not isinstance(value, dict):
            return f"{value:.3f}"
        low, high = value["interval"]
        return f"{value['value']:.3f} ({low:.3f} … {high:.3f})"

    rows = [[what, models["sft"][what].get("n", "") if isinstance(models["sft"][what], dict) else "",
             *(cell(models[name][what]) for name in models)] for what in models["sft"]]
    said = "\n".join(f"- {what}: {'yes' if holds else 'NO'}" for what, holds in report["verdict"].items())
    return "\n\n".join([
        common.table(("kept out", "n", *models), rows),
        "reward: of greedy descriptions, things named rightly less things invented, by the things that are there. "
        "prefers the true one: share of pairs in which the true description is likelier than the one with words "
        "exchanged. kl: nats per token from the tuned model, over sampled descriptions. The others: share of questions "
        "answered rightly. In brackets 95 % intervals.", said,
        f"A model of 1.75 M weights, {report['train_cpu_s']} CPU seconds in all. " + common.provenance(report)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="length of every stage, as a share")
    parser.add_argument("--out", type=Path, default=common.RESULTS / f"{NAME}.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = ("pretrain_steps", "sft_steps", "dpo_steps", "grpo_steps")
    steps = {name: max(2, round(getattr(Size, name) * args.scale)) for name in names}
    report = run(Size(**steps))
    common.publish(args.out, report, markdown(report))
    if not all(report["verdict"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
