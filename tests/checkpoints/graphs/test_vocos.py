"""The graph from mel to waveform against the torch network."""

from __future__ import annotations

import numpy as np
import pytest
from chattts_tiny import VOCOS, arrays, vocos_module

from minicpm_o.checkpoints.graphs.vocos import build_vocos, fourier_waves
from minicpm_o.errors import CheckpointError
from minicpm_o.runtime.chattts_sessions import VocosSession
from minicpm_o.runtime.device import plan_device
from oracle import assert_close

MEL = np.random.default_rng(0).standard_normal((VOCOS.mel_bins, 13)).astype(np.float32)
BOUND = {None: 1e-4, 8: 0.05, 4: 0.5}
"""Largest difference, as a share of the largest sample."""


@pytest.fixture(scope="module")
def module():
    return vocos_module()


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("num_frames", [1, 2, 13])
def test_graph_is_the_network(bits, num_frames, module, tmp_path) -> None:
    from minicpm_o.model.outputs.vocos import TorchVocos

    build_vocos(arrays(module), VOCOS, bits=bits, block_size=16, folder=tmp_path)
    mel = MEL[:, :num_frames]
    waveform = VocosSession.from_folder(tmp_path, plan_device(threads=1))(mel)
    expected = TorchVocos(module)(mel)
    assert waveform.shape == (num_frames * VOCOS.hop_samples,)
    assert_close(waveform, expected, BOUND[bits] * float(np.abs(expected).max()), f"waveform, bits {bits}")


def test_waves_are_the_inverse_transform() -> None:
    spectrum = np.random.default_rng(1).standard_normal((33, 2)) @ np.array([1, 1j])
    parts = np.concatenate([spectrum.real, spectrum.imag])
    assert_close(parts @ fourier_waves(64), np.fft.irfft(spectrum), 1e-12, "a frame")


def test_what_cannot_be_built_is_refused(module, tmp_path) -> None:
    weights = arrays(module)
    del weights["head.istft.window"]
    with pytest.raises(CheckpointError, match=r"head\.istft\.window"):
        build_vocos(weights, VOCOS, bits=None, block_size=16, folder=tmp_path)
