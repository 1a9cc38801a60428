from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.hift import DECODE_FILE, EXCITE_FILE, FILE_NAMES, PITCH_FILE, build_hift
from minicpm_o.errors import CheckpointError
from minicpm_o.model.config import HiftConfig
from oracle import assert_close

torch = pytest.importorskip("torch")

from minicpm_o.model.outputs.hift import Hift, TorchHift  # noqa: E402

TINY = HiftConfig(mel_bins=6, width=16, pitch_width=8, harmonics=3)
FEWER = HiftConfig(mel_bins=6, width=16, pitch_width=8, harmonics=3, up_rates=(4, 2), up_kernels=(8, 4),
                   source_kernels=(7, 11), source_dilations=((1, 3), (1, 2)), block_kernels=(3, 5),
                   block_dilations=((1, 3), (1, 2)), fft_samples=20, hop_samples=5)


def module_of(config: HiftConfig) -> Hift:
    """A random vocoder whose outputs are as large as a trained one's."""
    torch.manual_seed(0)
    module = Hift(config)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if name.endswith("alpha"):
                tensor.uniform_(0.3, 1.5)
        module.f0_predictor.classifier.weight.mul_(300)
    return module


@pytest.mark.parametrize("config", [TINY, FEWER], ids=["released rates", "other rates"])
def test_graphs_equal_torch(config: HiftConfig, tmp_path: Path, open_graph, rng: np.random.Generator) -> None:
    module = module_of(config)
    weights = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    build_hift(weights, config, folder=tmp_path)
    assert all((tmp_path / name).is_file() for name in FILE_NAMES)
    network = TorchHift(module)
    pitch, excite, decode = (open_graph(tmp_path / name) for name in (PITCH_FILE, EXCITE_FILE, DECODE_FILE))
    samples = int(np.prod(config.up_rates)) * config.hop_samples
    for frames in (1, 7, 20):
        mel = rng.standard_normal((6, frames), dtype=np.float32)
        harmonics = rng.standard_normal((frames * samples, 4), dtype=np.float32)
        source = network.excite(harmonics)
        assert_close(pitch({"mel": mel[None]})["pitch"][0], network.pitch(mel), 1e-3, "pitch in Hz")
        assert_close(excite({"harmonics": harmonics[None]})["source"][0], source, 1e-6, "source")
        got = decode({"mel": mel[None], "source": source[None]})["waveform"][0]
        expected = network.decode(mel, source)
        assert np.abs(expected).max() > 0.01
        assert_close(got, expected, 1e-4, f"waveform of {frames} frames")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    weights = {name: tensor.detach().numpy() for name, tensor in module_of(TINY).state_dict().items()}
    with pytest.raises(CheckpointError, match=r"conv_pre.*\(16,\)"):
        build_hift(weights, HiftConfig(mel_bins=6, width=32, pitch_width=8, harmonics=3), folder=tmp_path)
