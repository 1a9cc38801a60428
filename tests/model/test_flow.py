"""The flow's torch modules on their own: pieces with a past against the whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minicpm_o.model.config import FlowConfig, FlowDecoderConfig, FlowEncoderConfig
from minicpm_o.model.flow_memory import DecoderMemory, EncoderMemory, empty_decoder_memory, empty_encoder_memory

torch = pytest.importorskip("torch")

from minicpm_o.model.outputs.flow import Flow, TorchFlow  # noqa: E402
from minicpm_o.model.outputs.flow_encoder import relative_positions, shift_to_keys  # noqa: E402

CONFIG = FlowConfig(
    vocab_size=30, speaker_width=9, mel_bins=5,
    encoder=FlowEncoderConfig(width=16, heads=2, ffn=20, layers=2, up_layers=1),
    decoder=FlowDecoderConfig(width=16, heads=2, head_width=6, layers=2),
)


@pytest.fixture(scope="module")
def flow():
    torch.manual_seed(0)
    module = Flow(CONFIG).eval()
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -0.4, 0.4)
    return module


def test_scores_of_distances_land_on_their_keys():
    """Query t of T among S keys: entry k must be the score of the distance (S - T + t) - k."""
    queries, keys = 3, 5
    distances = torch.arange(keys - 1, -keys, -1.0).expand(1, queries, -1)
    expected = torch.arange(keys - queries, keys)[:, None] - torch.arange(keys)
    assert (shift_to_keys(distances)[0] == expected).all()


def test_positions_are_mirrored():
    table = relative_positions(6, 8)
    assert table.shape == (11, 8)
    assert torch.allclose(table[:, 0::2], -table.flip(0)[:, 0::2]) and torch.allclose(table, table.flip(0).abs() *
                                                                                      table.sign(), atol=1e-6)


def extended(past, new):
    return replace(new, token_kv=torch.cat([past.token_kv, new.token_kv], dim=2),
                   frame_kv=torch.cat([past.frame_kv, new.frame_kv], dim=2))


def test_an_encoder_without_attention_hears_pieces_as_the_whole(flow):
    """The convolutions and their pasts alone: attention sees no future in a piece, so here its outputs are zeros."""
    import copy

    deaf = copy.deepcopy(flow)
    for layer in (*deaf.encoder.encoders, *deaf.encoder.up_encoders):
        torch.nn.init.zeros_(layer.self_attn.linear_out.weight)
    tokens, speaker = torch.arange(20), torch.ones(9)
    empty = empty_encoder_memory(CONFIG, torch.zeros)
    with torch.inference_mode():
        whole = deaf.encode(tokens, speaker, empty, last=True)
        first = deaf.encode(tokens[:11], speaker, empty, last=False)
        second = deaf.encode(tokens[8:], speaker, extended(empty, first.new), last=True)
    assert torch.allclose(torch.cat([first.mu, second.mu]), whole.mu, atol=1e-5)
    assert torch.allclose(second.new.upsampled, whole.new.upsampled, atol=1e-5)


def test_the_last_piece_sees_all_that_was(flow):
    """A first layer's keys depend on nothing later, so with one layer that attends the last piece is the whole's."""
    config = replace(CONFIG, encoder=replace(CONFIG.encoder, layers=1, up_layers=1))
    torch.manual_seed(1)
    shallow = Flow(config).eval()
    torch.nn.init.zeros_(shallow.encoder.up_encoders[0].self_attn.linear_out.weight)
    tokens, speaker = torch.arange(20), torch.ones(9)
    empty = empty_encoder_memory(config, torch.zeros)
    with torch.inference_mode():
        whole = shallow.encode(tokens, speaker, empty, last=True)
        first = shallow.encode(tokens[:11], speaker, empty, last=False)
        second = shallow.encode(tokens[8:], speaker, extended(empty, first.new), last=True)
    factor = config.encoder.up_factor
    settled = second.mu[factor * 2 :]  # the doubling's convolution looks back on frames of the first piece
    assert torch.allclose(settled, whole.mu[-len(settled) :], atol=1e-5)


def test_a_decoder_that_remembers_is_the_whole(flow):
    """Keys of the first block depend on nothing around, so with one block what follows is as in the whole."""
    config = replace(CONFIG, decoder=replace(CONFIG.decoder, layers=1))
    torch.manual_seed(2)
    shallow = Flow(config).eval()
    x, mu, cond = torch.randn(3, 2, 5, 12)
    t, voice = torch.tensor([0.1, 0.7]), torch.randn(2, 5)
    empty = empty_decoder_memory(config, torch.zeros)
    with torch.inference_mode():
        whole = shallow.estimate(x, mu, t, voice, cond, empty)
        first = shallow.estimate(x[..., :7], mu[..., :7], t, voice, cond[..., :7], empty)
        second = shallow.estimate(x[..., 7:], mu[..., 7:], t, voice, cond[..., 7:], first.new)
    ahead = second.velocity[..., 4:]  # the convolutions remember inputs that had seen less
    assert torch.allclose(ahead, whole.velocity[..., 11:], atol=1e-5)
    assert torch.allclose(torch.cat([first.new.kv, second.new.kv], dim=3), whole.new.kv, atol=1e-5)


def test_the_order_of_remembered_frames_does_not_matter(flow):
    x, mu, cond = torch.randn(3, 1, 5, 4)
    t, voice = torch.tensor([0.3]), torch.randn(1, 5)
    kv = torch.randn(2, 1, 2, 9, 12)
    conv = torch.randn(2, 2, 1, 2, 16)
    with torch.inference_mode():
        one, other = (flow.estimate(x, mu, t, voice, cond, DecoderMemory(conv, past)).velocity
                      for past in (kv, kv.flip(3)))
    assert torch.allclose(one, other, atol=1e-5)


def test_the_adapter_keeps_moments_apart_in_half_precision(flow):
    import copy

    network, half = TorchFlow(flow), TorchFlow(copy.deepcopy(flow).to(torch.bfloat16))
    rng = np.random.default_rng(0)
    x, mu, cond = rng.normal(size=(3, 2, 5, 6)).astype(np.float32)
    voice, memory = rng.normal(size=(2, 5)).astype(np.float32), empty_decoder_memory(
        CONFIG, lambda shape: np.zeros(shape, np.float32))
    t = np.full(2, 0.7071, np.float32)
    got, expected = (one.estimate(x, mu, t, voice, cond, memory).velocity for one in (half, network))
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() < 3e-2 * max(1.0, np.abs(expected).max())


def test_the_adapter_returns_memory_of_the_piece_alone(flow):
    network = TorchFlow(flow)
    empty = empty_encoder_memory(CONFIG, lambda shape: np.zeros(shape, np.float32))
    past = EncoderMemory(empty.lookahead, empty.upsampled, np.zeros((2, 2, 4, 16), np.float32),
                         np.zeros((1, 2, 8, 16), np.float32))
    out = network.encode(np.arange(10), np.ones(9, np.float32), past, last=False)
    assert out.new.token_kv.shape == (2, 2, 7, 16) and out.new.frame_kv.shape == (1, 2, 14, 16)
