"""Encoders at run time: counts of tokens, blocks that do not hear the future, windows."""

from __future__ import annotations

import numpy as np
import pytest
from hearing_shapes import hearing_shapes

from minicpm_o.checkpoints.graphs.hearing import build_encoder, build_projector
from minicpm_o.errors import AudioError
from minicpm_o.model.config import tiny
from minicpm_o.rates import AUDIO_RATE_HZ, UNIT_AUDIO_TOKENS
from minicpm_o.runtime import encoders
from minicpm_o.runtime.device import DevicePlan, make_session
from minicpm_o.runtime.encoders import HearingEncoder, VisionEncoder, block_causal_bias, whole_seconds

CONFIG = tiny()
PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())


def encoder_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    shape = CONFIG.hearing
    sizes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (shape.width, shape.mel_bins, 3), "conv1.bias": (shape.width,),
        "conv2.weight": (shape.width, shape.width, 3), "conv2.bias": (shape.width,),
        "embed_positions.weight": (shape.max_encoder_frames, shape.width),
        "layer_norm.weight": (shape.width,), "layer_norm.bias": (shape.width,)}
    for layer in range(shape.encoder_layers):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            sizes[f"layers.{layer}.self_attn.{name}.weight"] = (shape.width, shape.width)
            sizes[f"layers.{layer}.self_attn.{name}.bias"] = (shape.width,)
        sizes |= {f"layers.{layer}.fc1.weight": (shape.ffn, shape.width), f"layers.{layer}.fc1.bias": (shape.ffn,),
                  f"layers.{layer}.fc2.weight": (shape.width, shape.ffn), f"layers.{layer}.fc2.bias": (shape.width,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            sizes |= {f"layers.{layer}.{name}.{kind}": (shape.width,) for kind in ("weight", "bias")}
    return {f"model.encoder.{name}": rng.normal(0, 0.3, size).astype(np.float32) for name, size in sizes.items()}


def projector_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in hearing_shapes(CONFIG).items()}


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> HearingEncoder:
    folder, rng = tmp_path_factory.mktemp("hearing"), np.random.default_rng(0)
    build_encoder(encoder_weights(rng), CONFIG, folder / "encoder.onnx", bits=None)
    build_projector(projector_weights(rng), CONFIG, folder / "projector.onnx")
    return HearingEncoder(make_session(folder / "encoder.onnx", PLAN, kind="hearing"),
                          make_session(folder / "projector.onnx", PLAN, kind="hearing"))


def noise(seconds: float) -> np.ndarray:
    size = round(seconds * AUDIO_RATE_HZ)
    return np.random.default_rng(3).normal(0, 0.1, size).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.001, 0.5, 1.0, 2.3])
def test_ten_tokens_for_every_second_begun(hearing: HearingEncoder, seconds: float) -> None:
    tokens = hearing.tokens(noise(seconds))
    assert tokens.shape == (int(np.ceil(seconds)) * UNIT_AUDIO_TOKENS, CONFIG.language.width)
    assert np.isfinite(tokens).all()


def test_tokens_of_what_was_encoded_already(hearing: HearingEncoder) -> None:
    waveform = noise(1.5)
    encoded = hearing.encode(waveform)
    assert encoded.frames.shape == (1, 100, CONFIG.hearing.width)
    np.testing.assert_array_equal(hearing.tokens(encoded), hearing.tokens(waveform))


def test_the_newest_sound_is_encoded_once(hearing: HearingEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, seen = hearing._encode, []
    monkeypatch.setattr(hearing, "_encode", lambda waveform: seen.append(len(waveform)) or encoded(waveform))
    hearing.encode(noise(1.2))
    hearing.tokens(noise(1.2))
    assert seen == [19200]
    changed = noise(1.2)
    changed[-1] += 0.1
    assert (hearing.encode(changed).frames != hearing.encode(noise(1.2)).frames).any()
    assert seen == [19200] * 3


def test_a_block_does_not_hear_the_future(hearing: HearingEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    mel = np.random.default_rng(1).normal(size=(CONFIG.hearing.mel_bins, 300)).astype(np.float32)
    changed = mel.copy()
    changed[:, 201:] = 0  # the first convolution sees one frame past its block
    monkeypatch.setattr(encoders, "log_mel", lambda waveform: waveform)
    before, after = (hearing._window(m) for m in (mel, changed))
    difference = np.abs(before - after).max(axis=(0, 2))
    assert difference[:100].max() < 1e-5, f"the first two seconds changed by {difference[:100].max():.2e}"
    assert difference[100:].max() > 1e-2


def test_longer_than_a_window(hearing: HearingEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "WINDOW_SAMPLES", 2 * AUDIO_RATE_HZ)
    waveform = noise(4.5)
    windows = [hearing.tokens(waveform[i * AUDIO_RATE_HZ :][: 2 * AUDIO_RATE_HZ]) for i in (0, 2, 4)]
    np.testing.assert_allclose(hearing.tokens(waveform), np.concatenate(windows), atol=1e-6)


def test_nothing_to_hear(hearing: HearingEncoder) -> None:
    with pytest.raises(AudioError, match="no samples"):
        hearing.encode(np.zeros(0, np.float32))


def test_whole_seconds() -> None:
    assert [len(whole_seconds(np.ones(n, np.float32))) for n in (1, 16_000, 16_001)] == [16_000, 16_000, 32_000]


def test_block_causal_bias() -> None:
    bias = block_causal_bias(5, 2)
    assert (bias == 0).tolist() == [[True, True, False, False, False]] * 2 + [[True] * 4 + [False]] * 2 + [[True] * 5]
    assert bias.max() == 0
    assert bias.min() < -1e4


def test_pictures_are_encoded_one_by_one() -> None:
    class Session:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
            self.seen.append(len(feeds["pixels"]))
            return [feeds["pixels"].mean((2, 3))[:, None, :]]

    pixels = np.random.default_rng(0).normal(size=(3, 3, 4, 4)).astype(np.float32)
    session = Session()
    tokens = VisionEncoder(session).encode(pixels)  # type: ignore[arg-type]
    np.testing.assert_array_equal(tokens, pixels.mean((2, 3))[:, None, :])
    assert session.seen == [1, 1, 1]
