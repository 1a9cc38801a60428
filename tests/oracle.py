"""Golden tensors of the reference classes: where they lie, how they are read, how two arrays are compared.

MINICPM_O_ORACLE names a folder of cases; without it the small cases in tests/parity/golden are run. A case is a folder
whose name says what is in it (45_03_audio_encoder); every size is read from its config.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpm_o.checkpoints.official_config import config_from_official
from minicpm_o.model.config import OfficialConfig

VARIABLE = "MINICPM_O_ORACLE"
OURS = {"vpm.": "vision.", "apm.": "hearing.", "resampler.": "connectors.resampler.",
        "audio_projection_layer.": "connectors.projector.", "llm.": "language."}
"""Prefixes of the official names and of the network's."""
DUPLEX_TOKENS = {
    "unit_start": "<unit>", "unit_end": "</unit>", "image_start": "<image>", "image_end": "</image>",
    "slice_start": "<slice>", "slice_end": "</slice>", "listen": "<|listen|>", "speak": "<|speak|>",
    "tts_bos": "<|tts_bos|>", "tts_eos": "<|tts_eos|>", "chunk_eos": "<|chunk_eos|>",
    "chunk_tts_eos": "<|chunk_tts_eos|>", "turn_eos": "<|turn_eos|>", "im_end": "<|im_end|>",
}
GOLDEN = Path(__file__).parent / "parity" / "golden"


def oracle_root() -> Path:
    """Folder of the cases."""
    return Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else GOLDEN


def oracle_cases(*kinds: str) -> list[Any]:
    """Parameters for a test: every case whose folder's name ends in one of the kinds, or one that is skipped."""
    root = oracle_root()
    found = sorted(path for path in root.glob("*") if any(path.name.endswith(kind) for kind in kinds))
    if found:
        return [pytest.param(path, id=path.name) for path in found]
    reason = f"no case *{' or *'.join(kinds)} in {root.name}; set {VARIABLE} to a folder of golden tensors"
    return [pytest.param(root, id=kinds[0], marks=pytest.mark.skip(reason=reason))]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_config(case: Path) -> OfficialConfig:
    """The case's config.json as the package reads it."""
    return config_from_official(read_json(case / "config.json"), where=f"{case.name}/config.json")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def load_inputs(case: Path) -> dict[str, np.ndarray]:
    return read_tensors(case / "inputs.safetensors")


def load_outputs(case: Path) -> dict[str, np.ndarray]:
    return read_tensors(case / "outputs.safetensors")


def load_weights(case: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The case's weights whose names begin with prefix, which is cut off."""
    tensors = read_tensors(case / "weights.safetensors")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def torch_weights(case: Path, prefix: str = "") -> dict[str, Any]:
    """As load_weights, for load_state_dict."""
    import torch

    return {name: torch.from_numpy(tensor) for name, tensor in load_weights(case, prefix).items()}


def omni_weights(case: Path) -> dict[str, Any]:
    """The case's weights under the network's names, for OmniModel.load_state_dict."""
    return {ours + name: tensor for theirs, ours in OURS.items()
            for name, tensor in torch_weights(case, theirs).items()}


def duplex_tokens(ids: Mapping[str, int], bad: Iterable[int]) -> Any:
    """The steering tokens of a case, from its `special_ids` and `bad_token_ids`."""
    from minicpm_o.runtime.decide import DuplexTokens

    return DuplexTokens(**{name: ids[text] for name, text in DUPLEX_TOKENS.items()},
                        forbidden=(ids["<|tts_pad|>"], *bad), special=frozenset(ids.values()))


def assert_close(got: Any, expected: Any, atol: float, what: str) -> None:
    """Both of one shape, and no two numbers further apart than atol; the message says by how much they are."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    assert np.isfinite(difference).all(), f"{what}: holds NaN or infinite values"
    worst = float(difference.max(initial=0))
    assert worst <= atol, f"{what}: differs by up to {worst:.3g} (mean {difference.mean():.3g}), allowed {atol:g}"
