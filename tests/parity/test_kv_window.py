"""Dropping tokens from the middle of a cache, against the reference; the torch cache and the device's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracle import (
    assert_close,
    load_inputs,
    load_outputs,
    oracle_cases,
    read_config,
    read_json,
    torch_weights,
)

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.model.language.decoder import build_decoder  # noqa: E402
from minicpm_o.runtime import torch_parts  # noqa: E402
from minicpm_o.runtime.cache import turn_keys  # noqa: E402
from minicpm_o.runtime.torch_parts import TorchCache, TorchEngine  # noqa: E402
from minicpm_o.runtime.window import Unit, Window, WindowConfig, keep_within  # noqa: E402

CASES = oracle_cases("_07c_kv_window")
KEYS, ANGLES, LOGITS = 1e-4, 5e-3, 1e-4


def engine_of(case: Path) -> TorchEngine:
    config = read_config(case).language
    language = build_decoder(config)
    language.load_state_dict(torch_weights(case, "llm."))
    return TorchEngine(language, config)


def layer_keys(cache: TorchCache, layer: int) -> Any:
    return cache.cache.layers[layer].keys


@pytest.mark.parametrize("case", CASES)
def test_keys_are_turned(case: Path) -> None:
    given, expected, theta = load_inputs(case), load_outputs(case), read_config(case).language.rope_theta
    old, new = given["realign.old"], given["realign.new"]
    for place, turn in enumerate(new - old):
        keys = given["realign.keys"][:, :, place]
        want = expected["realign.keys"][:, :, place]
        assert_close(turn_keys(keys, int(turn), theta), want, ANGLES, f"key {place}, turned by {turn}")
        in_torch = torch_parts.turn_keys(torch.from_numpy(keys), int(turn), theta)
        assert_close(in_torch, want, ANGLES, f"key {place}, turned by {turn} in torch")


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_dropped(case: Path) -> None:
    engine, given, expected, facts = engine_of(case), load_inputs(case), load_outputs(case), read_json(
        case / "inputs.json")["drop"]
    units = [given[f"unit_ids.{number}"] for number in range(sum(name.startswith("unit_ids.") for name in given))]
    cache = engine.new_cache()
    engine.prefill(engine.embed(np.concatenate([given["system_ids"], *units])), cache)
    layers = engine.config.layers
    for layer in range(layers):
        assert_close(layer_keys(cache, layer), expected[f"drop.keys_before.{layer}"], KEYS, f"keys {layer} before")
    cache.remove(facts["preserve"], facts["length"], engine.config.rope_theta)
    assert cache.length == facts["cache_len_after"]
    for layer in range(layers):
        assert_close(layer_keys(cache, layer), expected[f"drop.keys_after.{layer}"], KEYS, f"keys {layer} after")
    assert_close(cache.cache.layers[0].values, expected["drop.values_after.0"], KEYS, "values after")
    step = engine.prefill(engine.embed(given["drop.next_ids"]), cache)
    assert_close(step.logits, expected["drop.logits_after_next"], LOGITS, "logits of the next tokens")


@pytest.mark.parametrize("case", CASES)
def test_whole_units_are_dropped(case: Path) -> None:
    engine, given, expected = engine_of(case), load_inputs(case), load_outputs(case)
    facts = read_json(case / "inputs.json")["basic"]
    cache = engine.new_cache()
    engine.prefill(engine.embed(given["system_ids"]), cache)
    window = Window(WindowConfig("basic", facts["high"], facts["low"]), prefix=cache.length)
    for event in facts["events"]:
        number, start = event["unit"], cache.length
        step = engine.prefill(engine.embed(given[f"unit_ids.{number}"]), cache)
        assert_close(step.logits, expected[f"basic.logits.{number}"], LOGITS, f"logits of unit {number}")
        assert cache.length == event["len_before"]
        window.units.append(Unit(number, cache.length - start))
        assert keep_within(window, cache, engine) == event["slid"]
        assert cache.length == event["len_after"]
        assert [unit.number for unit in window.units] == event["units_left"]
    for layer in range(engine.config.layers):
        assert_close(layer_keys(cache, layer), expected[f"basic.final_keys.{layer}"], KEYS, f"final keys {layer}")


@pytest.mark.parametrize("case", CASES)
def test_what_was_said_stays_as_text(case: Path) -> None:
    engine, given, expected = engine_of(case), load_inputs(case), load_outputs(case)
    facts = read_json(case / "inputs.json")
    special = frozenset(facts["special_ids"].values())
    facts = facts["context"]
    cache = engine.new_cache()
    engine.prefill(engine.embed(given["system_ids"]), cache)
    config = WindowConfig("context", max_units=facts["max_units"], previous_tokens=facts["previous_max_tokens"])
    window = Window(config, prefix=cache.length, suffix_ids=tuple(facts["suffix_ids"]),
                    marker_ids=tuple(facts["marker_ids"]), special=special)
    if facts["suffix_ids"]:
        engine.prefill(engine.embed(facts["suffix_ids"]), cache)
    for event in facts["events"]:
        number, start = event["unit"], cache.length
        step = engine.prefill(engine.embed(given[f"unit_ids.{number}"]), cache)
        assert_close(step.logits, expected[f"context.logits.{number}"], LOGITS, f"logits of unit {number}")
        assert cache.length == event["len_before"]
        said = () if event["is_listen"] else tuple(event["generated_tokens"])
        window.units.append(Unit(number, cache.length - start, said))
        assert keep_within(window, cache, engine) == event["slid"]
        assert cache.length == event["len_after"]
        assert [unit.number for unit in window.units] == event["units_left"]
        assert list(window.previous_ids) == event["previous_token_ids"]
    for layer in range(engine.config.layers):
        assert_close(layer_keys(cache, layer), expected[f"context.final_keys.{layer}"], KEYS, f"final keys {layer}")
        assert_close(cache.cache.layers[layer].values, expected[f"context.final_values.{layer}"], KEYS,
                     f"final values {layer}")
