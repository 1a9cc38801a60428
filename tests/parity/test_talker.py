"""The talker of 4.5 against the reference: conditions, whole replies, text in pieces, duplex units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpm_o.runtime.talker import TalkerSampling, TalkerStream, conditions, generate, speak_unit
from oracle import assert_close, load_inputs, load_outputs, oracle_cases, read_config, read_json, torch_weights

pytest.importorskip("torch")
from minicpm_o.model.outputs.talker import UNUSED, Talker, TorchTalker

CASES = oracle_cases("_05_talker")
LOGITS_ATOL, PROBABILITIES_ATOL = 1e-4, 1e-5


@dataclass
class Recording:
    """A network that keeps its logits and positions."""

    network: TorchTalker
    logits: list[np.ndarray] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def run(self, embeds: np.ndarray, cache: Any) -> np.ndarray:
        self.logits.append(self.network.run(embeds, cache))
        return self.logits[-1]

    def taken(self) -> np.ndarray:
        logits, self.logits = self.logits, []
        return np.stack(logits)


class Script:
    """Draws what it is told to, and keeps what it could have drawn from."""

    def __init__(self, codes: Iterable[int]) -> None:
        self.codes = [int(code) for code in codes]
        self.probabilities: list[np.ndarray] = []

    def __call__(self, probabilities: np.ndarray) -> int:
        self.probabilities.append(probabilities)
        return self.codes.pop(0)

    def taken(self) -> np.ndarray:
        probabilities, self.probabilities = self.probabilities, []
        return np.stack(probabilities)


def network_of(case: Path) -> Recording:
    config = read_config(case).talker
    assert config is not None
    module = Talker(config)
    missing, unexpected = module.load_state_dict(torch_weights(case, "tts."), strict=False)
    assert not unexpected and set(missing) <= set(UNUSED)
    return Recording(TorchTalker(module))


def sampling_of(values: dict[str, Any]) -> TalkerSampling:
    return TalkerSampling(values["temperature"], values["top_p"], values["top_k"], values["repetition_penalty"])


def assert_draws(network: Recording, draw: Script, outputs: dict[str, np.ndarray], kind: str, number: str) -> None:
    assert_close(network.taken(), outputs[f"{kind}.raw_logits{number}"], LOGITS_ATOL, f"{kind} logits{number}")
    got, expected = draw.taken(), outputs[f"{kind}.probs{number}"]
    assert_close(got, expected, PROBABILITIES_ATOL, f"{kind} probabilities{number}")
    borderline = np.minimum(got, expected) + np.abs(got - expected) <= PROBABILITIES_ATOL
    assert (((got > 0) == (expected > 0)) | borderline).all(), f"{kind}{number}: other tokens can be drawn"


def reply_of(network: Recording, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return conditions(network, inputs["cond.token_ids"], inputs["cond.llm_hidden"], text_finished=True)


@pytest.mark.parametrize("case", CASES)
def test_conditions(case: Path) -> None:
    got = reply_of(network_of(case), load_inputs(case))
    assert_close(got, load_outputs(case)["cond.inputs_embeds"], LOGITS_ATOL, "conditions")


@pytest.mark.parametrize("case", CASES)
def test_generate(case: Path) -> None:
    network, inputs, outputs = network_of(case), load_inputs(case), load_outputs(case)
    settings = read_json(case / "inputs.json")["generate"]
    draw = Script([*inputs["gen.codes"], settings["eos"]])
    spoken = generate(network, reply_of(network, inputs), draw, sampling=sampling_of(settings),
                      min_codes=settings["min_new_token"], max_codes=settings["max_new_token"])
    assert_draws(network, draw, outputs, "gen", "")
    assert list(spoken.codes) == outputs["gen.returned_ids"].tolist()
    assert spoken.finished == settings["finished"]


@pytest.mark.parametrize("case", CASES)
def test_generate_to_the_limit(case: Path) -> None:
    network, settings = network_of(case), read_json(case / "inputs.json")["generate_max_hit"]
    spoken = generate(network, reply_of(network, load_inputs(case)), Script(settings["script"]),
                      max_codes=settings["max_new_token"])
    assert list(spoken.codes) == settings["returned"] and not spoken.finished


@pytest.mark.parametrize("case", CASES)
def test_text_in_pieces(case: Path) -> None:
    network, inputs, outputs = network_of(case), load_inputs(case), load_outputs(case)
    settings = read_json(case / "inputs.json")["streaming"]
    draw = Script([])
    stream = TalkerStream(network, draw, sampling=sampling_of(settings), chunk_codes=settings["chunk_size"])
    last = len(settings["chunks"]) - 1
    for index, chunk in enumerate(settings["chunks"]):
        draw.codes = [*inputs[f"stream.codes.{index}"].tolist(), network.config.audio_eos]
        yields = stream.read(inputs[f"stream.token_ids.{index}"], inputs[f"stream.llm_hidden.{index}"],
                             text_finished=index == last)
        assert [[list(piece.codes), piece.last] for piece in yields] == chunk["yields"]
        assert_draws(network, draw, outputs, "stream", f".{index}")
        assert stream.cache.length == chunk["text_start_pos_after"]


@pytest.mark.parametrize("case", CASES)
def test_units(case: Path) -> None:
    network, inputs, outputs = network_of(case), load_inputs(case), load_outputs(case)
    units, state = read_json(case / "inputs.json")["duplex_units"], None
    for index, unit in enumerate(units):
        if unit["text_start_pos"] == 0:  # a turn begins
            state = None
        embeds = conditions(network, inputs[f"unit.token_ids.{index}"], inputs[f"unit.llm_hidden.{index}"],
                            text_finished=False)
        assert_close(embeds, outputs[f"unit.cond.{index}"], LOGITS_ATOL, f"conditions of unit {index}")
        assert (state.cache.length if state else 0) == unit["text_start_pos"]
        draw = Script(inputs[f"unit.sampled.{index}"])
        spoken, state = speak_unit(network, embeds, state, draw, end_of_turn=unit["min_new_tokens"] == 0)
        assert_draws(network, draw, outputs, "unit", f".{index}")
        assert list(spoken.codes) == unit["returned"]
        assert state.cache.length == unit["kv_len_after"]


@pytest.mark.parametrize("case", CASES)
def test_steps_with_a_cache_are_the_whole(case: Path) -> None:
    network, inputs = network_of(case), load_inputs(case)
    outputs = load_outputs(case)
    embeds, codes = reply_of(network, inputs), inputs["gen.codes"]
    whole = np.concatenate([embeds, network.embed_codes(codes)])
    import torch

    from minicpm_o.model.outputs.talker import TorchTalkerCache

    with torch.inference_mode():
        logits, _ = network.module(torch.from_numpy(whole)[None], TorchTalkerCache().layers)
    assert_close(logits[0, len(embeds) - 1 :].numpy(), outputs["gen.raw_logits"], LOGITS_ATOL, "logits of the whole")
