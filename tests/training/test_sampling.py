"""Answers drawn while a model trains: together as alone, several to a prompt, likeliest tokens, chances as drawn."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.training.data.made import made_example  # noqa: E402
from minicpm_o.training.rows import Row, collate  # noqa: E402
from minicpm_o.training.sampling import (  # noqa: E402
    SamplingSettings,
    _choose,
    answer_logps,
    answered_row,
    answers_row,
    batch_logps,
    sample_answers,
)
from minicpm_o.training.trainee import OfficialTrainee, open_trainee  # noqa: E402


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory) -> OfficialTrainee:
    return open_trainee("tiny-4.5", home=tmp_path_factory.mktemp("home"))


def prompts(trainee: OfficialTrainee) -> list[Row]:
    """Of different lengths, with a picture, a sound, and questions."""
    made = [made_example(kind, number, name=kind) for kind, number in (("captions", 0), ("beeps", 0), ("charts", 1))]
    return [trainee.prompt(example.messages[:-1]) for example in made]


def test_together_as_alone_with_pictures_and_sounds(trainee: OfficialTrainee) -> None:
    asked, settings = prompts(trainee), SamplingSettings(6, 0.0)
    assert len({len(row) for row in asked}) > 1, "some are filled up on the left"
    together = sample_answers(trainee.model, asked, trainee.end_ids, settings)
    assert together == [sample_answers(trainee.model, [row], trainee.end_ids, settings)[0] for row in asked]


def test_several_to_a_prompt_lie_side_by_side(trainee: OfficialTrainee) -> None:
    asked = prompts(trainee)
    repeated = [row for row in asked for _ in range(3)]
    settings = SamplingSettings(5, 1.0, seed=3)
    assert sample_answers(trainee.model, asked, trainee.end_ids, settings, copies=3) == sample_answers(
        trainee.model, repeated, trainee.end_ids, settings)


def test_a_greedy_answer_is_what_the_chances_say(trainee: OfficialTrainee) -> None:
    (prompt, *_), model = prompts(trainee), trainee.model.eval()
    ((first, *_),) = sample_answers(model, [prompt], trainee.end_ids, SamplingSettings(1, 0.0))
    with torch.no_grad():
        best = max(range(trainee.config.language.vocab_size),
                   key=lambda token: float(answer_logps(model, [answered_row(prompt, [token])])[0]))
    assert first == best


def test_chances_at_a_temperature_sum_to_one(trainee: OfficialTrainee) -> None:
    (prompt, *_), model = prompts(trainee), trainee.model.eval()
    rows = [answered_row(prompt, [token]) for token in range(trainee.config.language.vocab_size)]
    with torch.no_grad():
        plain, warm = (batch_logps(model, collate(rows), temperature)[0] for temperature in (1.0, 2.0))
    assert plain.exp().sum().item() == pytest.approx(1, abs=1e-4)
    assert warm.exp().sum().item() == pytest.approx(1, abs=1e-4) and warm.std() < plain.std()


def test_answers_behind_one_prompt_are_answers_of_their_own(trainee: OfficialTrainee) -> None:
    said, asked, model = ([5, 6, 7], [8]), prompts(trainee), trainee.model.eval()
    apart = batch_logps(model, collate([answered_row(prompt, ids) for prompt in asked for ids in said]))
    shared = batch_logps(model, collate([answers_row(prompt, said) for prompt in asked]))
    assert torch.allclose(apart[0], shared[0], atol=1e-5) and torch.equal(apart[1], shared[1])
    weight = model.vision.embeddings.patch_embedding.weight
    first, second = (torch.autograd.grad(logps.sum(), weight)[0] for logps, _ in (apart, shared))
    assert first.abs().max() > 0 and torch.allclose(first, second, atol=1e-4 * float(first.abs().max()))


def test_the_likeliest_share_alone_is_drawn_from() -> None:
    logits = torch.tensor([[math.log(0.5), math.log(0.3), math.log(0.2)]]).expand(400, -1)
    drawn = {share: set(_choose(logits, SamplingSettings(top_p=share), torch.Generator().manual_seed(0)).tolist())
             for share in (0.4, 0.5, 0.6, 1.0)}
    assert drawn == {0.4: {0}, 0.5: {0}, 0.6: {0, 1}, 1.0: {0, 1, 2}}


def test_training_mode_comes_back(trainee: OfficialTrainee) -> None:
    trainee.model.train()
    sample_answers(trainee.model, prompts(trainee)[:1], trainee.end_ids, SamplingSettings(1))
    assert trainee.model.training
