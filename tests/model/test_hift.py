from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.checkpoints.voice_layout import hift_tensors
from minicpm_o.model.config import HiftConfig

torch = pytest.importorskip("torch")

from minicpm_o.model.outputs.hift import Hift, TorchHift, source_steps  # noqa: E402

TINY = HiftConfig(mel_bins=6, width=16, pitch_width=8, harmonics=3, up_rates=(4, 3, 2), up_kernels=(8, 7, 4),
                  block_kernels=(3, 5), block_dilations=((1, 3), (1, 2)))


@pytest.fixture
def network() -> TorchHift:
    torch.manual_seed(0)
    return TorchHift(Hift(TINY))


def test_names_and_shapes_of_the_released_vocoder() -> None:
    """328 tensors: the published list, whose names and shapes voice_layout keeps."""
    with torch.device("meta"):
        state = Hift(HiftConfig()).state_dict()
    assert len(state) == 328
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == hift_tensors(HiftConfig())
    assert sum(tensor.numel() for tensor in state.values()) == 20_821_295


def test_shapes(network: TorchHift, rng: np.random.Generator) -> None:
    mel = rng.standard_normal((6, 9), dtype=np.float32)
    samples = 9 * 4 * 3 * 2 * 4
    assert network.pitch(mel).shape == (9,) and (network.pitch(mel) >= 0).all()
    source = network.excite(rng.standard_normal((samples, 4), dtype=np.float32))
    assert source.shape == (samples,) and np.abs(source).max() <= 1
    waveform = network.decode(mel, source)
    assert waveform.shape == (samples,) and waveform.dtype == np.float32
    assert np.abs(waveform).max() <= np.float32(0.99)


def test_source_steps_bring_the_spectrum_to_each_level() -> None:
    assert source_steps((8, 5, 3)) == [15, 3, 1]
    assert source_steps((4, 2)) == [2, 1]


def test_a_frame_is_heard_near_its_time_alone(network: TorchHift, rng: np.random.Generator) -> None:
    mel = rng.standard_normal((6, 60), dtype=np.float32)
    source = 0.1 * rng.standard_normal(60 * 96, dtype=np.float32)
    other = mel.copy()
    other[:, 55] += 1
    difference = np.abs(network.decode(mel, source) - network.decode(other, source))
    assert difference[55 * 96:56 * 96].max() > 1e-6
    assert difference[:20 * 96].max() == 0


def test_half_precision_is_widened() -> None:
    assert TorchHift(Hift(TINY).half()).module.conv_pre.bias.dtype == torch.float32


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
