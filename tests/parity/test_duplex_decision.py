"""Listen or speak: the rules of a unit and the filters of a draw, against the reference with scripted logits."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicpm_o.runtime.decide import DecideConfig, DuplexTokens
from minicpm_o.runtime.duplex import Stream, UnitResult, speak_unit, text_of
from minicpm_o.runtime.engine import Step
from minicpm_o.runtime.window import Window
from oracle import assert_close, duplex_tokens, load_inputs, load_outputs, oracle_cases, read_json

CASES = oracle_cases("_07b_duplex_decision")
PROBABILITIES = 1e-6
SETTINGS = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "listen_prob_scale": "listen_scale",
            "listen_top_k": "listen_top_k", "text_repetition_penalty": "repetition_penalty",
            "text_repetition_window_size": "repetition_window", "length_penalty": "length_penalty"}


class Script:
    """An engine whose logits are written down: row k + 1 answers the k-th token."""

    config = SimpleNamespace(rope_theta=1e6)

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.rows: list[np.ndarray] = []
        self.fed: list[int] = []

    def decode(self, token_id: int, cache: Any) -> Step:
        self.fed.append(token_id)
        cache.length += 1
        logits = self.rows.pop(0) if self.rows else np.zeros(self.vocab_size, np.float32)
        return Step(logits, np.full((1, 4), token_id, np.float32))


def facts_of(result: UnitResult, stream: Stream, tokens: DuplexTokens) -> dict[str, Any]:
    return {
        "fed_ids": list(result.fed_ids), "is_listen": result.is_listen, "end_of_turn": result.end_of_turn,
        "n_tokens": result.num_tokens, "text": " ".join(map(str, text_of(result, tokens))),
        "spoken_ids": [item.token_id for item in result.spoken], "current_turn_ended": stream.turn_ended,
        "decoder_generated_after": list(stream.history), "res_ids_after": list(stream.said),
    }


def scenarios() -> list[Any]:
    return [pytest.param(*case.values, name, id=f"{case.id}-{name}", marks=case.marks) for case in CASES
            for name in (read_json(case.values[0] / "inputs.json") if not case.marks else ["none"])]


@pytest.mark.parametrize(("case", "name"), scenarios())
def test_scenario(case: Path, name: str) -> None:
    config, logits, drawn = read_json(case / "config.json"), load_inputs(case), load_outputs(case)
    given, expected = read_json(case / "inputs.json")[name], read_json(case / "outputs.json")[name]["units"]
    tokens = duplex_tokens(config["special_ids"], config["bad_token_ids"])
    chosen = config["defaults"] | given["decode_kwargs"]
    decide = DecideConfig(greedy=given["decode_mode"] == "greedy",
                          **{ours: chosen[theirs] for theirs, ours in SETTINGS.items()})
    draws: list[np.ndarray] = []

    def draw(probabilities: np.ndarray) -> int:
        draws.append(probabilities)
        return int(probabilities.argmax())

    engine = Script(config["vocab_size"])
    stream = Stream(SimpleNamespace(length=0), Window())
    for number in range(given["n_units"]):
        rows = list(logits[f"{name}.unit{number}.logits"])
        engine.rows, engine.fed = rows[1:], []
        stream.pending = Step(rows[0], np.zeros((1, 4), np.float32))
        draws.clear()
        result = speak_unit(stream, engine, tokens, decide, draw, force_listen=given["force_listen_count"],
                            max_tokens=given["max_new_speak_tokens_per_chunk"])
        assert engine.fed == list(result.fed_ids)
        assert facts_of(result, stream, tokens) == expected[number]
        wanted = [drawn[key] for key in sorted((key for key in drawn if key.startswith(f"{name}.unit{number}.draw")),
                                               key=lambda key: int(key.rpartition("draw")[2]))]
        assert len(draws) == len(wanted), f"{len(draws)} draws, expected {len(wanted)}"
        for place, (got, want) in enumerate(zip(draws, wanted, strict=True)):
            assert_close(got, want, PROBABILITIES, f"{name}, unit {number}, draw {place}")
