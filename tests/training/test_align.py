"""Alignment on the tiny model: sampling, the reference and its cache, pairs and groups raise what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fixed_draws import Fixed

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from minicpm_o.inputs.messages import messages_from_openai  # noqa: E402
from minicpm_o.training.align import (  # noqa: E402
    AlignConfig,
    DpoConfig,
    GrpoConfig,
    Reference,
    build,
    divergence,
    greedy_answers,
    row_key,
)
from minicpm_o.training.data.made import made_example  # noqa: E402
from minicpm_o.training.examples import Example  # noqa: E402
from minicpm_o.training.lora import LoraConfig, choose_parts  # noqa: E402
from minicpm_o.training.rows import collate  # noqa: E402
from minicpm_o.training.sampling import (  # noqa: E402
    SamplingSettings,
    answer_logps,
    answered_row,
    sample_answers,
)
from minicpm_o.training.trainee import OfficialTrainee, open_trainee  # noqa: E402


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def trainee(home: Path) -> OfficialTrainee:
    found = open_trainee("tiny-4.5", home=home)
    choose_parts(found.model, ("language",), LoraConfig(rank=8))
    return found


def pairs(count: int = 3) -> list[Example]:
    return [made_example("pairs", number, name=f"pair {number}") for number in range(count)]


def typed(question: str, answer: str, **facts: Any) -> Example:
    messages = messages_from_openai([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
    return Example(tuple(messages), name=question, facts=facts)


def learn(objective: Any, feed: Any, steps: int, lr: float = 3e-3) -> list[dict[str, Any]]:
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=lr)
    told = []
    for step in range(steps):
        (micro,) = feed.step(step)
        terms, counts = objective(micro), objective.counts(micro)
        assert {name: term.count for name, term in terms.items()} == counts
        sum(objective.weights.get(name, 1.0) * term.total / counts[name] for name, term in terms.items()).backward()
        optimizer.step()
        optimizer.zero_grad()
        told.append({name: total / count for name, (total, count) in next(iter(terms.values())).parts.items()})
    return told


def test_sampled_in_a_batch_is_sampled_alone(trainee: OfficialTrainee) -> None:
    prompts = [trainee.prompt(example.messages[:-1]) for example in (*pairs(2), typed("hi", "x"))]
    settings = SamplingSettings(6, 0.0)
    together = sample_answers(trainee.model, prompts, trainee.end_ids, settings)
    assert together == [sample_answers(trainee.model, [prompt], trainee.end_ids, settings)[0] for prompt in prompts]
    drawn = [sample_answers(trainee.model, prompts, trainee.end_ids, SamplingSettings(6, 1.0, seed))
             for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_likeliest_words_are_those_that_were_sampled(trainee: OfficialTrainee) -> None:
    prompt = trainee.prompt(pairs(1)[0].messages[:-1])
    (said,) = sample_answers(trainee.model, [prompt], trainee.end_ids, SamplingSettings(5, 0.0))
    with torch.no_grad():
        logps, mask = answer_logps(trainee.model.eval(), [answered_row(prompt, said)])
        other, _ = answer_logps(trainee.model, [answered_row(prompt, [said[0] + 1, *said[1:]])])
    assert mask.all() and logps.shape == (1, len(said)) and other[0, 0] < logps[0, 0]


def test_the_reference_stays_and_its_cache_knows_the_weights(trainee: OfficialTrainee, tmp_path: Path) -> None:
    reference = Reference(trainee.model, tmp_path)
    assert reference.is_adapter, "no copy is kept where the adapter can be put aside"
    batch = collate([trainee.row(example) for example in pairs(2)])
    before = reference.logps(batch)
    (file,) = tmp_path.glob("*.jsonl")
    with torch.no_grad():
        for name, parameter in trainee.model.named_parameters():
            if ".lora_B" in name:
                parameter.normal_()
    assert torch.allclose(Reference.token_logps(reference, batch).sum(1), before, atol=1e-5)
    assert torch.allclose(reference.logps(batch), before) and len(file.read_text().splitlines()) == 1
    with torch.no_grad():
        trainee.model.decoder.model.norm.weight.mul_(1.5)
    changed = Reference(trainee.model, tmp_path)
    assert not changed.is_adapter, "an adapter that has learned is part of what came before"
    assert not torch.allclose(changed.logps(batch), before) and len(list(tmp_path.glob("*.jsonl"))) == 2


def test_rows_are_told_apart_by_words_and_media(trainee: OfficialTrainee) -> None:
    first, second = (trainee.row(example) for example in pairs(2))
    assert row_key(first) == row_key(trainee.row(pairs(1)[0])) != row_key(second)


def test_dpo_raises_the_margin(trainee: OfficialTrainee) -> None:
    objective, feed = build(AlignConfig(dpo=DpoConfig(sft_weight=0.1)), trainee, Fixed(pairs()), 0)
    told = learn(objective, feed, 12)
    assert told[0]["margin"] == pytest.approx(0, abs=1e-5) and told[-1]["margin"] > 0.1
    assert told[-1]["accuracy"] == 1 and told[-1]["kl"] > 0


def test_grpo_raises_the_reward_and_tells_the_divergence(trainee: OfficialTrainee) -> None:
    config = AlignConfig(method="grpo", grpo=GrpoConfig(group=16, max_tokens=6, rewards={"format": 1.0}, kl_weight=0.0))
    examples = [typed(f"say {number}", "a", format=".*e.*") for number in range(2)]
    objective, feed = build(config, trainee, Fixed(examples), 0)
    told = learn(objective, feed, 20, lr=5e-3)
    first, last = (sum(row["reward"] for row in rows) / 3 for rows in (told[:3], told[-3:]))
    assert last > first and told[-1]["kl"] > 0 and told[0]["reward_format"] == told[0]["reward"]
    assert divergence(trainee, objective.reference, examples, max_tokens=6) > 0
    assert len(greedy_answers(trainee, examples, max_tokens=4)) == 2


def test_what_cannot_be_used_is_counted(trainee: OfficialTrainee, caplog: Any) -> None:
    same = typed("q", "a")
    bad = [typed("q", "a"), Example(same.messages, rejected="a", name="same"), Example(same.messages, rejected="")]
    objective, feed = build(AlignConfig(), trainee, Fixed(bad), 0)
    (micro,) = feed.step(0)
    assert micro.count == 0 and feed.counts()["skipped chat"] == 3
    for words in ("the better and the worse answer are the same", "an answer of the pair is empty"):
        assert words in caplog.text
    assert float(objective(micro)["dpo"].total.detach()) == 0
    _, prompts = build(AlignConfig(method="grpo"), trainee, Fixed([typed("q", "a", smell=1)]), 0)
    (micro,) = prompts.step(0)
    assert micro.count == 0 and "know nothing" in caplog.text
