"""The graph from codes to mel against the torch network."""

from __future__ import annotations

import numpy as np
import pytest
from chattts_tiny import VOICE, arrays, voice_module

from minicpm_o.checkpoints.graphs.dvae import build_dvae, code_values
from minicpm_o.errors import CheckpointError
from minicpm_o.model.config import DvaeConfig
from minicpm_o.runtime.chattts_sessions import DvaeSession
from minicpm_o.runtime.device import plan_device
from oracle import assert_close

CODES = np.random.default_rng(0).integers(0, VOICE.audio_eos, (11, VOICE.num_codebooks))
BOUND = {None: 1e-4, 8: 0.02, 4: 0.2}
"""Largest difference, as a share of the largest number of the mel."""


@pytest.fixture(scope="module")
def module():
    return voice_module()


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_graph_is_the_network(bits, module, tmp_path) -> None:
    from minicpm_o.model.outputs.chattts import TorchChatTTS

    build_dvae(arrays(module, "dvae."), VOICE, bits=bits, block_size=16, folder=tmp_path)
    mel = DvaeSession.from_folder(tmp_path, plan_device(threads=1))(CODES)
    expected = TorchChatTTS(module).mel(CODES)
    assert mel.shape == (VOICE.mel_bins, 2 * len(CODES))
    assert_close(mel, expected, BOUND[bits] * float(np.abs(expected).max()), f"mel, bits {bits}")


def test_the_way_to_codes_is_not_needed(module, tmp_path) -> None:
    weights = {name: array for name, array in arrays(module, "dvae.").items()
               if not name.startswith(("encoder.", "downsample_conv."))}
    build_dvae(weights, VOICE, bits=None, block_size=16, folder=tmp_path)
    del weights["vq_layer.quantizer.rvqs.1.project_out.bias"]
    with pytest.raises(CheckpointError, match=r"rvqs\.1\.project_out\.bias"):
        build_dvae(weights, VOICE, bits=None, block_size=16, folder=tmp_path)


def test_codes_name_the_points_of_a_grid() -> None:
    values = code_values(DvaeConfig())
    assert values.shape == (625, 4) and len(np.unique(values, axis=0)) == 625
    assert values[0].tolist() == [-1, -1, -1, -1] and values[312].tolist() == [0, 0, 0, 0]
    assert values[1].tolist() == [-0.5, -1, -1, -1] and values[125].tolist() == [-1, -1, -1, -0.5]
