"""2.6's voice against the reference class: text in chunks of ten, masked steps of four codebooks, scripted draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minicpm_o.runtime.chattts import Segment, VoiceSampling, generate, read_text, text_validity, visible_slots
from oracle import assert_close, load_inputs, load_outputs, oracle_cases, read_config, read_json, torch_weights

CASES = oracle_cases("_05_chattts")


class Recorder:
    """The network, keeping what each step of sound returned."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.config = network.config
        self.logits: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def run(self, embeds: np.ndarray, visible: np.ndarray, cache: Any) -> np.ndarray:
        self.logits.append(self.network.run(embeds, visible, cache))
        return self.logits[-1]


class Script:
    """Draws what is written, keeping the probabilities it was shown."""

    def __init__(self, sampled: np.ndarray) -> None:
        self.codes: Iterator[int] = iter(sampled.ravel().tolist())
        self.seen: list[np.ndarray] = []

    def __call__(self, probabilities: np.ndarray) -> int:
        self.seen.append(probabilities)
        return next(self.codes)


def network_of(case: Path) -> Any:
    """The case's talker; its DVAE is not in the case and not asked."""
    pytest.importorskip("torch")
    from minicpm_o.model.outputs.chattts import ConditionalChatTTS, TorchChatTTS

    config = read_config(case).chattts
    assert config is not None
    module = ConditionalChatTTS(config)
    missing, unexpected = module.load_state_dict(torch_weights(case, "tts."), strict=False)
    assert not unexpected and all(name.startswith("dvae.") for name in missing), (missing, unexpected)
    return TorchChatTTS(module)


@pytest.mark.parametrize("case", CASES)
def test_codes_as_the_reference(case: Path) -> None:
    network, plan = Recorder(network_of(case)), read_json(case / "inputs.json")
    inputs, outputs = load_inputs(case), load_outputs(case)
    ids, num_text = inputs["full_ids"], plan["n_text"]
    segment = Segment(network.new_cache(), text=ids[2 : 2 + num_text].tolist())
    base = VoiceSampling(temperatures=tuple(plan["temperature"]), top_p=plan["top_p"], top_k=plan["top_k"],
                         min_steps=plan["min_new_token"], steps_per_call=plan["max_new_token"])
    for number, chunk in enumerate(plan["chunks"]):
        start, stop = chunk["text_positions"]
        read_text(network, segment, ids[start:stop].tolist(), None if start else inputs["spk_hidden"])
        network.logits.clear()
        script = Script(inputs[f"chunk{number}.sampled"])
        sampling = replace(base, repetition_penalty=chunk["repetition_penalty"])
        assert generate(network, segment, sampling, script) is chunk["finished"]
        assert len(network.logits) == chunk["steps"] and len(segment.codes) == chunk["returned_codes_total"]
        assert next(script.codes, None) is None
        logits = outputs[f"chunk{number}.raw_logits"]
        assert_close(np.stack(network.logits), logits, 1e-4, f"logits of call {number}")
        assert_close(np.stack(script.seen).reshape(logits.shape), outputs[f"chunk{number}.probs"], 2e-5,
                     f"probabilities of call {number}")
    assert (segment.code_array() == outputs["returned_codes"]).all()


@pytest.mark.parametrize("case", CASES)
def test_condition_as_the_reference(case: Path) -> None:
    inputs, expected = load_inputs(case), load_outputs(case)["inputs_embeds_first12"]
    embeds = network_of(case).condition(inputs["full_ids"][: len(expected)], inputs["spk_hidden"])
    assert_close(embeds, expected, 1e-4, "embeddings of the first chunk")


@pytest.mark.parametrize("case", CASES)
def test_who_sees_whom_as_the_reference(case: Path) -> None:
    config, num_text = read_config(case).chattts, read_json(case / "inputs.json")["n_text"]
    assert config is not None
    valid = text_validity(config, num_text)
    assert (valid == load_inputs(case)["streaming_text_mask"].astype(bool)).all()
    table = read_json(case / "outputs.json")["visible_text_positions_by_past_length"]
    for past, positions in table.items():
        row = visible_slots(config, valid, int(past))
        assert np.flatnonzero(row[: len(valid)]).tolist() == positions, f"{past} slots before"
        assert len(row) == int(past) + 1 and row[len(valid) :].all()
