"""The official hearing as a graph: the torch modules' numbers, whole = chunked, cached = uncached, rounding bounded."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.builder import pack_nbits, unpack_nbits
from minicpm_o.checkpoints.graphs.whisper import FILE_NAME, build_hearing
from minicpm_o.checkpoints.official_layout import expected_tensors
from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.model.config import OfficialConfig, WhisperEncoderConfig

CONFIG = WhisperEncoderConfig(mel_bins=8, width=32, heads=2, layers=2, ffn=128, max_frames=60, pool_step=5)
TOKEN_WIDTH = OfficialConfig(name="tiny").language.width
BLOCK_SIZE = 16
BLOCK = 10
"""Encoder frames of a chunk in these tests."""


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = expected_tensors(OfficialConfig(name="tiny", hearing=CONFIG))
    drawn = {}
    for name, shape in shapes.items():
        if name.startswith(("apm.", "audio_projection_layer.")):
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            drawn[name] = (centre + rng.normal(0, 0.2, shape)).astype(np.float32)
    return drawn


@pytest.fixture(scope="module")
def graphs(tmp_path_factory, weights, open_graph):
    """The graph in float32, 8 and 4 bits, as functions."""
    found = {}
    for bits in (None, 8, 4):
        folder = tmp_path_factory.mktemp(f"hearing_{bits}")
        build_hearing(weights, CONFIG, TOKEN_WIDTH, folder, bits=bits, block_size=BLOCK_SIZE)
        found[bits] = open_graph(folder / FILE_NAME)
    return found


def modules(weights):
    torch = pytest.importorskip("torch")
    from minicpm_o.model.encoders.audio_projector import PooledAudioProjector
    from minicpm_o.model.encoders.whisper import WhisperTower

    tower, projector = WhisperTower(CONFIG), PooledAudioProjector(CONFIG.width, TOKEN_WIDTH, CONFIG.pool_step)
    for module, prefix in ((tower, "apm."), (projector, "audio_projection_layer.")):
        module.load_state_dict({name.removeprefix(prefix): torch.from_numpy(tensor)
                                for name, tensor in weights.items() if name.startswith(prefix)})
    return tower.eval(), projector.eval()


def reference(weights, log_mel, bias):
    """Tokens and the keys and values of the torch modules."""
    torch = pytest.importorskip("torch")
    tower, projector = modules(weights)
    with torch.no_grad():
        hidden, presents = tower(torch.from_numpy(log_mel), torch.from_numpy(bias))
        return projector(hidden).numpy(), [[part.numpy() for part in pair] for pair in presents]


def rounded(weights, bits):
    """The weights as the graph keeps them."""
    matrices = ("_proj.weight", "fc1.weight", "fc2.weight", "linear1.weight", "linear2.weight")
    return {name: np.ascontiguousarray(unpack_nbits(*pack_nbits(tensor, bits, BLOCK_SIZE), bits, tensor.shape[1]))
            if name.endswith(matrices) else tensor for name, tensor in weights.items()}


def feeds(log_mel, *, bias=None, past=None, kept=None):
    """Inputs of a call; everything is kept and sees everything unless told otherwise."""
    batch = log_mel.shape[0]
    if past is None:
        nothing = np.zeros((batch, CONFIG.heads, 0, CONFIG.width // CONFIG.heads), np.float32)
        past = {f"past_{part}_{layer}": nothing for layer in range(CONFIG.layers) for part in "kv"}
    start = past["past_k_0"].shape[2]
    kept = np.arange((log_mel.shape[2] + 1) // 2) if kept is None else kept
    bias = np.zeros((1, 1, len(kept), start + len(kept)), np.float32) if bias is None else bias
    return {"log_mel": log_mel, "kept": kept, "positions": start + np.arange(len(kept)), "attention_bias": bias, **past}


def presents_as_past(outputs):
    return {name.replace("present", "past"): tensor for name, tensor in outputs.items() if name.startswith("present")}


def block_causal(frames):
    block = np.arange(frames) // BLOCK
    return np.where(block[None, :] > block[:, None], -1e9, 0).astype(np.float32)[None, None]


def assert_close(got, expected, bound, what):
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    error = np.abs(got - expected)
    assert error.max() <= bound, f"{what}: max {error.max():.2e}, mean {error.mean():.2e}, bound {bound:.1e}"


@pytest.fixture
def log_mel(rng):
    return rng.normal(size=(2, CONFIG.mel_bins, 6 * BLOCK + 3)).astype(np.float32)


def test_graph_is_the_modules(graphs, weights, log_mel):
    """A batch of two under a bias of its own each, odd number of mel frames, a tail that is dropped."""
    frames = (log_mel.shape[2] + 1) // 2
    bias = np.repeat(block_causal(frames), 2, axis=0)
    bias[0, :, :, 25:] = -1e9
    tokens, presents = reference(weights, log_mel, bias)
    outputs = graphs[None](feeds(log_mel, bias=bias))
    assert tokens.shape == (2, frames // CONFIG.pool_step, TOKEN_WIDTH)
    assert_close(outputs["tokens"], tokens, 1e-4 * max(1, np.abs(tokens).mean()), "tokens")
    for layer, (keys, values) in enumerate(presents):
        assert_close(outputs[f"present_k_{layer}"], keys, 1e-4, f"keys of layer {layer}")
        assert_close(outputs[f"present_v_{layer}"], values, 1e-4, f"values of layer {layer}")


@pytest.mark.parametrize("bits", [None, 8])
def test_whole_is_chunked(graphs, log_mel, bits):
    """Blocks with two mel frames of context each side and a cache, or the clip at once: the same tokens."""
    log_mel = log_mel[:1, :, :6 * BLOCK + 2]
    frames = log_mel.shape[2] // 2
    whole = graphs[bits](feeds(log_mel, bias=block_causal(frames)))["tokens"]
    past, parts = None, []
    for block in range(3):
        before = 2 if block else 0
        chunk = log_mel[:, :, 2 * BLOCK * block - before:2 * BLOCK * (block + 1) + 2]
        outputs = graphs[bits](feeds(chunk, past=past, kept=np.arange(BLOCK) + before // 2))
        past = presents_as_past(outputs)
        parts.append(outputs["tokens"])
    chunked = np.concatenate(parts, axis=1)
    # at 8 bits activations are rounded too, so the order of sums may move one by a level
    bound = 2e-5 * np.abs(whole).mean() if bits is None else 0.05 * whole.std()
    assert_close(chunked, whole[:, :chunked.shape[1]], bound, f"chunked, {bits} bits")


def test_without_the_cache_the_past_is_not_heard(graphs, log_mel):
    """The test above can fail."""
    first = graphs[None](feeds(log_mel[:1, :, :20]))
    with_past = graphs[None](feeds(log_mel[:1, :, 20:40], past=presents_as_past(first)))["tokens"]
    without = graphs[None](feeds(log_mel[:1, :, 20:40]))["tokens"]
    assert np.abs(with_past - without).max() > 0.01


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.03), (4, 0.3)])
def test_rounding_stays_within_bounds(graphs, weights, log_mel, bits, bound):
    """Against the modules with rounded weights, and against the unrounded ones within `bound` of the tokens' spread."""
    frames = (log_mel.shape[2] + 1) // 2
    bias = np.repeat(block_causal(frames), 2, axis=0)
    got = graphs[bits](feeds(log_mel, bias=bias))["tokens"]
    as_kept, _ = reference(rounded(weights, bits), log_mel, bias)
    exact, _ = reference(weights, log_mel, bias)
    rms = np.sqrt(np.square(got - as_kept).mean()) / exact.std()
    assert rms <= 0.03, f"{bits} bits, against rounded weights: {rms:.3f} of the spread"
    rms = np.sqrt(np.square(got - exact).mean()) / exact.std()
    assert rms <= bound, f"{bits} bits, against exact weights: {rms:.3f} of the spread, allowed {bound}"


def test_positions_may_repeat(graphs, log_mel):
    inputs = feeds(log_mel[:1, :, :20])
    last = CONFIG.max_frames - 1
    inputs["positions"] = np.minimum(last - 3 + np.arange(10), last)
    assert np.isfinite(graphs[None](inputs)["tokens"]).all()


def test_what_cannot_be_built_is_refused(tmp_path, weights):
    for lost in ("apm.conv2.bias", "apm.layers.1.fc2.weight", "audio_projection_layer.linear2.bias"):
        short = {name: tensor for name, tensor in weights.items() if name != lost}
        with pytest.raises(CheckpointError, match=lost):
            build_hearing(short, CONFIG, TOKEN_WIDTH, tmp_path)
    with pytest.raises(CheckpointError, match=r"linear1\.weight.*shape"):
        build_hearing(weights, CONFIG, TOKEN_WIDTH + 1, tmp_path)
    with pytest.raises(OptionError, match="4 or 8 bits"):
        build_hearing(weights, CONFIG, TOKEN_WIDTH, tmp_path, bits=3)
    assert not list(tmp_path.iterdir())
