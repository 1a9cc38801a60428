"""Vocos against PyPI vocos 0.1.0, and the joining of two waveforms against the reference's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.model.config import VocosConfig
from minicpm_o.runtime.chattts import overlap_add
from oracle import assert_close, load_inputs, load_outputs, oracle_cases, read_json, torch_weights

CASES = oracle_cases("_06b_vocos")


def vocos_config(case: Path) -> VocosConfig:
    values = read_json(case / "config.json")
    return VocosConfig(mel_bins=values["input_channels"], width=values["dim"], ffn=values["intermediate_dim"],
                       layers=values["num_layers"], fft_samples=values["n_fft"], hop_samples=values["hop_length"])


@pytest.mark.parametrize("case", CASES)
def test_waveform_as_the_reference(case: Path) -> None:
    torch = pytest.importorskip("torch")
    from minicpm_o.model.outputs.vocos import Vocos

    inputs, outputs = load_inputs(case), load_outputs(case)
    module = Vocos(vocos_config(case)).eval()
    module.load_state_dict(torch_weights(case))
    with torch.inference_mode():
        hidden = module.backbone(torch.from_numpy(inputs["mel"])[None])
        waveform = module.head(hidden)
    assert_close(hidden[0].numpy(), outputs["backbone"], 1e-4, "backbone")
    assert_close(waveform[0].numpy(), outputs["wav"], 1e-4, "waveform")
    assert np.abs(waveform[0].numpy() - outputs["wav"]).max() <= 1e-4 * np.abs(outputs["wav"]).mean()


@pytest.mark.parametrize("case", CASES)
def test_overlap_add_as_the_reference(case: Path) -> None:
    inputs, outputs = load_inputs(case), load_outputs(case)
    frames = inputs["overlap.frame0"], inputs["overlap.frame1"]
    overlap = sum(map(len, frames)) - len(outputs["overlap.first"]) - len(outputs["overlap.second"])
    first, second = overlap_add(*frames, overlap)
    assert_close(first, outputs["overlap.first"], 1e-5, "up to the end of the first waveform")
    assert_close(second, outputs["overlap.second"], 1e-5, "the rest")
