"""Masked frames: they cannot be heard, each token tells its own, and it is learned; official and nano."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from training_pairs import sound, tiny_trainee  # noqa: E402

from minicpm_o.inputs.messages import AudioPart, Message  # noqa: E402
from minicpm_o.model.config import tiny  # noqa: E402
from minicpm_o.model.fusion.spans import Span  # noqa: E402
from minicpm_o.model.omni import EncodedMedia, OmniModel, Sounds  # noqa: E402
from minicpm_o.training.heads import PretrainHeads  # noqa: E402
from minicpm_o.training.objectives.masked_audio import (  # noqa: E402
    MaskedAudioConfig,
    collate_frames,
    frames_per_token,
    hide_frames,
    masked_audio,
    predict_frames,
)
from minicpm_o.training.rows import NOT_LEARNED, Row  # noqa: E402

CONFIG = MaskedAudioConfig(share=0.4, span_ms=100)


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory):
    return tiny_trainee(tmp_path_factory.mktemp("home"))


def laid(trainee, *lengths: int):
    """A row for each sound of so many samples."""
    rows = [trainee.prompt([Message("user", (AudioPart(sound(number, length), 16_000),))])
            for number, length in enumerate(lengths)]
    per_token = frames_per_token(trainee.model)
    return rows, [hide_frames(row, CONFIG, np.random.default_rng(place), per_token=per_token)
                  for place, row in enumerate(rows)]


def test_stretches_are_hidden_where_tokens_reach(trainee) -> None:
    rows, hidden = laid(trainee, 16_000, 9_000)  # 100 frames, and 57, of which 5 tokens cover 50
    (long,), (short,) = hidden
    assert len(long) == 100 and 10 <= long.sum() <= 40
    assert len(short) == 57 and not short[50:].any()
    edges = np.flatnonzero(np.diff(np.pad(long, 1).astype(int)))
    assert min(edges[1::2] - edges[::2]) >= 10, "100 ms are ten frames"
    assert collate_frames(rows, hidden, per_token=10).count == long.sum() + short.sum()


def test_each_token_tells_its_own_frames(trainee) -> None:
    rows, hidden = laid(trainee, 16_000, 15_900)  # 100 and 99 frames: the last is filled up to ten tokens
    frames = collate_frames(rows, hidden, per_token=10)
    expected = np.concatenate([row.media.sounds[0].log_mels[0].T[own[0]] for row, own in
                               zip(rows, hidden, strict=True)])

    def head(states: torch.Tensor) -> torch.Tensor:
        assert states.shape == (10, 128)
        return torch.arange(100.0).view(10, 10, 1).expand(-1, -1, 80)

    predicted, wanted, names = predict_frames(trainee.model, frames, torch.zeros(80), head)
    np.testing.assert_array_equal(wanted.numpy(), expected)
    places = np.concatenate([np.flatnonzero(own[0]) for own in hidden])
    np.testing.assert_array_equal(predicted[:, 0].numpy(), places)
    assert len(names) == frames.count == len(places)


def test_a_hidden_frame_cannot_be_heard(trainee) -> None:
    rows, hidden = laid(trainee, 16_000)
    heads = PretrainHeads(trainee.config, masked_audio=CONFIG).masked_audio

    def told(where: np.ndarray) -> torch.Tensor:
        group = rows[0].media.sounds[0]
        log_mel = group.log_mels[0].copy()
        log_mel[:, where] = np.random.default_rng(9).standard_normal(log_mel[:, where].shape)
        row = replace(rows[0], media=replace(rows[0].media, sounds=(Sounds((log_mel,), group.spans),)))
        frames = collate_frames([row], hidden, per_token=10)
        return predict_frames(trainee.model, frames, heads["mask"].vector, heads["decoder"])[0].detach()

    before = told(np.zeros(100, bool))
    assert torch.equal(told(hidden[0][0]), before)
    assert not torch.allclose(told(~hidden[0][0]), before, atol=1e-5)


def test_sounds_of_one_message_are_told_end_to_end(trainee) -> None:
    parts = (AudioPart(sound(0, 16_000), 16_000), AudioPart(sound(1, 9_600), 16_000))
    row = trainee.prompt([Message("user", parts)])
    hidden = [hide_frames(row, CONFIG, np.random.default_rng(0), per_token=10)]
    frames = collate_frames([row], hidden, per_token=10)
    head = PretrainHeads(trainee.config, masked_audio=CONFIG).masked_audio["decoder"]
    predicted, wanted, _ = predict_frames(trainee.model, frames, torch.zeros(80), head)
    assert len(predicted) == frames.count and predicted.shape == wanted.shape
    expected = np.concatenate([log_mel.T[own] for log_mel, own in
                               zip(row.media.sounds[0].log_mels, hidden[0], strict=True)])
    np.testing.assert_array_equal(wanted.numpy(), expected)


def test_nano_hides_and_tells_the_frames_of_its_ears() -> None:
    config = tiny()
    model, heads = OmniModel(config), PretrainHeads(config, masked_audio=CONFIG).masked_audio
    ids = np.array([1, *[3] * 10, 4])
    own = torch.randn(50, config.hearing.width)

    def row(frames: torch.Tensor) -> Row:
        media = EncodedMedia(torch.empty(0), torch.empty(0), (), [frames], (Span(1, 11),))
        return Row(ids, np.full(len(ids), NOT_LEARNED), media)

    hidden = [hide_frames(row(own), CONFIG, np.random.default_rng(0), per_token=frames_per_token(model))]

    def told(frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        masked = collate_frames([row(frames)], hidden, per_token=frames_per_token(model))
        return predict_frames(model, masked, heads["mask"].vector, heads["decoder"])[:2]

    is_hidden = torch.from_numpy(hidden[0][0])[:, None]
    before, wanted = told(own)
    assert before.shape == wanted.shape == (int(is_hidden.sum()), config.hearing.width)
    torch.testing.assert_close(wanted.mean(-1), torch.zeros(len(wanted)), atol=1e-5, rtol=0)
    other = torch.randn_like(own)
    assert torch.equal(told(torch.where(is_hidden, other, own))[0], before)
    assert not torch.allclose(told(torch.where(is_hidden, own, other))[0], before, atol=1e-6)


def test_it_is_learned(trainee) -> None:
    torch.manual_seed(0)
    frames = collate_frames(*laid(trainee, 16_000, 9_600, 9_600), per_token=10)
    heads = PretrainHeads(trainee.config, masked_audio=CONFIG).masked_audio
    optimizer = torch.optim.AdamW([*heads.parameters(), *trainee.model.hearing.parameters(),
                                   *trainee.model.connectors.parameters()], lr=3e-3)
    losses = []
    for _ in range(15):
        term = masked_audio(trainee.model, frames, heads["mask"].vector, heads["decoder"])
        (term.total / term.count).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(term.total.detach()) / term.count)
    assert losses[-1] < 0.5 * losses[0]
