"""token2wav's flow against the reference: offline, one call of the estimator, and both kinds of stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpm_o.checkpoints.token2wav_config import flow_config, flow_config_from_shapes
from minicpm_o.model.flow_memory import empty_decoder_memory
from minicpm_o.runtime.flow import FlowPrompt, FlowState, open_stream, read_tokens, tokens_to_mel
from oracle import assert_close, load_inputs, load_outputs, oracle_cases, read_json, torch_weights

pytest.importorskip("torch")
from minicpm_o.model.outputs.flow import Flow, TorchFlow

VELOCITY_ATOL = 5e-4
"""Of the estimator at random weights: processors sum in another order, of which its layers make up to 3e-4."""
CASES = oracle_cases("_06a_token2wav_flow")
HIDDEN_ATOL, MEL_ATOL = 1e-4, 5e-4


@dataclass
class Recording:
    """A network that keeps what its encoder says."""

    network: TorchFlow
    mus: list[np.ndarray] = field(default_factory=list)

    @property
    def config(self) -> Any:
        return self.network.config

    def encode(self, *args: Any, **kwargs: Any) -> Any:
        out = self.network.encode(*args, **kwargs)
        self.mus.append(out.mu)
        return out

    def estimate(self, *args: Any) -> Any:
        return self.network.estimate(*args)


def network_of(case: Path) -> Recording:
    module = Flow(flow_config(read_json(case / "config.json")))
    module.load_state_dict(torch_weights(case))
    return Recording(TorchFlow(module))


def prompt_of(inputs: dict[str, np.ndarray]) -> FlowPrompt:
    return FlowPrompt(inputs["prompt_token"], inputs["prompt_feat"], inputs["spk"])


@pytest.mark.parametrize("case", CASES)
def test_the_shapes_say_what_the_config_says(case: Path) -> None:
    expected = flow_config(read_json(case / "config.json"))
    found = flow_config_from_shapes({name: tensor.shape for name, tensor in torch_weights(case).items()})
    assert (found.vocab_size, found.speaker_width, found.mel_bins) == (
        expected.vocab_size, expected.speaker_width, expected.mel_bins)
    assert found.encoder == expected.encoder
    assert found.decoder.to_dict() | {"cfg_rate": 0} == expected.decoder.to_dict() | {"cfg_rate": 0}


@pytest.mark.parametrize("case", CASES)
def test_offline(case: Path) -> None:
    network, inputs, outputs = network_of(case), load_inputs(case), load_outputs(case)
    mel = tokens_to_mel(network, inputs["token"], prompt_of(inputs), inputs["rand_noise"])
    assert_close(network.mus[0], outputs["offline.mu"], HIDDEN_ATOL, "mu")
    assert_close(mel, outputs["offline.mel"], MEL_ATOL, "mel")


@pytest.mark.parametrize("case", CASES)
def test_estimator(case: Path) -> None:
    network, inputs = network_of(case), load_inputs(case)
    x, mu, t, voice, cond = (inputs[f"estimator.{name}"] for name in ("x", "mu", "t", "spk", "cond"))
    memory = empty_decoder_memory(network.config, lambda shape: np.zeros(shape, np.float32), batch=len(x))
    got = network.estimate(x, mu, t, voice, cond, memory)
    assert_close(got.velocity, load_outputs(case)["estimator.out"], VELOCITY_ATOL, "velocity")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("variant", "cut_encoder"), [("stream", False), ("stream107", True)])
def test_stream(case: Path, variant: str, cut_encoder: bool) -> None:
    network, inputs, outputs = network_of(case), load_inputs(case), load_outputs(case)
    noise = inputs["rand_noise"]
    state = open_stream(network, prompt_of(inputs), noise, cut_encoder=cut_encoder)
    assert_close(network.mus[0], outputs["stream.setup.mu"], HIDDEN_ATOL, "mu of the prompt")
    for index, piece in enumerate(read_json(case / "inputs.json")["stream_chunks"][variant]):
        tokens = inputs["token"][piece["start"] : piece["start"] + piece["n_tokens"]]
        mel, state = read_tokens(network, tokens, state, noise, last=piece["last"])
        assert_close(network.mus[-1], outputs[f"{variant}.mu.{index}"], HIDDEN_ATOL, f"mu of piece {index}")
        assert_close(mel, outputs[f"{variant}.mel.{index}"], MEL_ATOL, f"mel of piece {index}")
        assert mel.shape[1] == piece["mel_frames"]
        assert state.num_frames == piece["estimator_cache_frames"]
        assert state.encoder.frame_kv.shape[-2] == piece["conformer_cache_frames"]


def conformer_layout(state: FlowState) -> np.ndarray:
    """The reference keeps tokens' keys twice, so that they are as many as the frames', and shows every third."""
    factor = state.encoder.frame_kv.shape[-2] // state.encoder.token_kv.shape[-2]
    both = np.concatenate([np.tile(state.encoder.token_kv, (1, 1, factor, 1)), state.encoder.frame_kv])
    return both[:, None, :, ::3]


def estimator_layout(state: FlowState) -> np.ndarray:
    return state.decoder[1].kv[..., ::5, :]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "layout"), [("conformer_att_cache", conformer_layout),
                                              ("estimator_att_cache_step1", estimator_layout)])
def test_what_the_prompt_leaves(case: Path, name: str, layout: Callable[[FlowState], np.ndarray]) -> None:
    network, inputs = network_of(case), load_inputs(case)
    state = open_stream(network, prompt_of(inputs), inputs["rand_noise"])
    assert_close(layout(state), load_outputs(case)[f"stream.setup.{name}"], HIDDEN_ATOL, name)
