"""Nano's third stage: what it says about pictures, drawn and compared. Connectors in, better liked connectors out.

    python -m minicpm_o.training.nano_align --data DIR --features DIR --language FILE --tokenizer FILE --run DIR

`--run` is the folder of `minicpm_o.training.nano`. Descriptions earn CIDEr against what people wrote, as in
self-critical training (Rennie et al. 2017, arXiv:1612.00563); names and yes or no earn by being right, so that they are
not forgotten. Groups of answers and the distance to where it began are GRPO's (`align`).
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.metrics import CiderCorpus
from ..evaluation.official.caption import ptb_tokens
from ..inputs import prompts
from .align import AlignConfig, GrpoConfig, GrpoObjective, PromptMicro, Reference
from .counted import Counted
from .export import export_connectors, import_connectors
from .features import FeatureStore
from .mixture import Mixture
from .nano import Workshop, add_inputs, open_workshop, run_stage
from .recipe import ModelSection, OptimSection, Recipe, RunSection
from .rows import NOT_LEARNED, Row
from .samples import Branch, Trunk, lay_out
from .trainee import NanoTrainee

ASKED = {"captioned": 0.7, "labelled": 0.15, "boxed": 0.15}
"""Share of the prompts per source."""


@dataclass(frozen=True)
class Asked:
    """A prompt about cached media, and what is known about its answer."""

    prompt: Row
    facts: Mapping[str, Any]


class AskedPictures:
    """Draws prompts from the mixture's pictures."""

    def __init__(self, mixture: Mixture, store: FeatureStore) -> None:
        self.mixture, self.store = mixture, store
        captions = [[ptb_tokens(text) for text in texts] for _, texts in mixture.sources.captions]
        self.corpus = CiderCorpus(captions)

    def draw(self, rng: random.Random, count: int) -> list[Asked]:
        kinds = rng.choices(list(ASKED), weights=list(ASKED.values()), k=count)
        return [self._described(rng) if kind == "captioned" else self._answered(rng, kind) for kind in kinds]

    def _described(self, rng: random.Random) -> Asked:
        views, texts = rng.choice(self.mixture.sources.captions)
        trunk, branch = Trunk((rng.choice(views),)), Branch("caption", prompts.CAPTION, "")
        return Asked(self._prompt(trunk, branch), {"references": texts, "corpus": self.corpus})

    def _answered(self, rng: random.Random, kind: str) -> Asked:
        trunk, branches = self.mixture.tree(rng, kind)
        branch = rng.choice([branch for branch in branches if branch.task in ("naming", "presence")])
        return Asked(self._prompt(trunk, branch), {"answer": _bare(branch.answer)})

    def _prompt(self, trunk: Trunk, branch: Branch) -> Row:
        """The sample without its answer, in one segment."""
        sample = lay_out(self.mixture.processor, trunk, [replace(branch, answer="")])
        ids = sample.ids[~sample.is_answer]
        return Row(ids, np.full(len(ids), NOT_LEARNED), self.store.media(sample), (branch.task,))


def _bare(answer: str) -> str:
    """"A cat." -> "cat": what must stand in the answer."""
    words = answer.strip(" .").split()
    return " ".join(words[1:] if words[0].lower() in ("a", "an", "the") and len(words) > 1 else words)


class AskedFeed(Counted):
    """The prompts of a step, a few at a time; counts them by task. One process."""

    def __init__(self, pictures: AskedPictures, count: int, micro_batch_size: int, seed: int) -> None:
        super().__init__()
        self.pictures, self.count, self.size, self.seed = pictures, count, micro_batch_size, seed

    def step(self, step: int) -> list[PromptMicro]:
        drawn = self.pictures.draw(random.Random(f"align/{self.seed}/{step}"), self.count)
        self._counts.update(asked.prompt.tasks[0] for asked in drawn)
        groups = [drawn[start : start + self.size] for start in range(0, len(drawn), self.size)]
        return [PromptMicro(tuple(asked.prompt for asked in group), tuple(asked.facts for asked in group), step, number,
                            len(group)) for number, group in enumerate(groups)]


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The stage in the engine's words; its prompts come from the caches, so that it has no sources."""
    grpo = GrpoConfig(group=options.group, max_tokens=24, rewards={"caption": 1.0, "answer": 1.0, "fluency": 0.2},
                      kl_weight=options.kl_weight)
    return Recipe.model_construct(
        stage="align", model=ModelSection(name="nano"), data=None, align=AlignConfig(method="grpo", grpo=grpo),
        optim=OptimSection(lr=options.lr, betas=(0.9, 0.98), weight_decay=0.0, warmup_steps=10),
        run=RunSection(steps=options.steps, batch_size=options.batch_size, save_every=20, log_every=5,
                       micro_batch_size=options.micro_batch_size, precision=options.precision, tensorboard=False))


def align_nano(shop: Workshop, recipe: Recipe, folder: Path, pictures: AskedPictures) -> None:
    """GRPO in place; checkpoints, metrics and curves in the folder."""
    trainee = NanoTrainee(shop.model, shop.tokenizer, _never, _never)
    objective = GrpoObjective(recipe.align.grpo, trainee, Reference(shop.model), recipe.run.seed)
    feed = AskedFeed(pictures, recipe.run.batch_size, recipe.run.micro_batch_size, recipe.run.seed)
    run_stage(objective, feed, recipe, folder)


def _never() -> Any:
    raise AssertionError("media come from the caches")


def freeze_hearing(shop: Workshop) -> None:
    """What is heard stays: nothing of it is asked here."""
    shop.model.connectors.projector.requires_grad_(False)
    shop.model.connectors.ears.requires_grad_(False)
    shop.model.connectors.resampler.concept_head.requires_grad_(False)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.training.nano_align", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_inputs(parser)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=12, help="prompts a step")
    parser.add_argument("--micro-batch-size", type=int, default=6, help="prompts that run together")
    parser.add_argument("--group", type=int, default=8, help="answers to a prompt")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--kl-weight", type=float, default=0.04, help="how dear it is to move away")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = make_parser().parse_args(arguments)
    connectors, table = options.run / "connectors.safetensors", options.run / "concepts.npy"
    shop = open_workshop(options)
    import_connectors(shop.model, connectors)
    store = replace(shop.store, images=replace(shop.store.images, concept_logits=np.load(table)))
    freeze_hearing(shop)
    mixture = Mixture(shop.processor, store, shop.sources)
    align_nano(shop, recipe_of(options), options.run / "align", AskedPictures(mixture, store))
    export_connectors(shop.model, options.run / "align" / "connectors.safetensors")


if __name__ == "__main__":
    main()
