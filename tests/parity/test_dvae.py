"""2.6's DVAE against the reference class: codes to mel at full size, weights from a seeded recipe."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.model.config import DvaeConfig
from oracle import assert_close, load_inputs, load_outputs, oracle_cases, read_json

torch = pytest.importorskip("torch")

from minicpm_o.model.outputs.dvae import Dvae  # noqa: E402

PREFIX = "tts.dvae."
TO_CODES = re.compile(r"downsample_conv\.|encoder\.|vq_layer\.quantizer\.rvqs\.\d\.project_in\.")
"""Tensors of the way from mel to codes, which decoding does not use and the case leaves out."""


def recipe_weights(case: Path) -> dict[str, np.ndarray]:
    """The case's tensors, drawn as its recipe says, by name after the prefix."""
    tensors = {}
    for name, recipe in read_json(case / "weights_recipe.json").items():
        noise = np.random.RandomState(recipe["seed"]).standard_normal(int(np.prod(recipe["shape"])))
        values = recipe["offset"] + recipe["scale"] * noise
        tensors[name.removeprefix(PREFIX)] = values.astype(np.float32).reshape(recipe["shape"])
    return tensors


@pytest.mark.parametrize("case", oracle_cases("_06a_dvae_decode"))
def test_mel_as_the_reference(case: Path) -> None:
    expected = load_outputs(case)["mel"]
    module = Dvae(DvaeConfig(), mel_bins=expected.shape[0]).eval()
    weights = {name: torch.from_numpy(tensor) for name, tensor in recipe_weights(case).items()}
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert not unexpected and all(TO_CODES.match(name) for name in missing), (missing, unexpected)
    with torch.inference_mode():
        mel = module(torch.from_numpy(load_inputs(case)["codes"])[None])[0].numpy()
    assert_close(mel, expected, 1e-4, "mel")
    assert np.abs(mel - expected).max() <= 1e-4 * np.abs(expected).mean()
