"""Hearing of the official checkpoints against the reference classes: frames, encoder, tokens, streams, the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.whisper import build_hearing
from minicpm_o.inputs.audio import load_audio
from minicpm_o.inputs.mel import DUPLEX, SIMPLEX, StreamingMel, clip_log_mel
from minicpm_o.rates import AUDIO_RATE_HZ
from minicpm_o.runtime.device import DevicePlan, make_session
from minicpm_o.runtime.listening import (
    FILE_NAME,
    HearingNetwork,
    HearingSession,
    StreamingHearing,
    encode_clips,
    hear_chunk,
)
from oracle import assert_close, load_inputs, load_outputs, load_weights, oracle_cases, read_config, read_json

CASES = oracle_cases("_03_audio_encoder")
MEL_TOLERANCE = 2e-4
TOLERANCE = 1e-4
"""Absolute, and relative to the mean magnitude of what is expected."""
PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())


def torch_network(case: Path) -> HearingNetwork:
    torch = pytest.importorskip("torch")
    from minicpm_o.model.encoders.audio_projector import PooledAudioProjector
    from minicpm_o.model.encoders.whisper import TorchHearing, WhisperTower

    config = read_config(case)
    tower = WhisperTower(config.hearing).eval()
    projector = PooledAudioProjector(config.hearing.width, config.language.width, config.hearing.pool_step).eval()
    for module, prefix in ((tower, "apm."), (projector, "audio_projection_layer.")):
        module.load_state_dict({k: torch.from_numpy(v) for k, v in load_weights(case, prefix).items()})
    return TorchHearing(tower, projector)


@pytest.fixture(params=["torch", "onnx"])
def network(request: pytest.FixtureRequest, case: Path, tmp_path: Path) -> HearingNetwork:
    if request.param == "torch":
        return torch_network(case)
    config = read_config(case)
    build_hearing(load_weights(case), config.hearing, config.language.width, tmp_path)
    return HearingSession(make_session(tmp_path / FILE_NAME, PLAN, kind="hearing"), config.hearing)


def assert_same(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert_close(got, expected, TOLERANCE * min(1.0, float(np.abs(expected).mean())), what)


def golden_series(outputs: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    count = sum(key.startswith(f"{name}.") for key in outputs)
    return [outputs[f"{name}.{index}"] for index in range(count)]


def chunks(waveform: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    assert sum(sizes) <= len(waveform)
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        yield waveform[start:start + size]


@pytest.mark.parametrize("case", CASES)
def test_log_mel_of_clips(case: Path) -> None:
    inputs, outputs, config = read_json(case / "inputs.json"), load_outputs(case), read_config(case)
    for index, (name, num_frames) in enumerate(zip(inputs["clips"], inputs["mel_frames"], strict=True)):
        got = clip_log_mel(load_audio(case / name), mel_bins=config.hearing.mel_bins)
        assert got.shape == (config.hearing.mel_bins, num_frames)
        assert_close(got, outputs[f"offline.mel.{index}"], MEL_TOLERANCE, f"log-mel of {name}")


@pytest.mark.parametrize("case", CASES)
def test_encoder_of_the_padded_batch(case: Path) -> None:
    """The reference's own way: one batch, frames of filling included."""
    torch = pytest.importorskip("torch")
    from minicpm_o.model.encoders.whisper import encode_padded, offline_bias

    outputs, hearing = load_outputs(case), torch_network(case)
    mels = golden_series(outputs, "offline.mel")
    lengths = [mel.shape[1] for mel in mels]
    batch = torch.from_numpy(np.stack([np.pad(mel, ((0, 0), (0, max(lengths) - mel.shape[1]))) for mel in mels]))
    with torch.no_grad():
        hidden, _ = hearing.tower(batch, offline_bias(lengths, (max(lengths) + 1) // 2, hearing.config.chunk_s))
        tokens = encode_padded(hearing.tower, hearing.projector, batch, lengths)
    assert_same(hidden[:, ::3], outputs["offline.encoder_last_hidden"], "encoder's last hidden state")
    for index, row in enumerate(tokens):
        assert_same(row, outputs[f"offline.embedding.{index}"], f"tokens of clip {index}")


@pytest.mark.parametrize("case", CASES)
def test_tokens_of_clips(case: Path, network: HearingNetwork) -> None:
    outputs = load_outputs(case)
    tokens = encode_clips(network, golden_series(outputs, "offline.mel"))
    for index, row in enumerate(tokens):
        assert_same(row, outputs[f"offline.embedding.{index}"], f"tokens of clip {index}")


@pytest.mark.parametrize("case", CASES)
def test_tokens_of_clips_without_blocks(case: Path, network: HearingNetwork) -> None:
    outputs = load_outputs(case)
    expected = golden_series(outputs, "offline_fullattn.embedding")
    if not expected:
        pytest.skip("this case has no outputs under full attention")
    network.config = replace(network.config, chunk_s=-1)
    for index, row in enumerate(encode_clips(network, golden_series(outputs, "offline.mel"))):
        assert_same(row, expected[index], f"tokens of clip {index}, full attention")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", ["duplex", "simplex"])
def test_stream(case: Path, network: HearingNetwork, mode: str) -> None:
    """4.5: frames from the growing sound, tokens from the growing cache."""
    outputs, inputs = load_outputs(case), read_json(case / "inputs.json")
    if mode not in inputs.get("streaming", {}):
        pytest.skip(f"this case has no {mode} stream")
    steps = inputs["streaming"][mode]
    settings = {"duplex": DUPLEX, "simplex": SIMPLEX}[mode]
    mel, heard = StreamingMel(settings, mel_bins=network.config.mel_bins), StreamingHearing()
    waveform = load_audio(case / inputs["stream"])
    for index, (step, chunk) in enumerate(zip(steps, chunks(waveform, [s["samples"] for s in steps]), strict=True)):
        frames, mel = mel.process(chunk)
        assert frames.shape[1] == step["frames"]
        since_start = mel.final_frames  # the reference counts from the oldest sound it remembers, too
        assert step["stable_T"] in (since_start, since_start - mel.dropped_frames)
        assert_close(frames, outputs[f"{mode}.mel.{index}"], MEL_TOLERANCE, f"{mode} log-mel of chunk {index}")
        tokens, heard = hear_chunk(network, heard, frames, prefix_frames=settings.context_frames if index else 0,
                                   suffix_frames=settings.context_frames)
        assert (len(tokens), heard.num_frames) == (step["n_embeds"], step["kv_len_after"])
        assert_same(tokens, outputs[f"{mode}.embedding.{index}"], f"{mode} tokens of chunk {index}")
    for layer, (keys, _) in enumerate(heard.cache):
        name = f"{mode}.final_keys.layer{layer}"
        if name in outputs:
            assert_same(keys[:, :, ::17], outputs[name], name)


@pytest.mark.parametrize("case", CASES)
def test_stream_of_independent_seconds(case: Path, network: HearingNetwork) -> None:
    """2.6: every second's frames as if it were a clip of its own, one cache."""
    outputs, inputs = load_outputs(case), read_json(case / "inputs.json")
    if "stream_kv_len" not in inputs:
        pytest.skip("this case has no stream of independent seconds")
    waveform, heard = load_audio(case / inputs["stream"]), StreamingHearing()
    for index, length in enumerate(inputs["stream_kv_len"]):
        second = waveform[index * AUDIO_RATE_HZ:][:AUDIO_RATE_HZ]
        frames = clip_log_mel(second, mel_bins=network.config.mel_bins)
        assert_close(frames, outputs[f"stream.mel.{index}"], MEL_TOLERANCE, f"log-mel of second {index}")
        tokens, heard = hear_chunk(network, heard, frames)
        assert heard.num_frames == length
        assert_same(tokens, outputs[f"stream.embedding.{index}"], f"tokens of second {index}")


@pytest.mark.parametrize("case", CASES)
def test_the_cache_is_dropped_when_positions_run_out(case: Path, network: HearingNetwork) -> None:
    outputs, inputs = load_outputs(case), read_json(case / "inputs.json")
    if "reset_kv_len_after_each_call" not in inputs:
        pytest.skip("this case has no reset")
    block, heard = load_inputs(case)["reset.block"], StreamingHearing()
    for index, length in enumerate(inputs["reset_kv_len_after_each_call"]):
        tokens, heard = hear_chunk(network, heard, block)
        assert heard.num_frames == length, f"cache after call {index}"
        if f"reset.embedding.{index}" in outputs:
            assert_same(tokens, outputs[f"reset.embedding.{index}"], f"tokens of call {index}")
