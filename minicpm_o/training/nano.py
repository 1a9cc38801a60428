"""The recipe of nano's connectors: caches in, connectors.safetensors out.

    python -m minicpm_o.training.nano --data DIR --features DIR --language FILE --tokenizer FILE --run DIR

Frozen: EfficientNet-Lite, Whisper. Trained: resampler, projector, marker embeddings, LoRA on the language model.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from ..inputs.processor import Processor
from ..inputs.text import Tokenizer
from ..model.config import NanoConfig
from ..model.omni import OmniModel
from .concepts import choose_vocabulary, concept_tasks, cross_fitted_logits, recall_at, train_concept_head
from .engine import Checkpoints, StepReport, World, train
from .export import export_connectors, import_connectors
from .features import AudioCache, FeatureStore, ImageCache
from .labels import spoken_label
from .lora import add_lora
from .mixture import SHARES, Mixture, Sources, gather, read_rows, validation_samples
from .recipe import ModelSection, OptimSection, Precision, Recipe, RunSection
from .run_folder import RunFolder
from .terms import Objective
from .trees import TreeFeed, TreeObjective, batches, held_out_loss
from .warm_start import (
    SeenWords,
    content_tokens,
    start_scales,
    start_words,
    warm_start_projector,
    warm_start_resampler,
)


def build_model(tokenizer: Tokenizer, language_weights: Path) -> OmniModel:
    """OmniModel of nano's shape with the language part's weights."""
    from safetensors.torch import load_file

    model = OmniModel(NanoConfig(), tokenizer.special.markers)
    model.language.load_state_dict(load_file(str(language_weights)), strict=False)
    model.language.tie_weights()
    model.language.requires_grad_(False)
    return model


def warm_start(model: OmniModel, store: FeatureStore, sources: Sources, tokenizer: Tokenizer, data: Path,
               seconds: float) -> None:
    """Before the language model is asked: class words from names, resampler by words, projector by CTC."""
    table = model.language.get_input_embeddings().weight.detach()
    start_scales(model.connectors, table, model.marker_ids)
    start_class_words(model, tokenizer, data)
    pictures = [SeenWords(tuple(views), content_tokens(texts, tokenizer)) for views, texts in seen_texts(sources)]
    pictures = [picture for picture in pictures if picture.token_ids]
    warm_start_resampler(model.connectors, table, store.images, pictures, max_seconds=seconds * 0.4)
    rows = sources.ears + sources.digits
    warm_start_projector(model.connectors.projector, table, store.audio, rows, tokenizer, max_seconds=seconds * 0.6)


def start_class_words(model: OmniModel, tokenizer: Tokenizer, data: Path) -> None:
    """The classifier's thousand classes begin as the embeddings of their names."""
    table = model.language.get_input_embeddings().weight.detach()
    names = [row["label"] for row in sorted(read_rows(data / "imagenet1000/labels.jsonl"), key=lambda r: r["image"])]
    start_words(model.connectors.resampler.class_words, table, tokenizer, [spoken_label(name) for name in names])


def report_concepts(model: OmniModel, store: FeatureStore, kept_out: Sources, folder: Path) -> None:
    """Print how many of the kept-out pictures' concepts the head has among its first one and eight."""
    names = (folder / "concepts.txt").read_text(encoding="utf-8").splitlines()
    tasks = concept_tasks(kept_out)
    for k in (1, 8):
        found = recall_at(model.connectors.resampler.concept_head, store.images, tasks, names, k)
        print(f"kept-out concepts among the first {k}:", {d: round(share, 3) for d, share in found.items()}, flush=True)


