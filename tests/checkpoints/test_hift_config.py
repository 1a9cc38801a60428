from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.hift_config import find_hift, hift_config, hift_config_from_weights, open_hift
from minicpm_o.checkpoints.voice_layout import hift_tensors
from minicpm_o.errors import CheckpointError
from minicpm_o.model.config import HiftConfig

TINY = HiftConfig(mel_bins=6, width=16, pitch_width=8, harmonics=3)


def tiny_weights() -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in hift_tensors(TINY).items()}


def test_defaults_and_every_field() -> None:
    assert hift_config({}) == HiftConfig()
    fields = {"in_channels": 6, "base_channels": 16, "nb_harmonics": 3, "sampling_rate": 16000, "nsf_alpha": 0.2,
              "nsf_sigma": 0.1, "nsf_voiced_threshold": 5, "upsample_rates": [4, 2], "upsample_kernel_sizes": [8, 5],
              "istft_params": {"n_fft": 20, "hop_len": 5}, "resblock_kernel_sizes": [3],
              "resblock_dilation_sizes": [[1, 2]], "source_resblock_kernel_sizes": [7, 5],
              "source_resblock_dilation_sizes": [[1], [3]], "lrelu_slope": 0.2, "audio_limit": 0.9,
              "f0_predictor": {"cond_channels": 8}}
    assert hift_config(fields) == HiftConfig(
        mel_bins=6, width=16, harmonics=3, rate_hz=16000, source_gain=0.2, source_sigma=0.1, voiced_hz=5.0,
        up_rates=(4, 2), up_kernels=(8, 5), fft_samples=20, hop_samples=5, block_kernels=(3,),
        block_dilations=((1, 2),), source_kernels=(7, 5), source_dilations=((1,), (3,)), leak=0.2, limit=0.9,
        pitch_width=8)
    with pytest.raises(CheckpointError, match="does not describe a vocoder"):
        hift_config({"upsample_rates": 3})


def test_read_off_the_weights() -> None:
    assert hift_config_from_weights(tiny_weights()) == TINY
    with pytest.raises(CheckpointError, match="not a HiFT vocoder"):
        hift_config_from_weights({"weight": np.zeros(3)})
    causal = tiny_weights()
    causal["conv_pre.parametrizations.weight.original1"] = np.zeros((16, 6, 5))
    with pytest.raises(CheckpointError, match=r"causal vocoder.*hift_original\.pt"):
        hift_config_from_weights(causal)


@pytest.mark.parametrize("prefix", ["", "generator."])
def test_a_saved_file_with_and_without_its_prefix(tmp_path: Path, prefix: str) -> None:
    torch = pytest.importorskip("torch")
    saved = {prefix + name: torch.from_numpy(array) for name, array in tiny_weights().items()}
    torch.save(saved, tmp_path / "hift.pt")
    config, weights = open_hift(find_hift(tmp_path))
    assert config == TINY
    assert {name: weights[name].shape for name in weights} == hift_tensors(TINY)


def test_the_original_of_two_is_taken(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no assets/token2wav/hift\.pt"):
        find_hift(tmp_path)
    (tmp_path / "hift.pt").touch()
    assert find_hift(tmp_path).name == "hift.pt"
    (tmp_path / "hift_original.pt").touch()
    assert find_hift(tmp_path).name == "hift_original.pt"
