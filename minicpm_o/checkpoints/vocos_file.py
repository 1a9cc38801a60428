"""The vocoder's weights beside a checkpoint of 2.6: assets/Vocos.pt, read without PyTorch. Knows no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import CheckpointError
from .torch_legacy import read_state_dict

VOCOS_NAME = "assets/Vocos.pt"
USED_PREFIXES = ("backbone.", "head.")
"""The rest of the file (`feature_extractor.`) analyses sound in training; synthesis has no use for it."""


def read_vocos(folder: Path) -> dict[str, np.ndarray]:
    """Tensors of the vocoder by the names of PyPI vocos. Raises CheckpointError when the file is missing or damaged."""
    path = folder / VOCOS_NAME
    if not path.is_file():
        raise CheckpointError(f"the checkpoint lacks {VOCOS_NAME}, speech needs it; download the whole checkpoint, or "
                              f"load the model without speech")
    tensors = {name: tensor for name, tensor in read_state_dict(path).items() if name.startswith(USED_PREFIXES)}
    if not tensors:
        raise CheckpointError(f"{path} holds no vocoder (no tensor of {' or '.join(USED_PREFIXES)}); download it again")
    return tensors
