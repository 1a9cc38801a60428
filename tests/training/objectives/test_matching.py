"""Matching: negatives are wrong ones, near ones more often; right and wrong weigh the same; it is learned."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from training_pairs import Still, picture_pair, sound_pair, tiny_trainee  # noqa: E402

from minicpm_o.training.objectives.contrastive import embed_all  # noqa: E402
from minicpm_o.training.objectives.matching import draw_negatives, matching  # noqa: E402
from minicpm_o.training.objectives.pairs import last_states, see_pairs, words_of  # noqa: E402
from minicpm_o.training.pretrain import PretrainConfig, build  # noqa: E402
from minicpm_o.training.pretrain_feed import PretrainMicro, words_about  # noqa: E402
from minicpm_o.training.rows import NOT_LEARNED, Row, collate, hidden_states  # noqa: E402

CONFIG = PretrainConfig.model_validate({"next_token": None, "contrastive": {}, "matching": {}})
EXAMPLES = {"image": picture_pair, "audio": sound_pair}


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory):
    return tiny_trainee(tmp_path_factory.mktemp("home"))


def pairs_of(trainee, kind: str, count: int = 3):
    _, feed = build(CONFIG, trainee, Still([]), 0)
    return feed.micro([EXAMPLES[kind](number) for number in range(count)]).pairs[kind]


def keys_of(texts: list[int]) -> torch.Tensor:
    return torch.tensor([[100 + place, text] for place, text in enumerate(texts)])


def others(keys: torch.Tensor) -> torch.Tensor:
    blank = torch.randn(len(keys), 3)
    return embed_all(blank, blank, keys, torch.ones(len(keys), dtype=torch.bool)).is_other


def test_negatives_are_never_the_pair_itself_nor_an_equal_text() -> None:
    keys = keys_of([7, 7, 8, 9])
    for seed in range(200):
        texts, media = draw_negatives(torch.eye(4) * 50, others(keys), keys, seed)
        for place in range(4):
            assert keys[texts[place], 1] != keys[place, 1] and keys[media[place], 1] != keys[place, 1]


def test_where_all_texts_are_equal_there_is_none() -> None:
    keys = keys_of([7, 7])
    texts, media = draw_negatives(torch.zeros(2, 2), others(keys), keys, 0)
    assert texts.tolist() == media.tolist() == [-1, -1]


def test_negatives_come_in_proportion_to_exp_of_similarity() -> None:
    keys, similarity = keys_of([1, 2, 3]), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    drawn = [draw_negatives(similarity, others(keys), keys, seed) for seed in range(0, 6000, 2)]
    near = sum(int(texts[0]) == 1 for texts, _ in drawn) / len(drawn)
    assert near == pytest.approx(math.e / (1 + math.e), abs=0.03)
    near = sum(int(media[2]) == 1 for _, media in drawn) / len(drawn)
    assert near == pytest.approx(math.e**2 / (1 + math.e**2), abs=0.03)


def test_the_draw_does_not_hang_on_the_order() -> None:
    keys, similarity, order = keys_of([1, 2, 3, 4]), torch.randn(4, 4), torch.tensor([2, 0, 3, 1])
    texts, _ = draw_negatives(similarity, others(keys), keys, 3)
    moved, _ = draw_negatives(similarity[order][:, order], others(keys[order]), keys[order], 3)
    assert torch.equal(order[moved], texts[order])


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_medium_before_a_text_is_a_conversation_of_one_turn(trainee, kind: str) -> None:
    pairs = pairs_of(trainee, kind, 2)
    seen, words = see_pairs(trainee.model, pairs), words_of(pairs.texts)
    assert trainee.tokenizer.decode(words[1].tolist()) == words_about(EXAMPLES[kind](1))
    found = last_states(trainee.model, seen.fused, words).detach()
    prompt = pairs.media.rows[1]
    ids = np.concatenate([prompt.ids, words[1].numpy()])
    row = Row(ids, np.full(len(ids), NOT_LEARNED), prompt.media)
    torch.testing.assert_close(found[1], hidden_states(trainee.model, collate([row])).detach()[0, -1], rtol=1e-4,
                               atol=1e-5)


def test_knowing_nothing_costs_the_logarithm_of_two(trainee) -> None:
    pairs = pairs_of(trainee, "image")
    seen = see_pairs(trainee.model, pairs)
    both = embed_all(seen.media, seen.texts, pairs.keys, pairs.valid)
    term = matching(trainee.model, pairs, seen, lambda states: torch.zeros(len(states)), both, 0.0)
    assert term.count == 6 and float(term.total.detach()) / term.count == pytest.approx(math.log(2), rel=1e-6)
    asked = []
    matching(trainee.model, pairs, seen, lambda states: asked.append(len(states)) or states[:, 0], both, 0.0)
    assert asked == [9], "three pairs, a wrong text for each picture and a wrong picture for each text"


def test_it_is_learned(trainee) -> None:
    torch.manual_seed(0)
    pairs = pairs_of(trainee, "image", 4)
    objective, _ = build(CONFIG, trainee, Still([]), 0)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        terms = objective(PretrainMicro(pairs={"image": pairs}))
        term = terms["image_text_matching"]
        (term.total / term.count + terms["image_text_contrastive"].total / 4).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(term.total.detach()) / term.count)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
