"""Masked patches: they cannot be seen, slices stay, targets are normalised, and it is learned; official and nano."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from training_pairs import picture_pair, tiny_trainee  # noqa: E402

from minicpm_o.inputs.messages import Message  # noqa: E402
from minicpm_o.model.config import tiny  # noqa: E402
from minicpm_o.model.fusion.spans import Span  # noqa: E402
from minicpm_o.model.omni import EncodedMedia, OmniModel  # noqa: E402
from minicpm_o.training.heads import PretrainHeads  # noqa: E402
from minicpm_o.training.objectives.masked_image import (  # noqa: E402
    MaskedImageConfig,
    collate_patches,
    hide_patches,
    masked_image,
    normalised,
    predict_patches,
    target_patches,
)
from minicpm_o.training.pretrain_feed import parts_of  # noqa: E402
from minicpm_o.training.rows import NOT_LEARNED, Row  # noqa: E402

CONFIG = MaskedImageConfig(share=0.5)


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory):
    return tiny_trainee(tmp_path_factory.mktemp("home"))


def laid(trainee, *numbers: int, size: tuple[int, int] = (84, 84)):
    rows = [trainee.prompt([Message("user", parts_of(picture_pair(number, size), "image"))]) for number in numbers]
    start = trainee.tokenizer.special.image_start
    return rows, [hide_patches(row, CONFIG, np.random.default_rng(place), image_start=start)
                  for place, row in enumerate(rows)]


def with_pieces(row: Row, pieces: list[np.ndarray]) -> Row:
    return replace(row, media=replace(row.media, pieces=pieces))


def test_half_of_the_patches_is_hidden(trainee) -> None:
    rows, hidden = laid(trainee, 0, 1)
    patches = collate_patches(rows, hidden)
    assert patches.is_hidden.shape == (2, 36) and patches.count == 36
    assert patches.is_hidden.sum(1).tolist() == [18, 18]
    rows, columns = patches.places[0].T
    assert torch.equal(rows * 6 + columns, patches.index[0]), "places are those of the patches"


def test_slices_stay(trainee) -> None:
    rows, hidden = laid(trainee, 0, size=(252, 84))
    assert len(hidden[0]) > 1, "the picture is sliced"
    assert hidden[0][0].any() and not any(piece.any() for piece in hidden[0][1:])
    assert collate_patches(rows, hidden).pieces.tolist() == [0]


def test_a_hidden_patch_cannot_be_seen(trainee) -> None:
    rows, hidden = laid(trainee, 0, 1)
    heads = PretrainHeads(trainee.config, masked_image=CONFIG).masked_image

    def told(rows: list[Row]) -> torch.Tensor:
        return predict_patches(trainee.model, collate_patches(rows, hidden), heads["mask"].vector,
                               heads["decoder"]).detach()

    def changed(where: np.ndarray) -> list[Row]:
        piece = rows[0].media.pieces[0].copy()
        piece[where] = np.random.default_rng(9).standard_normal(piece[where].shape)
        return [with_pieces(rows[0], [piece]), rows[1]]

    before = told(rows)
    assert torch.equal(told(changed(hidden[0][0])), before)
    after = told(changed(~hidden[0][0]))
    assert not torch.allclose(after[0], before[0], atol=1e-5)
    torch.testing.assert_close(after[1], before[1])


def test_targets_are_the_patches_with_their_own_mean_and_spread_taken_off(trainee) -> None:
    rows, hidden = laid(trainee, 0)
    patches = collate_patches(rows, hidden)
    expected = torch.from_numpy(rows[0].media.pieces[0][hidden[0][0]])
    torch.testing.assert_close(target_patches(patches, normalise=False)[0], expected)
    wanted = target_patches(patches, normalise=True)[0]
    torch.testing.assert_close(wanted, (expected - expected.mean(1, keepdim=True)) / expected.std(1, keepdim=True),
                               rtol=1e-3, atol=1e-3)
    assert normalised(torch.full((1, 8), 0.3)).abs().max() < 1e-3, "an even patch has nothing to tell"


def test_telling_the_patches_costs_nothing_and_their_mean_their_spread(trainee) -> None:
    rows, hidden = laid(trainee, 0, 1)
    patches = collate_patches(rows, hidden)
    wanted = target_patches(patches, normalise=True)
    mask = torch.zeros(588)
    perfect = masked_image(trainee.model, patches, mask, lambda states, places: wanted)
    assert float(perfect.total.detach()) == 0 and perfect.count == 36
    nothing = masked_image(trainee.model, patches, mask, lambda states, places: torch.zeros_like(wanted))
    assert float(nothing.total.detach()) / nothing.count == pytest.approx(1.0, abs=0.01), "normalised: variance 1"


def test_of_pictures_of_other_shapes_only_their_own_patches_count(trainee) -> None:
    (small, large), (few, many) = zip(*(laid(trainee, 0, size=size) for size in ((42, 84), (84, 84))), strict=True)
    patches = collate_patches([*small, *large], [*few, *many])
    assert patches.valid.sum(1).tolist() == [int(few[0][0].sum()), int(many[0][0].sum())]
    heads = PretrainHeads(trainee.config, masked_image=CONFIG).masked_image
    both = predict_patches(trainee.model, patches, heads["mask"].vector, heads["decoder"]).detach()
    alone = predict_patches(trainee.model, collate_patches(small, few), heads["mask"].vector, heads["decoder"])
    torch.testing.assert_close(both[0][patches.valid[0]], alone.detach()[0], rtol=1e-4, atol=1e-4)


def nano_row(seed: int, config) -> Row:
    rng = torch.Generator().manual_seed(seed)
    tokens, start = config.resampler.num_tokens, 2
    ids = np.array([1, 7, *[3] * tokens, 4])  # 7 stands for <image>
    media = EncodedMedia(torch.randn(1, 64, config.vision.width, generator=rng),
                         torch.randn(1, 1000, generator=rng), (Span(start, start + tokens),), (), ())
    return Row(ids, np.full(len(ids), NOT_LEARNED), media)


def test_nano_hides_features_and_the_classifiers_guess() -> None:
    config = tiny()
    model, heads = OmniModel(config), PretrainHeads(config, masked_image=CONFIG).masked_image
    row = nano_row(0, config)
    hidden = [hide_patches(row, CONFIG, np.random.default_rng(0), image_start=7)]

    def told(features: torch.Tensor, class_logits: torch.Tensor) -> torch.Tensor:
        media = replace(row.media, features=features, class_logits=class_logits)
        patches = collate_patches([replace(row, media=media)], hidden)
        return predict_patches(model, patches, heads["mask"].vector, heads["decoder"]).detach()

    features, other = row.media.features, torch.randn(1, 64, config.vision.width)
    is_hidden = torch.from_numpy(hidden[0][0])[None, :, None]
    before = told(features, row.media.class_logits)
    assert before.shape == (1, 32, config.vision.width)
    assert torch.equal(told(torch.where(is_hidden, other, features), torch.randn(1, 1000)), before)
    assert not torch.allclose(told(torch.where(is_hidden, features, other), row.media.class_logits), before, atol=1e-6)


def test_it_is_learned(trainee) -> None:
    torch.manual_seed(0)
    patches = collate_patches(*laid(trainee, 0, 1, 2, 3))
    heads = PretrainHeads(trainee.config, masked_image=CONFIG).masked_image
    optimizer = torch.optim.AdamW([*heads.parameters(), *trainee.model.vision.parameters(),
                                   *trainee.model.connectors.parameters()], lr=3e-3)
    losses = []
    for _ in range(20):
        term = masked_image(trainee.model, patches, heads["mask"].vector, heads["decoder"], normalise=False)
        (term.total / term.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(term.total.detach()) / term.count)
    assert losses[-1] < 0.5 * losses[0]
