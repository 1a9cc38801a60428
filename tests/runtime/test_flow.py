"""The flow's steps and memory over networks of arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minicpm_o.errors import AudioError, CheckpointError, OptionError
from minicpm_o.model.config import FlowConfig, FlowDecoderConfig, FlowEncoderConfig
from minicpm_o.model.flow_memory import DecoderMemory, Encoded, EncoderMemory, Estimated
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.flow import (
    FlowPrompt,
    FlowSession,
    make_noise,
    noise_of,
    open_stream,
    read_tokens,
    step_times,
    tokens_to_mel,
)

CONFIG = FlowConfig(
    vocab_size=50, speaker_width=4, mel_bins=3, steps=5, cache_frames=6,
    encoder=FlowEncoderConfig(width=4, heads=1, layers=1, up_layers=1),
    decoder=FlowDecoderConfig(width=4, heads=1, head_width=1, layers=1),
)
PROMPT = FlowPrompt(np.arange(4), np.full((8, 3), 9, np.float32), np.ones(4, np.float32))


class Network:
    """Encoder: mu is the token, in every mel bin of its two frames. Estimator: the conditional velocity leads straight
    to mu in the time left; without conditions it is 1. Every frame leaves a number in memory, counting from 0."""

    config = CONFIG

    def __init__(self) -> None:
        self.frames = 0
        self.calls: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def encode(self, tokens, speaker, memory, *, last):
        settled = tokens if last else tokens[: -CONFIG.encoder.lookahead_tokens]
        mu = np.repeat(settled, 2)[:, None].repeat(3, 1).astype(np.float32)
        new = EncoderMemory(memory.lookahead, memory.upsampled,
                            settled.reshape(1, 1, -1, 1).repeat(8, -1).astype(np.float32),
                            mu[None, None, :, :1].repeat(8, -1))
        return Encoded(mu, np.full(3, 2, np.float32), new)

    def estimate(self, x, mu, t, voice, cond, memory):
        self.calls.append((t, voice, cond))
        assert not mu[1].any()
        with_mu = (mu[0] - x[0]) / (1 - t[0])
        velocity = np.stack([with_mu, np.ones_like(with_mu)])
        numbers = np.arange(self.frames, self.frames + x.shape[2], dtype=np.float32)
        return Estimated(velocity, DecoderMemory(memory.conv, np.tile(numbers[:, None], (1, 2, 1, 1, 2))))


def test_the_moments_are_close_at_first():
    times = step_times(10)
    assert times[0] == 0 and abs(times[-1] - 1) < 1e-6
    assert (np.diff(np.diff(times)) > 0).all()
    assert np.allclose(times, 1 - np.cos(np.pi / 20 * np.arange(11)), atol=1e-6)


def test_guidance_goes_beyond_the_condition_away_from_none():
    """One step: x + (1.7 * v - 0.7 * 1) with v = mu - x."""
    network, noise = Network(), np.full((3, 40), 0.5, np.float32)
    mel = tokens_to_mel(network, [7, 8], PROMPT, noise, steps=1)
    expected = 0.5 + 1.7 * (np.array([7, 7, 8, 8]) - 0.5) - 0.7
    assert np.allclose(mel, np.tile(expected, (3, 1)), atol=1e-5)


def test_conditions_are_given_once_and_once_not():
    network = Network()
    tokens_to_mel(network, [7, 8], PROMPT, make_noise(CONFIG, frames=40))
    assert len(network.calls) == CONFIG.steps
    for t, voice, cond in network.calls:
        assert t[0] == t[1] and voice.tolist() == [[2] * 3, [0] * 3]
        assert cond[0, 0].tolist() == [9] * 8 + [0] * 4 and not cond[1].any()


def read_all(network, pieces, noise, **options):
    state = open_stream(network, PROMPT, noise, **options)
    states = [state]
    network.frames = 8
    for tokens in pieces:
        _, state = read_tokens(network, tokens, state, noise)
        network.frames += 2 * (len(tokens) - 3)
        states.append(state)
    return states


def test_the_decoder_keeps_its_newest_frames_first_and_the_oldest_few():
    """Prompt of 8 frames (0 to 7), pieces of 4: the cut at 14 keeps the first 8 of [newest ... oldest] and 6."""
    states = read_all(Network(), [[1, 2, 3, 4, 5]] * 3, make_noise(CONFIG, frames=40))
    kept = [state.decoder[0].kv[0, 0, 0, :, 0].astype(int).tolist() for state in states]
    assert kept[0] == [*range(8)]
    assert kept[1] == [8, 9, 10, 11, *range(8)]
    assert kept[2] == [12, 13, 14, 15, 8, 9, 10, 11, *range(2, 8)]
    assert kept[3] == [16, 17, 18, 19, 12, 13, 14, 15, *range(2, 8)]
    assert [state.num_frames for state in states] == [8, 12, 14, 14]


def test_the_encoder_keeps_the_prompt_and_the_newest_few_unless_told_otherwise():
    pieces = [[10, 11, 12, 13, 14], [12, 13, 14, 15, 16], [14, 15, 16, 17, 18]]
    for cut, tokens in ((True, [0, 1, 2, 3, 13, 14, 15]), (False, [0, 1, 2, 3, 10, 11, 12, 13, 14, 15])):
        last = read_all(Network(), pieces, make_noise(CONFIG, frames=40), cut_encoder=cut)[-1]
        assert last.encoder.token_kv[..., 0].ravel().astype(int).tolist() == tokens
        assert last.encoder.frame_kv[..., 0].ravel().astype(int).tolist() == np.repeat(tokens, 2).tolist()


def test_a_state_is_a_snapshot():
    network, noise = Network(), make_noise(CONFIG, frames=40)
    state = open_stream(network, PROMPT, noise)
    before = [past.kv.copy() for past in state.decoder]
    first, _ = read_tokens(network, [5, 6, 7, 8], state, noise)
    again, _ = read_tokens(network, [5, 6, 7, 8], state, noise)
    assert (first == again).all()
    assert all((past.kv == kept).all() for past, kept in zip(state.decoder, before, strict=True))
    assert state.num_bytes == sum(kept.nbytes for kept in before) + 4 * 8 * (4 + 8)


def test_noise_is_the_same_for_a_seed_and_normal():
    noise = make_noise(CONFIG, seed=3, frames=5000)
    assert (noise == make_noise(CONFIG, seed=3, frames=5000)).all()
    assert not (noise == make_noise(CONFIG, seed=4, frames=5000)).any()
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05 and noise.dtype == np.float32


def test_a_piece_begins_where_the_memory_ends_in_the_noise():
    network = Network()
    noise = np.arange(120, dtype=np.float32).reshape(3, 40)
    assert noise_of(noise, 8, 2)[0].tolist() == [8, 9]
    state = open_stream(network, PROMPT, noise, steps=1)
    mel, _ = read_tokens(network, [0, 0, 0, 0], state, noise)  # mu 0: x + 1.7 * (0 - x) - 0.7
    assert np.allclose(mel, -0.7 * noise[:, 8:10] - 0.7, atol=1e-4)


def test_bad_input_is_refused_in_words():
    network, noise = Network(), make_noise(CONFIG, frames=40)
    state = open_stream(network, PROMPT, noise)
    with pytest.raises(OptionError, match="no speech tokens"):
        tokens_to_mel(network, [], PROMPT, noise)
    with pytest.raises(OptionError, match=r"speech tokens must lie within 0 and 49; these span 3 to 50"):
        tokens_to_mel(network, [3, 50], PROMPT, noise)
    with pytest.raises(OptionError, match="these span -1 to 4"):
        read_tokens(network, [4, 4, 4, -1], state, noise)
    with pytest.raises(OptionError, match="a piece of 3 speech tokens is all look-ahead"):
        read_tokens(network, [1, 2, 3], state, noise)
    with pytest.raises(OptionError, match="the noise has 40"):
        tokens_to_mel(network, [1] * 17, PROMPT, noise)
    with pytest.raises(OptionError, match="steps is 0"):
        open_stream(network, PROMPT, noise, steps=0)
    with pytest.raises(AudioError, match=r"mel has shape \(8, 3\); 3 speech tokens need \(6, 3\)"):
        open_stream(network, replace(PROMPT, tokens=np.arange(3)), noise)
    with pytest.raises(AudioError, match=r"speaker vector has shape \(5,\), expected \(4,\)"):
        tokens_to_mel(network, [1], replace(PROMPT, speaker=np.ones(5)), noise)
    short = FlowPrompt(np.arange(2), np.zeros((4, 3), np.float32), np.ones(4, np.float32))
    with pytest.raises(AudioError, match="2 speech tokens, a stream needs 3"):
        open_stream(network, short, noise)


def test_missing_graphs_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"flow_encoder\.onnx is missing"):
        FlowSession.from_folder(tmp_path, CONFIG, plan_device(threads=1))
