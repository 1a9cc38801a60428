"""The flow's graphs against its torch modules: single calls, and whole sounds and streams through them."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.flow import FILE_NAMES, build_flow
from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.model.config import FlowConfig, FlowDecoderConfig, FlowEncoderConfig
from minicpm_o.model.flow_memory import DecoderMemory, EncoderMemory, empty_encoder_memory
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.flow import FlowPrompt, FlowSession, make_noise, open_stream, read_tokens, tokens_to_mel

# The decoder is so wide that its norms' vectors are large tensors, of which a graph may not hold two of one name.
CONFIG = FlowConfig(
    vocab_size=40, speaker_width=10, mel_bins=6, steps=4, chunk_tokens=5, cache_frames=8,
    encoder=FlowEncoderConfig(width=32, heads=4, ffn=48, layers=2, up_layers=1),
    decoder=FlowDecoderConfig(width=256, heads=3, head_width=16, layers=2, mlp_ratio=2.5),
)
BLOCK = 16


@pytest.fixture(scope="module")
def module():
    torch = pytest.importorskip("torch")
    from minicpm_o.model.outputs.flow import Flow

    torch.manual_seed(0)
    module = Flow(CONFIG).eval()
    for name, parameter in module.named_parameters():
        bound = 0.08 if name.startswith("decoder") else 0.25
        torch.nn.init.uniform_(parameter, -bound, bound)
        if "norm" in name and name.endswith("weight"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return module


@pytest.fixture(scope="module")
def weights(module):
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory, weights):
    found = {}
    for bits in (None, 8, 4):
        folder = tmp_path_factory.mktemp(f"flow_{bits}")
        build_flow(weights, CONFIG, bits=bits, block_size=BLOCK, folder=folder)
        assert sorted(path.name for path in folder.iterdir()) == sorted(
            [*FILE_NAMES, *(f"{name}.data" for name in FILE_NAMES)])
        found[bits] = FlowSession.from_folder(folder, CONFIG, plan_device(threads=1))
    return found


@pytest.fixture(scope="module")
def twin(module):
    from minicpm_o.model.outputs.flow import TorchFlow

    return TorchFlow(module)


@pytest.fixture
def prompt(rng):
    return FlowPrompt(rng.integers(0, 40, 6), rng.normal(size=(12, 6)).astype(np.float32),
                      rng.normal(size=10).astype(np.float32))


def assert_same(got, expected, bound, what):
    assert got.shape == expected.shape, what
    error = np.abs(got - expected)
    assert error.max(initial=0) <= bound, f"{what}: max {error.max():.2e}, mean {error.mean():.2e}, bound {bound:.0e}"


@pytest.mark.parametrize(("past", "last"), [(0, True), (0, False), (7, False), (7, True)])
def test_the_encoder_is_the_module(sessions, twin, rng, past, last):
    shape = CONFIG.encoder
    memory = EncoderMemory(*(rng.normal(size=size).astype(np.float32) for size in (
        (1, 2, 32), (1, 4, 32), (shape.layers, 4, past, 16), (shape.up_layers, 4, 2 * past, 16))))
    tokens, speaker = rng.integers(0, 40, 9), rng.normal(size=10).astype(np.float32)
    got, expected = (network.encode(tokens, speaker, memory, last=last) for network in (sessions[None], twin))
    assert got.mu.shape == (18 if last else 12, 6)
    assert_same(got.mu, expected.mu, 1e-5, "mu")
    assert_same(got.voice, expected.voice, 1e-6, "voice")
    for name in ("lookahead", "upsampled", "token_kv", "frame_kv"):
        assert_same(getattr(got.new, name), getattr(expected.new, name), 2e-5, name)


@pytest.mark.parametrize(("past", "frames", "batch"), [(0, 9, 2), (11, 4, 2), (3, 1, 1)])
def test_the_decoder_is_the_module(sessions, twin, rng, past, frames, batch):
    shape = CONFIG.decoder
    x, mu, cond = rng.normal(size=(3, batch, 6, frames)).astype(np.float32)
    t, voice = rng.random(batch).astype(np.float32), rng.normal(size=(batch, 6)).astype(np.float32)
    memory = DecoderMemory(rng.normal(size=(shape.layers, 2, batch, 2, shape.width)).astype(np.float32),
                           rng.normal(size=(shape.layers, batch, 3, past, 32)).astype(np.float32))
    got, expected = (network.estimate(x, mu, t, voice, cond, memory) for network in (sessions[None], twin))
    assert_same(got.velocity, expected.velocity, 5e-5, "velocity")
    assert_same(got.new.conv, expected.new.conv, 5e-5, "convolutions' past")
    assert_same(got.new.kv, expected.new.kv, 5e-5, "keys and values")


def speak(network, prompt):
    """A whole sound, and the same tokens as a stream long enough to be cut."""
    tokens, noise = np.random.default_rng(7).integers(0, 40, 23), make_noise(CONFIG, frames=100)
    pieces = [tokens_to_mel(network, tokens, prompt, noise)]
    state = open_stream(network, prompt, noise)
    for start in range(0, 20, 5):
        mel, state = read_tokens(network, tokens[start : start + 8], state, noise, last=start == 15)
        pieces.append(mel)
    return np.concatenate(pieces, axis=1)


# Rounding moves each mel value by some hundredths (8 bits) or tenths (4 bits) of their spread; stated: mean, worst.
@pytest.mark.parametrize(("bits", "mean", "worst"), [(None, 1e-5, 1e-4), (8, 0.03, 0.2), (4, 0.25, 1.5)])
def test_sounds_through_the_graphs_are_the_modules(sessions, twin, prompt, bits, mean, worst):
    expected = speak(twin, prompt)
    error = np.abs(speak(sessions[bits], prompt) - expected) / expected.std()
    assert error.mean() <= mean and error.max() <= worst, f"{bits} bits: max {error.max():.2e}, mean {error.mean():.2e}"


def test_a_speaker_of_zeros_is_not_a_division_by_zero(sessions, twin):
    memory = empty_encoder_memory(CONFIG, lambda shape: np.zeros(shape, np.float32))
    got, expected = (network.encode(np.array([1]), np.zeros(10, np.float32), memory, last=True)
                     for network in (sessions[None], twin))
    assert_same(got.voice, expected.voice, 1e-6, "voice")


@pytest.mark.parametrize("name", ["encoder.up_encoders.0.self_attn.linear_pos.weight", "input_embedding.weight",
                                  "decoder.estimator.blocks.1.conv.block.6.weight",
                                  "decoder.estimator.final_layer.linear.bias"])
def test_absent_tensors_are_named(tmp_path, weights, name):
    rest = {key: array for key, array in weights.items() if key != name}
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        build_flow(rest, CONFIG, bits=None, block_size=BLOCK, folder=tmp_path)


def test_bits_that_cannot_be_run_are_refused(tmp_path, weights):
    with pytest.raises(OptionError, match="bits"):
        build_flow(weights, CONFIG, bits=5, block_size=BLOCK, folder=tmp_path)
    assert not list(tmp_path.iterdir())
