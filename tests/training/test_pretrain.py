"""Pre-training: switches, counts, masks that follow from seed and name, phases, and every task learns."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch.multiprocessing as mp  # noqa: E402
from training_pairs import Still, picture, picture_pair, sound, sound_pair, tiny_trainee  # noqa: E402

from minicpm_o.errors import OptionError  # noqa: E402
from minicpm_o.inputs.messages import AudioPart, ImagePart, Message, TextPart  # noqa: E402
from minicpm_o.training.engine import World, distribute, make_optimizer, one_step  # noqa: E402
from minicpm_o.training.examples import Example  # noqa: E402
from minicpm_o.training.heads import PretrainHeads  # noqa: E402
from minicpm_o.training.pretrain import PretrainConfig, build  # noqa: E402
from minicpm_o.training.pretrain_feed import words_about  # noqa: E402
from minicpm_o.training.recipe import ModelSection, OptimSection, Recipe, RunSection  # noqa: E402
from minicpm_o.training.rows import NOT_LEARNED  # noqa: E402

ALL = {"masked_language": {}, "masked_image": {}, "masked_audio": {}, "contrastive": {}, "matching": {}}
TERMS = {
    "next_token": ["next_token"],
    "masked_language": ["masked_language"],
    "masked_image": ["masked_image"],
    "masked_audio": ["masked_audio"],
    "contrastive": ["audio_text_contrastive", "image_text_contrastive"],
    "matching": ["audio_text_matching", "image_text_matching"],
}
EXAMPLES = [*map(picture_pair, range(3)), *map(sound_pair, range(3))]


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory):
    return tiny_trainee(tmp_path_factory.mktemp("home"))


def stage(trainee, values: dict, seed: int = 0):
    return build(PretrainConfig.model_validate(values), trainee, Still([EXAMPLES]), seed)


def num_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Switches


def test_next_token_alone_has_no_heads(trainee) -> None:
    objective, feed = stage(trainee, {})
    assert num_parameters(objective) == num_parameters(trainee.model) and num_parameters(objective.heads) == 0
    assert list(objective(feed.step(0)[0])) == ["next_token"]


@pytest.mark.parametrize("name", TERMS)
def test_one_that_is_on_runs_and_has_its_heads_and_no_other(trainee, name: str) -> None:
    objective, feed = stage(trainee, {"next_token": None, name: {"weight": 0.5}})
    terms = objective(feed.step(0)[0])
    assert sorted(terms) == TERMS[name]
    assert objective.weights == dict.fromkeys(TERMS[name], 0.5)
    assert [child for child, _ in objective.heads.named_children()] == ([] if name == "next_token" else [name])


def test_counts_are_told_beforehand(trainee) -> None:
    objective, feed = stage(trainee, ALL)
    micro = feed.step(0)[0]
    terms = objective(micro)
    assert objective.counts(micro) == {name: term.count for name, term in terms.items()}
    assert all(count > 0 for count in objective.counts(micro).values())
    assert objective.num_tokens(micro) == sum(batch.num_tokens for batch in micro.batches) > 0


def test_every_parameter_of_the_heads_gets_a_gradient(trainee) -> None:
    objective, feed = stage(trainee, ALL | {"contrastive": {"loss": "sigmoid"}})
    sum(term.total for term in objective(feed.step(0)[0]).values()).backward()
    assert [name for name, parameter in objective.heads.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("wrong, message", [
    ({"next_token": None}, "every objective is off"),
    ({"masked_words": {}}, "Extra inputs"),
    ({"masked_image": {"share": 1.5}}, "less than 1"),
    ({"phases": [{"train": ["connectors"]}, {"train": ["all"]}]}, "give each but the last an `until`"),
    ({"phases": [{"until": 0.5, "train": ["heads"]}, {"until": 0.2, "train": ["all"]}, {"train": ["all"]}]}, "rising"),
    ({"phases": [{"until": 0.5, "train": ["heads"]}]}, "the last none"),
    ({"contrastive": {"tasks": ["a"]}, "matching": {}}, "give both the same"),
])
def test_a_wrong_recipe_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PretrainConfig.model_validate(wrong)


def test_a_model_without_the_sense_is_refused(trainee) -> None:
    config = PretrainConfig.model_validate(ALL)
    blind, deaf = replace(trainee.config, vision=None), replace(trainee.config, hearing=None)
    for model, wanted in ((blind, {"masked_image": config.masked_image}), (blind, {"contrastive": config.contrastive}),
                          (deaf, {"masked_audio": config.masked_audio}), (deaf, {"matching": config.matching})):
        with pytest.raises(OptionError, match="no eyes|no ears"):
            PretrainHeads(model, **wanted)


# Samples


def test_masks_follow_from_seed_step_and_name_alone(trainee) -> None:
    _, feed = stage(trainee, ALL)
    first, again, later = feed.micro(EXAMPLES, 3), feed.micro(EXAMPLES, 3), feed.micro(EXAMPLES, 4)
    assert torch.equal(first.masked_language.targets, again.masked_language.targets)
    assert torch.equal(first.masked_image.is_hidden, again.masked_image.is_hidden)
    assert not torch.equal(first.masked_image.is_hidden, later.masked_image.is_hidden)
    alone = feed.micro(EXAMPLES[1:2], 3, number=1)
    assert torch.equal(alone.masked_image.is_hidden[0], first.masked_image.is_hidden[1]), "whatever it came with"
    _, other = stage(trainee, ALL, seed=1)
    assert not torch.equal(other.micro(EXAMPLES, 3).masked_image.is_hidden, first.masked_image.is_hidden)


def test_tasks_choose_the_samples(trainee) -> None:
    _, feed = stage(trainee, {"next_token": {"tasks": ["sound"]}, "masked_language": {"tasks": ["picture"]}})
    micro = feed.step(0)[0]
    assert {task for row in micro.next_token.rows for task in row.tasks} == {"sound"}
    assert {task for row in micro.masked_language.batch.rows for task in row.tasks} == {"picture"}


def test_with_no_sample_left_a_stand_in_runs_and_counts_for_nothing(trainee) -> None:
    objective, feed = stage(trainee, ALL)
    objective.zero_grad()
    micro = feed.micro([])
    terms = objective(micro)
    assert sorted(terms) == sorted(name for names in TERMS.values() for name in names)
    assert all(term.count == 0 and float(term.total.detach()) == 0 for term in terms.values())
    sum(term.total for term in terms.values()).backward()
    grads = [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]
    assert grads and all(grad.abs().max() == 0 for grad in grads)


def test_interleaved_documents_are_learned_word_by_word(trainee) -> None:
    parts = (TextPart("Seen:"), ImagePart(picture(0)), TextPart("red. Heard:"), AudioPart(sound(1), 16_000),
             TextPart("a tone."))
    _, feed = stage(trainee, {"next_token": {"learn": "answers"}})
    batch = feed.micro([Example((Message("assistant", parts),), "document")]).next_token
    (row,) = batch.rows
    for span in (*row.media.image_spans, *row.media.audio_spans):
        assert (row.labels[span.start : span.stop] == NOT_LEARNED).all()
    learned = trainee.tokenizer.decode(row.labels[row.labels != NOT_LEARNED].tolist())
    assert all(words in learned for words in ("Seen:", "red. Heard:", "a tone."))


def test_what_cannot_be_used_is_named_counted_and_left_out(trainee, tmp_path, caplog) -> None:
    broken = Example((Message("user", (ImagePart(tmp_path / "gone.png"),)), Message("assistant", (TextPart("x"),))),
                     "picture", "set/7")
    endless = Example((Message("user", (TextPart("ab " * 3000),)), Message("assistant", (TextPart("x"),))), "text",
                      "set/8")
    objective, feed = stage(trainee, ALL)
    with caplog.at_level(logging.WARNING, "minicpm_o"):
        micro = feed.micro([broken, endless, *EXAMPLES])
    assert "set/7 (picture)" in caplog.text and "gone.png" in caplog.text
    assert "set/8 (text)" in caplog.text and "raise max_tokens" in caplog.text
    assert feed.counts() == {"still": 1, "skipped picture": 1, "skipped text": 1}
    assert sum(len(row.tasks) for row in micro.next_token.rows) == len(EXAMPLES)
    objective(micro)
    state = feed.state()
    _, other = stage(trainee, ALL)
    other.load(state)
    assert other.counts() == feed.counts()


def test_words_about_a_medium_are_those_said_last() -> None:
    assert words_about(picture_pair(0)) == "It is red, number 0."
    asked = Example((Message("user", (ImagePart(picture(0)), TextPart("A red square."))),))
    assert words_about(asked) == "A red square."


# Learning


def test_phases_say_what_learns(trainee) -> None:
    objective, _ = stage(trainee, {"masked_language": {}, "phases": [
        {"until": 0.25, "train": ["connectors", "heads"]}, {"train": ["all"]}]})
    first = objective.trainable(0, 100)
    assert first == objective.trainable(24, 100) == ["model.connectors.", "heads."]
    assert objective.trainable(25, 100) is None and objective.trainable(99, 100) is None
    learns = [name for name, _ in objective.named_parameters() if name.startswith(tuple(first))]
    assert {name.split(".")[0] for name in learns} == {"model", "heads"} and len(learns) > 10


def test_all_tasks_are_learned_together(trainee) -> None:
    torch.manual_seed(0)
    objective, feed = stage(trainee, ALL | {"masked_image": {"normalise": False}})
    micro = feed.step(0)[0]
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    first: dict[str, float] = {}
    for _ in range(25):
        losses = {name: term.total / term.count for name, term in objective(micro).items()}
        first = first or {name: float(loss.detach()) for name, loss in losses.items()}
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    ratios = {name: float(loss.detach()) / first[name] for name, loss in losses.items()}
    assert all(ratio < 0.75 for ratio in ratios.values()), ratios


def test_half_precision_runs_and_losses_are_float32(trainee) -> None:
    objective, feed = stage(trainee, ALL)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(feed.step(0)[0])
    assert {term.total.dtype for term in terms.values()} == {torch.float32}
    assert all(torch.isfinite(term.total) for term in terms.values())


# Ranks


def steps_of(examples: list[Example], parallel: str, world: World, home: Path) -> list[dict[str, float]]:
    """Terms of two steps over all tasks, of all ranks together."""
    config = PretrainConfig.model_validate(ALL)
    objective, feed = build(config, tiny_trainee(home), Still([examples]), 0)
    recipe = Recipe.model_construct(stage="pretrain", model=ModelSection(), data=None, pretrain=config,
                                    optim=OptimSection(lr=1e-3, warmup_steps=0), run=RunSection(parallel=parallel))
    network, optimizer = distribute(objective, recipe, world), make_optimizer(objective, recipe.optim)
    return [dict(one_step(network, objective, optimizer, feed, recipe, world, step).terms) for step in range(2)]


def as_rank(rank: int, port: int, home: Path, results: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    cuts = {"ddp": EXAMPLES[rank::2], "fsdp2": EXAMPLES[:3] if rank == 0 else EXAMPLES[3:]}
    for parallel, examples in cuts.items():
        results[rank, parallel] = steps_of(examples, parallel, World(rank, 2), home)
    torch.distributed.destroy_process_group()


def test_two_ranks_have_the_losses_of_one_even_where_one_sees_and_the_other_hears(tmp_path: Path) -> None:
    expected = steps_of(EXAMPLES, "none", World(), tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(as_rank, (port, tmp_path, results), nprocs=2)
        found = dict(results)
    for parallel in ("ddp", "fsdp2"):
        for step, terms in enumerate(expected):
            assert found[0, parallel][step] == pytest.approx(terms, rel=1e-4), f"step {step} of {parallel}"
