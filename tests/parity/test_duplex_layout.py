"""Full duplex through the whole network: layout, positions, embeddings, logits and cache, against the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracle import assert_close, duplex_tokens, load_outputs, omni_weights, oracle_cases, read_config, read_json

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.inputs.audio import load_audio  # noqa: E402
from minicpm_o.inputs.image import load_image  # noqa: E402
from minicpm_o.inputs.mel import clip_log_mel  # noqa: E402
from minicpm_o.inputs.slices import slice_picture  # noqa: E402
from minicpm_o.model.encoders.sight import TorchVision  # noqa: E402
from minicpm_o.model.encoders.whisper import TorchHearing  # noqa: E402
from minicpm_o.model.omni import OmniModel  # noqa: E402
from minicpm_o.runtime import duplex  # noqa: E402
from minicpm_o.runtime.decide import DecideConfig, DuplexTokens  # noqa: E402
from minicpm_o.runtime.duplex import Ears, Stream, feed_unit, hear_second, speak_unit, start_stream  # noqa: E402
from minicpm_o.runtime.listening import encode_clips  # noqa: E402
from minicpm_o.runtime.torch_parts import TorchEngine  # noqa: E402
from minicpm_o.runtime.window import Window  # noqa: E402

CASES = oracle_cases("_07a_duplex_layout")
ATOL = 2e-3


class Listener(TorchEngine):
    """The engine, writing down what it is fed and what it answers."""

    fed: list[np.ndarray]
    logits: list[np.ndarray]

    def prefill(self, embeds: np.ndarray, cache: Any) -> Any:
        self.fed.append(np.asarray(embeds))
        return super().prefill(embeds, cache)


def model_of(case: Path) -> OmniModel:
    model = OmniModel(read_config(case))
    model.load_state_dict(omni_weights(case))
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_session(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, facts, expected = read_json(case / "inputs.json"), read_json(case / "outputs.json"), load_outputs(case)
    model, config = model_of(case), read_config(case)
    engine = Listener(model.language, config.language)
    vision, hearing = TorchVision(model.vision, model.connectors.resampler), TorchHearing(
        model.hearing, model.connectors.projector)
    tokens = duplex_tokens(given["special_ids"], given["bad_token_ids"])

    engine.fed = []
    voice = encode_clips(hearing, [clip_log_mel(load_audio(case / given["ref_audio"]))])
    prefix = np.concatenate([engine.embed(given["prefix_system_ids"]), *voice])
    stream = start_stream(engine, Window(), prefix, given["suffix_system_ids"])
    assert stream.cache.length == facts["system_length"]
    assert_close(np.concatenate(engine.fed), expected["system.embeds"], ATOL, "system prompt")

    sound, ears = load_audio(case / given["user_audio"]), Ears()
    for number, unit in enumerate(facts["units"]):
        engine.fed = []
        second, ears = hear_second(hearing, ears, sound[number * 16000 : (number + 1) * 16000])
        feed_unit(stream, engine, tokens, sound=second, pictures=pictures_of(given["frames"][number], case, vision,
                                                                             config))
        check_prefill(stream, engine, unit, expected, number, ears)
        check_words(stream, engine, tokens, unit, expected, number, monkeypatch)
    layers = stream.cache.cache.layers
    assert_close(layers[0].keys[:, :, ::13], expected["final.keys_layer0"], ATOL, "final keys of layer 0")
    assert_close(layers[1].values[:, :, ::13], expected["final.values_layer1"], ATOL, "final values of layer 1")


def pictures_of(frame: dict[str, Any] | None, case: Path, vision: TorchVision, config: Any) -> list[np.ndarray]:
    if frame is None:
        return []
    cut = slice_picture(load_image(case / frame["file"]), config.slicing, max_slices=frame["max_slice_nums"])
    return [vision.encode(cut.pieces, cut.grid_sizes)]


def check_prefill(stream: Stream, engine: Listener, unit: dict[str, Any], expected: dict[str, np.ndarray], number: int,
                  ears: Ears) -> None:
    fed = np.concatenate(engine.fed)
    assert stream.unit_start == unit["start_position"]
    assert stream.cache.length == unit["position_after_prefill"]
    lengths = [1 if isinstance(item, int) else item[1] for item in unit["prefill_layout"]]
    assert len(fed) == sum(lengths)
    place = 0
    for item, length in zip(unit["prefill_layout"], lengths, strict=True):
        if isinstance(item, int):
            assert_close(fed[place], engine.embed([item])[0], 0, f"unit {number}: token {item} at {place}")
        place += length
    assert_close(fed[::3], expected[f"unit{number}.prefill_embeds"], ATOL, f"unit {number}: embeddings")
    tail = expected[f"unit{number}.prefill_embeds_tail"]
    assert_close(fed[-len(tail):], tail, ATOL, f"unit {number}: its sound")
    assert stream.pending is not None
    assert_close(stream.pending.logits, expected[f"unit{number}.pending_logits"], ATOL, f"unit {number}: logits")
    assert len(ears.waiting) == unit["audio_samples_left"]


def check_words(stream: Stream, engine: Listener, tokens: DuplexTokens, unit: dict[str, Any],
                expected: dict[str, np.ndarray], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    script, seen = list(unit["scripted_choice"]), []

    def choose(logits: np.ndarray, *_: Any) -> tuple[int, bool]:
        seen.append(logits)
        return script.pop(0), True

    monkeypatch.setattr(duplex, "decide", choose)
    result = speak_unit(stream, engine, tokens, DecideConfig(), lambda probabilities: 0)
    assert len(unit["scripted_choice"]) - len(script) == unit["consumed_script"]
    assert list(result.fed_ids) == unit["emitted_ids"]
    assert [item.token_id for item in result.spoken] == unit["spoken_ids"]
    assert [item.ends_turn for item in result.spoken] == unit["spoken_end_of_turn"]
    assert (result.is_listen, result.end_of_turn) == (unit["is_listen"], unit["end_of_turn"])
    assert stream.turn_ended == unit["current_turn_ended"]
    assert stream.cache.length == unit["position_after_unit"]
    assert " ".join(map(str, duplex.text_of(result, tokens))) == unit["text"]
    assert_close(np.stack(seen), expected[f"unit{number}.step_logits"], ATOL, f"unit {number}: logits of each step")
    if result.spoken:
        assert_close(np.stack([item.hidden for item in result.spoken]), expected[f"unit{number}.spoken_hidden"], ATOL,
                     f"unit {number}: hidden states")
