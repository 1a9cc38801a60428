"""Pictures, sound and words in one sequence: embeddings, logits, hidden states, cache and greedy tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracle import assert_close, load_inputs, load_outputs, omni_weights, oracle_cases, read_config, read_json

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.model.encoders.packing import pack_pieces  # noqa: E402
from minicpm_o.model.fusion.spans import Span  # noqa: E402
from minicpm_o.model.omni import OmniModel, RawMedia, Sounds  # noqa: E402
from minicpm_o.runtime.torch_parts import TorchEngine  # noqa: E402

CASES = oracle_cases("_04_multimodal_prefill")
ATOL = 1e-4


def model_of(case: Path) -> OmniModel:
    model = OmniModel(read_config(case))
    model.load_state_dict(omni_weights(case))
    return model.eval()


def pieces_of(given: dict[str, np.ndarray], prefix: str) -> list[np.ndarray]:
    """Strips [3, 14, L * 14] of uint8 to patches (L, 3 * 14 * 14) of floats."""
    names = sorted((name for name in given if name.startswith(prefix)), key=lambda name: int(name.split(".")[-1]))
    strips = [(given[name].astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5) for name in names]
    return [strip.reshape(3, 14, -1, 14).transpose(2, 0, 1, 3).reshape(-1, 3 * 14 * 14) for strip in strips]


def spans_of(bounds: np.ndarray) -> tuple[Span, ...]:
    return tuple(Span(int(start), int(stop)) for start, stop in bounds)


def one_prompt(given: dict[str, np.ndarray], prefix: str) -> tuple[Any, RawMedia]:
    media = RawMedia(pieces_of(given, f"{prefix}pixel_u8."), given[f"{prefix}tgt_sizes"],
                     spans_of(given[f"{prefix}image_bound"]),
                     (Sounds(list(given[f"{prefix}audio_features"]), spans_of(given[f"{prefix}audio_bounds"])),))
    return torch.from_numpy(given[f"{prefix}input_ids"][0]), media


def prefix_of(given: dict[str, np.ndarray]) -> str:
    return "A." if "A.input_ids" in given else ""


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_one_prompt(case: Path) -> None:
    given, expected = load_inputs(case), load_outputs(case)
    prefix = prefix_of(given)
    model = model_of(case)
    embeds = model.fuse(*([item] for item in one_prompt(given, prefix)))[0]
    assert_close(embeds, expected[f"{prefix}inputs_embeds"], ATOL, "fused embeddings")
    out = model.language(inputs_embeds=embeds[None], output_hidden_states=True)
    assert_close(out.logits[0, ::16], expected[f"{prefix}logits_every16"], ATOL, "logits")
    assert_close(out.logits[0, -1], expected[f"{prefix}logits_last"], ATOL, "last logits")
    hidden = out.hidden_states[-1][0]
    assert_close(hidden[::4], expected[f"{prefix}last_hidden_every4"], ATOL, "hidden states")
    if f"{prefix}spk_hidden" in expected:
        ids = read_json(case / "inputs.json")["special_ids"]
        place = int(np.flatnonzero(given[f"{prefix}input_ids"][0] == ids["spk"])[-1])
        assert_close(hidden[place], expected[f"{prefix}spk_hidden"], ATOL, "hidden state of the speaker token")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("in_pieces", [False, True], ids=["at_once", "in_two_pieces"])
def test_greedy_through_the_cache(case: Path, in_pieces: bool) -> None:
    given, expected = load_inputs(case), load_outputs(case)
    prefix = prefix_of(given)
    model = model_of(case)
    with torch.inference_mode():
        embeds = model.fuse(*([item] for item in one_prompt(given, prefix)))[0].numpy()
    engine = TorchEngine(model.language, model.config.language)
    cache = engine.new_cache()
    middle = len(embeds) // 2 if in_pieces else 0
    if middle:
        engine.prefill(embeds[:middle], cache)
    step = engine.prefill(embeds[middle:], cache)
    layers = cache.cache.layers
    assert_close(layers[0].keys[:, :, ::11], expected[f"{prefix}keys_layer0"], ATOL, "keys of layer 0")
    assert_close(layers[1].values[:, :, ::11], expected[f"{prefix}values_layer1"], ATOL, "values of layer 1")
    for place, token in enumerate(expected[f"{prefix}greedy_tokens"].tolist()):
        assert_close(step.logits, expected[f"{prefix}step_logits"][place], ATOL, f"logits of step {place}")
        assert int(step.logits.argmax()) == token
        step = engine.decode(token, cache)
        assert_close(step.hidden[0], expected[f"{prefix}step_hidden"][place], ATOL, f"hidden state of step {place}")


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_padded_batch(case: Path) -> None:
    given, expected = load_inputs(case), load_outputs(case)
    if "B.input_ids" not in given:
        pytest.skip("the case has no batch")
    model = model_of(case)
    ids, media, mels = torch.from_numpy(given["B.input_ids"]), [], list(given["B.audio_features"])
    for row in range(len(ids)):
        lengths = given[f"B.audio_feature_lens.{row}"].tolist()
        has_images = f"B.image_bound.{row}" in given
        media.append(RawMedia(
            pieces_of(given, f"B.pixel_u8.{row}.") if has_images else (),
            given[f"B.tgt_sizes.{row}"] if has_images else None,
            spans_of(given[f"B.image_bound.{row}"]) if has_images else (),
            tuple(Sounds([mels.pop(0)[:, :length]], (span,)) for length, span in
                  zip(lengths, spans_of(given[f"B.audio_bounds.{row}"]), strict=True))))
    embeds = torch.stack(model.fuse(list(ids), media))
    assert_close(embeds, expected["B.inputs_embeds"], ATOL, "fused embeddings")
    mask = torch.from_numpy(given["B.attention_mask"]).long()
    made = model.language.generate(inputs_embeds=embeds, attention_mask=mask, do_sample=False, pad_token_id=0,
                                   max_new_tokens=expected["B.greedy_tokens"].shape[1], eos_token_id=None,
                                   output_logits=True, return_dict_in_generate=True)
    assert made.sequences.tolist() == expected["B.greedy_tokens"].tolist()
    assert_close(torch.stack(made.logits, 1), expected["B.step_logits"], ATOL, "logits of the batch")


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_sound_beside_no_sound_in_a_batch(case: Path) -> None:
    """What the reference cannot run: each prompt of the batch as it is alone."""
    given = load_inputs(case)
    model = model_of(case)
    ids, media = one_prompt(given, prefix_of(given))
    plain = torch.arange(7)
    both = model.fuse([ids, plain], [media, RawMedia()])
    assert_close(both[0], model.fuse([ids], [media])[0], 1e-5, "the prompt with sound")
    assert_close(both[1], model.embed(plain), 0, "the prompt without media")


def test_packing_is_what_the_network_is_given() -> None:
    packed = pack_pieces([np.ones((6, 588), np.float32), np.ones((2, 588), np.float32)], np.array([[2, 3], [1, 2]]),
                         side=70)
    assert packed.valid.sum(1).tolist() == [6, 2]
