"""The vocoder's file beside a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.vocos_file import VOCOS_NAME, read_vocos
from minicpm_o.errors import CheckpointError


def test_what_synthesis_uses_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / VOCOS_NAME).parent.mkdir()
    bias = torch.arange(4.0)
    torch.save({"head.out.bias": bias, "feature_extractor.mel_spec.mel_scale.fb": bias, "backbone.norm.weight": bias},
               tmp_path / VOCOS_NAME)
    tensors = read_vocos(tmp_path)
    assert sorted(tensors) == ["backbone.norm.weight", "head.out.bias"]
    assert (tensors["head.out.bias"] == np.arange(4)).all() and tensors["head.out.bias"].dtype == np.float32
    torch.save({"feature_extractor.mel_spec.mel_scale.fb": bias}, tmp_path / VOCOS_NAME)
    with pytest.raises(CheckpointError, match="holds no vocoder"):
        read_vocos(tmp_path)


def test_a_checkpoint_without_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="lacks assets/Vocos.pt, speech needs it"):
        read_vocos(tmp_path)
    (tmp_path / VOCOS_NAME).parent.mkdir()
    (tmp_path / VOCOS_NAME).write_bytes(b"PK no zip file")
    with pytest.raises(CheckpointError):
        read_vocos(tmp_path)
