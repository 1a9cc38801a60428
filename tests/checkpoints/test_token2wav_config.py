from __future__ import annotations

from dataclasses import replace

import pytest

from minicpm_o.checkpoints.token2wav_config import flow_config, flow_config_from_shapes
from minicpm_o.errors import CheckpointError
from minicpm_o.model.config import FlowConfig, FlowDecoderConfig, FlowEncoderConfig

ODD = FlowConfig(
    vocab_size=70, speaker_width=11, mel_bins=7,
    encoder=FlowEncoderConfig(width=24, heads=3, ffn=40, layers=2, up_layers=1, lookahead_tokens=2, up_factor=3),
    decoder=FlowDecoderConfig(width=20, heads=3, head_width=5, layers=3, mlp_ratio=2.5, cfg_rate=0.5),
)
YAML = """flow: !new:some.package.Flow
    decoder: !new:some.package.Decoder
        inference_cfg_rate: 0.5
        estimator: !new:some.package.Estimator
            depth: 16
"""


@pytest.fixture(scope="module")
def shapes():
    torch = pytest.importorskip("torch")
    from minicpm_o.model.outputs.flow import Flow

    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Flow(ODD).state_dict().items()}


def test_shapes_and_the_yaml_say_it_all(shapes):
    assert flow_config_from_shapes(shapes, YAML) == ODD
    assert flow_config_from_shapes(shapes) == replace(ODD, decoder=replace(ODD.decoder, cfg_rate=0.7))


def test_another_files_shapes_are_refused(shapes):
    with pytest.raises(CheckpointError, match="input_embedding"):
        flow_config_from_shapes({"conv_pre.weight": (512, 80, 7)})
    with pytest.raises(CheckpointError, match="q_norm"):
        flow_config_from_shapes({name: shape for name, shape in shapes.items() if "q_norm" not in name})


def test_a_dictionary_says_what_differs_from_the_release():
    assert flow_config({}) == FlowConfig()
    got = flow_config({"flow": {"vocab_size": 300}, "encoder": {"num_up_blocks": 1}, "decoder": {"depth": 2},
                       "n_timesteps": 5, "cache_limit_after_prompt_frames": 60})
    base = FlowConfig()
    assert got == replace(base, vocab_size=300, steps=5, cache_frames=60, encoder=replace(base.encoder, up_layers=1),
                          decoder=replace(base.decoder, layers=2))
    with pytest.raises(CheckpointError, match="damaged"):
        flow_config({"flow": {"vocab_size": "many"}})
