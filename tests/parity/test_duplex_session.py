"""Full duplex through a live session: the reference's units, fed as a microphone gives them, in pieces of any size."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity.test_duplex_decision import SETTINGS, Script, facts_of, scenarios
from parity.test_duplex_layout import ATOL, CASES, Listener, model_of, pictures_of
from parity.test_talker import CASES as TALKER_CASES
from parity.test_talker import Script as Drawn
from parity.test_talker import network_of

from minicpm_o.inputs.audio import load_audio
from minicpm_o.inputs.mel import clip_log_mel
from minicpm_o.runtime import duplex
from minicpm_o.runtime.decide import DecideConfig
from minicpm_o.runtime.duplex import Spoken
from minicpm_o.runtime.engine import Step
from minicpm_o.runtime.listening import encode_clips
from minicpm_o.runtime.live.duplex_session import (
    DuplexConfig,
    DuplexNetworks,
    DuplexSession,
    DuplexVoice,
    VoiceState,
    speak_aloud,
)
from minicpm_o.runtime.live.events import Listening, Speaking, TextPiece, TurnEnded
from minicpm_o.runtime.live.session import Work
from minicpm_o.runtime.window import WindowConfig
from oracle import assert_close, duplex_tokens, load_inputs, load_outputs, read_config, read_json

torch = pytest.importorskip("torch")

from minicpm_o.model.encoders.sight import TorchVision  # noqa: E402
from minicpm_o.model.encoders.whisper import TorchHearing  # noqa: E402


def session_of(case: Path, given: dict[str, Any]) -> DuplexSession:
    """The reference's session over the case's network."""
    model, config = model_of(case), read_config(case)
    engine = Listener(model.language, config.language)
    engine.fed = []
    vision = TorchVision(model.vision, model.connectors.resampler)
    hearing = TorchHearing(model.hearing, model.connectors.projector)
    voice = encode_clips(hearing, [clip_log_mel(load_audio(case / given["ref_audio"]))])
    prefix = np.concatenate([engine.embed(given["prefix_system_ids"]), *voice])
    networks = DuplexNetworks(engine, hearing, duplex_tokens(given["special_ids"], given["bad_token_ids"]),
                              lambda ids: " ".join(map(str, ids)),
                              lambda frame: pictures_of(frame, case, vision, config)[0])
    return DuplexSession(networks, prefix, given["suffix_system_ids"], DuplexConfig(window=WindowConfig()))


def played_through(live: DuplexSession, sound: np.ndarray, size: int) -> list[Any]:
    """Hear a sound in pieces; everything that the work tells."""
    told: list[Any] = []
    for start in range(0, len(sound), size):
        for item in live.hear(sound[start : start + size]):
            assert isinstance(item, Work)
            told += item.run()
    return told


@pytest.mark.parametrize("size", [1600, 16_000])
@pytest.mark.parametrize("case", CASES)
def test_the_reference_s_units(case: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given, facts, expected = read_json(case / "inputs.json"), read_json(case / "outputs.json"), load_outputs(case)
    live = session_of(case, given)
    assert live.num_cached == facts["system_length"]
    sound = load_audio(case / given["user_audio"])
    for number, unit in enumerate(facts["units"]):
        script, seen = list(unit["scripted_choice"]), []

        def choose(logits: np.ndarray, *_: Any, script: list[int] = script, seen: list[Any] = seen) -> tuple[int, bool]:
            seen.append(logits)
            return script.pop(0), True

        monkeypatch.setattr(duplex, "decide", choose)
        if given["frames"][number] is not None:
            live.see(given["frames"][number])
        told = played_through(live, sound[number * 16_000 : (number + 1) * 16_000], size)
        result = live.results[-1]
        assert list(result.fed_ids) == unit["emitted_ids"] and live.num_cached == unit["position_after_unit"]
        assert (result.is_listen, result.end_of_turn) == (unit["is_listen"], unit["end_of_turn"])
        assert_close(np.stack(seen), expected[f"unit{number}.step_logits"], ATOL, f"unit {number}: logits")
        assert any(isinstance(event, Listening) for event in told) == unit["is_listen"]
        words = "".join(event.text for event in told if isinstance(event, TextPiece))
        assert words == ("" if unit["is_listen"] else unit["text"])
        assert any(isinstance(event, TurnEnded) for event in told) == unit["end_of_turn"]
    layers = live.stream.cache.cache.layers
    assert_close(layers[0].keys[:, :, ::13], expected["final.keys_layer0"], ATOL, "final keys of layer 0")


@pytest.mark.parametrize(("case", "name"), scenarios())
def test_the_reference_s_decisions(case: Path, name: str) -> None:
    config, logits = read_json(case / "config.json"), load_inputs(case)
    given, expected = read_json(case / "inputs.json")[name], read_json(case / "outputs.json")[name]["units"]
    chosen = config["defaults"] | given["decode_kwargs"]
    decide = DecideConfig(greedy=given["decode_mode"] == "greedy",
                          **{ours: chosen[theirs] for theirs, ours in SETTINGS.items()})
    tokens = duplex_tokens(config["special_ids"], config["bad_token_ids"])
    engine = Script(config["vocab_size"])
    engine.new_cache = lambda *_: SimpleNamespace(length=0)
    networks = DuplexNetworks(engine, None, tokens, lambda ids: " ".join(map(str, ids)), lambda picture: picture)
    live = DuplexSession(networks, np.zeros((0, 4)), (), DuplexConfig(
        decide, WindowConfig(), given["force_listen_count"], given["max_new_speak_tokens_per_chunk"]))
    live._draw = lambda probabilities: int(probabilities.argmax())
    for number in range(given["n_units"]):
        rows = list(logits[f"{name}.unit{number}.logits"])
        engine.rows, engine.fed = rows[1:], []
        live.stream.pending = Step(rows[0], np.zeros((1, 4), np.float32))
        told = list(live._decide())
        assert facts_of(live.results[-1], live.stream, tokens) == expected[number]
        assert isinstance(told[0], (Listening, Speaking, TextPiece, TurnEnded)) or not told


class Codes:
    """A token2wav that keeps what it is given."""

    def __init__(self) -> None:
        self.units: list[tuple[list[int], bool, bool]] = []

    def speak_unit(self, state: Any, tokens: Any, *, is_first: bool, end_of_turn: bool) -> tuple[np.ndarray, Any]:
        self.units.append((list(tokens), is_first, end_of_turn))
        return np.zeros(len(tokens) * 960, np.float32), state


@pytest.mark.parametrize("case", TALKER_CASES)
def test_the_reference_s_speech_tokens(case: Path) -> None:
    network, inputs = network_of(case), load_inputs(case)
    units, token2wav = read_json(case / "inputs.json")["duplex_units"], Codes()
    state = VoiceState(None)
    for index, unit in enumerate(units):
        ends = index + 1 == len(units) or units[index + 1]["text_start_pos"] == 0
        spoken = [Spoken(int(token), hidden, False) for token, hidden in zip(
            inputs[f"unit.token_ids.{index}"], inputs[f"unit.llm_hidden.{index}"], strict=True)]
        draw = Drawn(inputs[f"unit.sampled.{index}"])
        may_end_early = unit["min_new_tokens"] == 0 and unit["text_start_pos"] != 0
        _, state = speak_aloud(DuplexVoice(network, token2wav), state, spoken, may_end_early or ends, draw)
        codes, is_first, _ = token2wav.units[-1]
        assert codes == unit["returned"] and is_first == (unit["text_start_pos"] == 0)
