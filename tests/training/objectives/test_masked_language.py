"""Masked words: which are hidden and how, that nothing gives them away, that both sides are seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from training_pairs import picture_pair, sound_pair, tiny_trainee  # noqa: E402

from minicpm_o.training.objectives.masked_language import (  # noqa: E402
    MaskedLanguageConfig,
    collate_words,
    mask_words,
    masked_language,
    masked_states,
)
from minicpm_o.training.rows import NOT_LEARNED  # noqa: E402


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory):
    return tiny_trainee(tmp_path_factory.mktemp("home"))


def masked(trainee, example, seed: int = 0, **settings: float):
    row = trainee.row(example)
    return mask_words(row, MaskedLanguageConfig(**settings), np.random.default_rng(seed),
                      special=trainee.tokenizer.added_ids, vocab_size=trainee.tokenizer.vocab_size)


@pytest.mark.parametrize("example", [picture_pair(1), sound_pair(2)], ids=["picture", "sound"])
def test_only_words_that_are_said_are_hidden(trainee, example) -> None:
    row = trainee.row(example)
    for seed in range(20):
        changed, is_masked, targets = masked(trainee, example, seed, share=0.9)
        chosen = targets != NOT_LEARNED
        assert not set(row.ids[chosen].tolist()) & trainee.tokenizer.added_ids, "neither marks nor placeholders"
        assert (row.labels[chosen] != NOT_LEARNED).all(), "and nothing of the template or the question"
        for span in (*row.media.image_spans, *row.media.audio_spans):
            assert not chosen[span.start : span.stop].any()
        assert (targets[chosen] == row.ids[chosen]).all()
        assert not (is_masked & ~chosen).any() and (changed.ids[~chosen] == row.ids[~chosen]).all()
        assert not set(changed.ids[chosen].tolist()) & trainee.tokenizer.added_ids, "random words are words"


def test_shares_of_what_is_hidden_how(trainee) -> None:
    row = trainee.row(picture_pair(1))
    words = int(((row.labels != NOT_LEARNED) & ~np.isin(row.ids, list(trainee.tokenizer.added_ids))).sum())
    changed, is_masked, targets = masked(trainee, picture_pair(1), share=1.0)
    assert (targets != NOT_LEARNED).sum() == words
    assert is_masked.sum() == round(0.8 * words)
    stayed = (changed.ids == row.ids) & (targets != NOT_LEARNED) & ~is_masked
    assert stayed.sum() in (words - round(0.9 * words), words - round(0.9 * words) + 1), "a random word may be the same"
    _, _, few = masked(trainee, picture_pair(1), share=0.01)
    assert (few != NOT_LEARNED).sum() == 1, "at least one"


def test_the_hidden_word_does_not_show_and_both_sides_do(trainee) -> None:
    row, is_masked, targets = masked(trainee, picture_pair(1), share=0.2, mask_share=1.0, random_share=0.0)
    mask = torch.randn(trainee.config.language.width)
    place = int(np.flatnonzero(is_masked)[0])

    def states(at: int) -> torch.Tensor:
        ids = row.ids.copy()
        ids[at] = (ids[at] + 1) % 256
        only = np.where(np.arange(len(row)) == place, targets, NOT_LEARNED)
        words = collate_words([(replace(row, ids=ids), is_masked, only)])
        return masked_states(trainee.model, words, mask).detach()

    free = np.flatnonzero((row.labels != NOT_LEARNED) & ~is_masked)
    before, after = int(free[free < place][-1]) if (free < place).any() else place - 1, int(free[free > place][0])
    untouched = states(place)  # changes the word under the mask alone
    words = collate_words([(row, is_masked, np.where(np.arange(len(row)) == place, targets, NOT_LEARNED))])
    assert torch.equal(untouched, masked_states(trainee.model, words, mask).detach())
    for other in (before, after):
        assert not torch.allclose(states(other), untouched, atol=1e-6)


def test_it_is_learned(trainee) -> None:
    words = collate_words([masked(trainee, picture_pair(number)) for number in range(4)])
    mask = torch.nn.Parameter(torch.zeros(trainee.config.language.width))
    optimizer = torch.optim.AdamW([mask, *trainee.model.language.parameters()], lr=3e-3)
    losses = []
    for _ in range(12):
        term = masked_language(trainee.model, words, mask)
        assert term.count == words.count
        (term.total / term.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(term.total.detach()) / term.count)
    assert losses[-1] < 0.6 * losses[0]
