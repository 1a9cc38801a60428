"""The comparison of fusion depths is fair: same scenes, same questions, same weights; who joins what, and where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.errors import InputError  # noqa: E402
from minicpm_o.training.fusion.batches import ANSWER_WORDS, KINDS_ASKED, make_batch  # noqa: E402
from minicpm_o.training.fusion.eyes import labels_of  # noqa: E402
from minicpm_o.training.fusion.models import VARIANTS, FusionConfig, build_variant, num_weights  # noqa: E402
from minicpm_o.training.fusion.run import RunConfig, begin_with_eye, train  # noqa: E402
from minicpm_o.training.fusion.scenes import ANSWERS, HUES, make_scene  # noqa: E402
from minicpm_o.training.mixture import read_json, read_rows  # noqa: E402

MEDIA = tuple(name for name in VARIANTS if name != "blind")


def test_scenes_belong_to_split_seed_and_number() -> None:
    first, again, other = (make_scene("train", 1, number) for number in (5, 5, 6))
    assert np.array_equal(first.picture, again.picture) and first.questions == again.questions
    assert not np.array_equal(first.picture, other.picture)
    assert {question.answer for question in first.questions} <= {word for words in ANSWERS.values() for word in words}


def test_the_new_split_holds_triples_that_training_never_has() -> None:
    def triples(split: str, count: int) -> set:
        return {event.triple for number in range(count) for event in make_scene(split, 1, number).events}

    known, new = triples("train", 150), triples("new", 60)
    assert new and not known & new
    turned = {(patient, action, agent) for agent, action, patient in known}
    assert not turned & new, "either way round"


def test_every_variant_gets_the_same_batch_and_weighs_the_same() -> None:
    weights = {name: num_weights(build_variant(name, 0)) for name in VARIANTS}
    whole = weights["full"]
    assert all(abs(weights[name] / whole - 1) < 0.015 for name in MEDIA), weights
    batch, again = make_batch("train", 3, 0, 4), make_batch("train", 3, 0, 4)
    assert torch.equal(batch.pictures, again.pictures) and torch.equal(batch.answers, again.answers)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_few_scenes_can_be_learned(name: str) -> None:
    batch, model = make_batch("train", 0, 0, 3), build_variant(name, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        logits = model(batch)
        assert logits.shape == (3, len(KINDS_ASKED), len(ANSWER_WORDS))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.answers.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["late", "middle_pooled", "first_pooled"])
def test_pooled_variants_see_one_vector_of_a_picture(name: str) -> None:
    model, batch = build_variant(name, 0), make_batch("train", 0, 0, 2)
    media = model.pooled(batch) if name == "late" else model.media(batch)
    assert [item.shape[1] for item in media] == [1, 1]
    assert [item.shape[1] for item in build_variant("full", 0).media(batch)] == [
        model.config.picture_tokens, model.config.sound_tokens]


def test_the_blind_one_sees_nothing() -> None:
    batch, other = make_batch("train", 0, 0, 2), make_batch("train", 0, 7, 2)
    swapped = replace(batch, pictures=other.pictures, log_mels=other.log_mels)
    with torch.no_grad():
        for name, is_equal in (("blind", True), ("full", False), ("late", False), ("cross", False)):
            model = build_variant(name, 0).eval()
            assert torch.equal(model(batch), model(swapped)) == is_equal, name


def test_variants_begin_with_the_eye_of_their_seed(tmp_path: Path) -> None:
    config, eyes = RunConfig(eye_steps=2), {}
    for name, seed in (("full", 1), ("late", 1), ("cross", 2)):
        model = build_variant(name, 0)
        begin_with_eye(model, seed, config, tmp_path / f"eye_{seed}.pt")
        eyes[name] = torch.cat([weight.flatten() for weight in model.eye.parameters()])
    assert torch.equal(eyes["full"], eyes["late"]) and not torch.equal(eyes["full"], eyes["cross"])


def test_the_eye_is_told_what_stands_where() -> None:
    scene, config = make_scene("train", 1, 3), FusionConfig()
    labels = labels_of(scene, config)
    assert labels.shape == (config.picture_tokens, 2) and (labels[:, 0] > 0).sum() == len(scene.things)
    assert {HUES[colour - 1] for colour, _ in labels if colour} == {thing.colour for thing in scene.things}


def test_questions_do_not_see_each_other() -> None:
    batch, model = make_batch("train", 0, 0, 1), build_variant("full", 0).eval()
    changed = batch.ids.clone()
    changed[0, : int(batch.ends[0, 0]) + 1] = 0  # the first question is another one
    with torch.no_grad():
        before, after = model(batch), model(replace(batch, ids=changed))
    assert not torch.allclose(before[0, 0], after[0, 0])
    assert torch.allclose(before[0, 1:], after[0, 1:], atol=1e-5)


def test_a_run_goes_on_and_is_not_mixed_with_another(tmp_path: Path) -> None:
    config = RunConfig(eye_steps=2, steps=4, scenes=2, dev_scenes=4, test_scenes=4, note_every=2)
    longer = replace(config, steps=5)
    train("late", 1, config, tmp_path / "whole")
    result = read_json(tmp_path / "whole" / "result.json")
    assert set(result["new"]) == set(KINDS_ASKED) and len(read_rows(tmp_path / "whole" / "metrics.jsonl")) == 2
    with pytest.raises(InputError, match=r"other settings \(steps\)"):
        train("late", 1, longer, tmp_path / "whole")
