"""The network in torch: a tree of questions = each question alone; the encoders look where they may."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.model.config import tiny  # noqa: E402
from minicpm_o.model.encoders.hearing import HearingEncoder, block_causal_bias  # noqa: E402
from minicpm_o.model.encoders.resampler import Resampler  # noqa: E402
from minicpm_o.model.encoders.vision import EfficientNetLite  # noqa: E402
from minicpm_o.model.fusion.spans import Span  # noqa: E402
from minicpm_o.model.omni import EncodedMedia, OmniModel, tree_bias  # noqa: E402
from minicpm_o.rates import UNIT_ENCODER_FRAMES, UNIT_MEL_FRAMES  # noqa: E402


@pytest.fixture
def model() -> OmniModel:
    torch.manual_seed(0)
    return OmniModel(tiny(), marker_ids=(3, 4, 5, 6, 7, 8, 9)).eval()


def nothing() -> EncodedMedia:
    return EncodedMedia(torch.empty(0), torch.empty(0), (), (), ())


def test_a_tree_answers_as_each_branch_alone(model: OmniModel) -> None:
    trunk, branches = [1, 20, 21, 22], [[30, 31, 32], [40, 41]]
    ids = torch.tensor(trunk + branches[0] + branches[1])
    segments = torch.tensor([[0] * 4 + [1] * 3 + [2] * 2])
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 4, 5]])
    everything = torch.ones_like(segments, dtype=torch.bool)
    tree = model(model.embed(ids)[None], positions, tree_bias(segments), everything)
    for branch, start in zip(branches, (4, 7), strict=True):
        alone_ids = torch.tensor(trunk + branch)
        zeros = torch.zeros(1, len(alone_ids), dtype=torch.long)
        alone = model(
            model.embed(alone_ids)[None],
            torch.arange(len(alone_ids))[None],
            tree_bias(zeros),
            torch.ones_like(zeros, dtype=torch.bool),
        )
        torch.testing.assert_close(tree[start : start + len(branch)], alone[4:], atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing(model: OmniModel) -> None:
    ids = torch.tensor([1, 20, 21])
    segments = torch.tensor([[0, 0, 0], [0, 0, -1]])
    embeds = torch.stack([model.embed(ids), model.embed(ids)])
    embeds[1, 2] = 99.0
    positions = torch.arange(3).expand(2, 3)
    logits = model(embeds, positions, tree_bias(segments), segments >= 0)
    torch.testing.assert_close(logits[:2], logits[3:], atol=1e-5, rtol=1e-4)


def test_media_land_in_their_spans(model: OmniModel) -> None:
    config, queries = model.config, model.config.resampler.num_tokens
    cells = config.vision.grid**2
    media = EncodedMedia(
        features=torch.randn(1, cells, config.vision.width),
        class_logits=torch.randn(1, config.vision.num_classes),
        image_spans=(Span(1, 1 + queries),),
        frames=[torch.randn(UNIT_ENCODER_FRAMES, config.hearing.width)],
        audio_spans=(Span(2 + queries, 12 + queries),),
    )
    ids = torch.full((14 + queries,), 9)
    fused = model.fuse([ids], [media])[0]
    image = model.connectors.resampler(media.features, media.class_logits)[0]
    sound = model.connectors.projector(media.frames[0][None])[0]
    torch.testing.assert_close(fused[1 : 1 + queries], image)
    torch.testing.assert_close(fused[2 + queries : 12 + queries], sound)
    torch.testing.assert_close(fused[0], model.connectors.markers.weight[6])


def test_pictures_alone_are_pictures_in_a_batch(model: OmniModel) -> None:
    resampler: Resampler = model.connectors.resampler
    features = torch.randn(3, model.config.vision.grid**2, model.config.vision.width)
    logits = torch.randn(3, model.config.vision.num_classes)
    together = resampler(features, logits)
    assert together.shape == (3, model.config.resampler.num_tokens, model.config.language.width)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], resampler(features[i : i + 1], logits[i : i + 1]))


@pytest.mark.parametrize(("variant", "pixels", "grid"), [("lite0", 224, 7), ("lite0", 256, 8), ("lite2", 260, 9)])
def test_the_eye_gives_a_square_grid(variant: str, pixels: int, grid: int) -> None:
    eye = EfficientNetLite(variant).eval()
    with torch.inference_mode():
        assert eye(torch.zeros(1, 3, pixels, pixels)).shape == (1, grid * grid, 1280)


def test_what_was_heard_does_not_change_with_what_follows() -> None:
    torch.manual_seed(1)
    ear = HearingEncoder(tiny().hearing).eval()
    mel = torch.randn(1, 80, 3 * UNIT_MEL_FRAMES)
    longer = mel.clone()
    longer[:, :, 2 * UNIT_MEL_FRAMES :] = 7.0
    bias = block_causal_bias(3 * UNIT_ENCODER_FRAMES, UNIT_ENCODER_FRAMES)
    heard, again = ear(mel, bias), ear(longer, bias)
    # Whisper's convolutions look one mel frame ahead: only a block's last frame may feel the next block.
    kept = 2 * UNIT_ENCODER_FRAMES - 1
    first = UNIT_ENCODER_FRAMES
    torch.testing.assert_close(heard[:, :first], again[:, :first])
    assert not torch.allclose(heard[:, kept + 1 :], again[:, kept + 1 :])