def add_concepts(
    model: OmniModel, store: FeatureStore, sources: Sources, tokenizer: Tokenizer, folder: Path
) -> FeatureStore:
    """Train the concept head, and once the cross-fitted logits that the language model learns from."""
    resampler = model.connectors.resampler
    tasks = concept_tasks(sources)
    names = choose_vocabulary(tasks, len(resampler.concept_words))
    train_concept_head(resampler.concept_head, store.images, tasks, names)
    start_words(resampler.concept_words, model.language.get_input_embeddings().weight.detach(), tokenizer, names)
    (folder / "concepts.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    logits = cross_fitted_logits(store.images, tasks, names)
    np.save(folder / "concepts.npy", logits)
    return replace(store, images=replace(store.images, concept_logits=logits))


def seen_texts(sources: Sources) -> list[tuple[list[int], list[str]]]:
    """(views, texts about the picture) of every set; captioned and boxed pictures four times, as they are few."""
    few = [*sources.captions, *sources.boxes]
    return few * 4 + [(views, [spoken_label(label)]) for views, label, _ in sources.labels]


@dataclass(frozen=True)
class Workshop:
    """What the stages of nano need: the model with its LoRA, cached media, and the sets' rows of both sides."""

    tokenizer: Tokenizer
    model: OmniModel
    store: FeatureStore
    processor: Processor
    sources: Sources
    kept_out: Sources


def open_workshop(options: argparse.Namespace) -> Workshop:
    """By the options of `add_inputs`; the concept logits of the pictures are not among it yet."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    model = build_model(tokenizer, options.language)
    add_lora(model, options.lora_rank, 0.0)
    sounds = sorted((options.features / "audio").glob("*_frames.npy"))
    stems = [path.with_name(path.name.removesuffix("_frames.npy")) for path in sounds]
    store = FeatureStore(ImageCache.open(options.features / "images"), AudioCache.open(stems))
    sources, kept_out = (gather(options.data, store, options.features, validation=side) for side in (False, True))
    print({name: len(getattr(sources, name)) for name in vars(sources)}, flush=True)
    return Workshop(tokenizer, model, store, Processor(model.config, tokenizer), sources, kept_out)


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Options that every stage of nano has."""
    parser.add_argument("--data", type=Path, required=True, help="unpacked training sets")
    parser.add_argument("--features", type=Path, required=True, help="caches: images/, audio/ and chat.json")
    parser.add_argument("--language", type=Path, required=True, help="language part as safetensors")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of the language part")
    parser.add_argument("--run", type=Path, required=True, help="run folder: checkpoint, metrics, connectors")
    parser.add_argument("--lora-rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32",
                        help="bf16 is faster on processors and cards that have it")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m minicpm_o.training.nano", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_inputs(parser)
    parser.add_argument("--warm-seconds", type=float, default=720.0, help="length of the connectors' warm start")
    parser.add_argument("--batch-size", type=int, default=6, help="trees of questions a step")
    parser.add_argument("--micro-batch-size", type=int, default=3, help="trees that run together")
    parser.add_argument("--steps", type=int, default=600, help="of the main stage; about 7 s each on two cores")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak rate; the language model's LoRA has 0.8 of it")
    parser.add_argument("--shares", type=read_shares, default=SHARES, metavar="SOURCE=SHARE,...",
                        help="trees per source, instead of those of minicpm_o/training/mixture.py")
    parser.add_argument("--start", type=Path, help="connectors.safetensors to go on from, instead of the warm start")
    return parser


def read_shares(text: str) -> dict[str, float]:
    """"ears=0.5,chat=0.5" -> shares by source. Raises ArgumentTypeError, as argparse wants."""
    try:
        shares = {name.strip(): float(share) for name, share in (item.split("=") for item in text.split(","))}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ears=0.5,chat=0.5") from error
    strangers = sorted(set(shares) - set(SHARES))
    if strangers or min(shares.values()) < 0 or not sum(shares.values()):
        raise argparse.ArgumentTypeError(f"{text!r}: sources are {', '.join(SHARES)}, and shares are numbers from 0 up")
    return shares


def prepare_connectors(
    model: OmniModel, store: FeatureStore, sources: Sources, tokenizer: Tokenizer, options: argparse.Namespace
) -> FeatureStore:
    """Connectors as the main stage begins with them, and the store with its concept logits; kept in the run folder."""
    begun, table = options.run / "begun.pt", options.run / "concepts.npy"
    if begun.exists():
        model.load_state_dict(torch.load(begun, weights_only=True), strict=False)
    else:
        if options.start:
            left = import_connectors(model, options.start)
            print(f"begins with {options.start}" + (f", without {left}" if left else ""), flush=True)
        else:
            warm_start(model, store, sources, tokenizer, options.data, options.warm_seconds)
        store = add_concepts(model, store, sources, tokenizer, options.run)
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        torch.save({name: tensor for name, tensor in model.state_dict().items() if name in names}, begun)
    model.connectors.resampler.concept_head.requires_grad_(False)  # fitted already; cross-fitting would be undone
    model.connectors.ears.requires_grad_(False)  # learned by themselves, see `ears`
    return replace(store, images=replace(store.images, concept_logits=np.load(table)))


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The main stage in the engine's words; its samples come from the caches, so that it has no sources."""
    return Recipe.model_construct(
        stage="sft", model=ModelSection(name="nano"), data=None,
        optim=OptimSection(lr=options.lr, group_lr={"model.language.": 0.8 * options.lr}, betas=(0.9, 0.98),
                           weight_decay=0.02, warmup_steps=30),
        run=RunSection(steps=options.steps, batch_size=options.batch_size, save_every=25, log_every=10,
                       micro_batch_size=options.micro_batch_size, precision=options.precision, tensorboard=False))


def run_stage(objective: Objective, feed: Any, recipe: Recipe, folder: Path) -> None:
    """Train, from the newest checkpoint in the folder where there is one; writes metrics.jsonl beside it."""
    run = RunFolder(folder, recipe, World())
    begun = Checkpoints(run.checkpoints, recipe, World()).steps()
    run.open(begun[-1] if begun else 0)

    def report(done: StepReport) -> None:
        row = run.note(done, feed.counts())
        if "tokens_per_s" in row:
            print({name: round(value, 3) for name, value in row.items() if isinstance(value, int | float)}, flush=True)

    train(objective, feed, recipe, run.checkpoints, World(), report)


def main() -> None:
    options = make_parser().parse_args()
    options.run.mkdir(parents=True, exist_ok=True)
    shop = open_workshop(options)
    store = prepare_connectors(shop.model, shop.store, shop.sources, shop.tokenizer, options)
    report_concepts(shop.model, store, shop.kept_out, options.run)
    mixture = Mixture(shop.processor, store, shop.sources, options.shares)
    feed = TreeFeed(lambda rng: mixture.draw(rng, options.batch_size), store, options.micro_batch_size)
    run_stage(TreeObjective(shop.model.train()), feed, recipe_of(options), options.run)
    export_connectors(shop.model, options.run / "connectors.safetensors")
    checks = validation_samples(Mixture(shop.processor, store, shop.kept_out), 16)
    losses = held_out_loss(shop.model, batches(checks, store, 16))
    print("kept-out loss", {task: round(loss, 3) for task, loss in losses.items()})


if __name__ == "__main__":
    main()
