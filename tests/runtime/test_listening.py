"""Clips and streams over the raw network: shapes, padding, the cache, what is refused. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.whisper import build_hearing
from minicpm_o.checkpoints.official_layout import expected_tensors
from minicpm_o.errors import AudioError, CheckpointError
from minicpm_o.model.config import NanoConfig, OfficialConfig, WhisperEncoderConfig
from minicpm_o.runtime.device import DevicePlan, make_session
from minicpm_o.runtime.listening import FILE_NAME, HearingSession, StreamingHearing, encode_clips, hear_chunk

CONFIG = OfficialConfig(name="tiny", hearing=WhisperEncoderConfig(
    mel_bins=8, width=16, heads=2, layers=2, ffn=64, max_frames=60, pool_step=5, chunk_s=0.2))
"""Blocks of 10 encoder frames, 20 mel frames, 2 tokens."""
HEARING = CONFIG.hearing
assert HEARING is not None
PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())


def random_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: (rng.normal(0, 0.3, shape) + ("norm.weight" in name)).astype(np.float32)
            for name, shape in expected_tensors(CONFIG).items() if name.startswith(("apm.", "audio_projection"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listening")
    build_hearing(random_weights(), HEARING, CONFIG.language.width, folder)
    return folder


@pytest.fixture
def network(folder: Path) -> HearingSession:
    return HearingSession(make_session(folder / FILE_NAME, PLAN, kind="hearing"), HEARING)


def mel(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(HEARING.mel_bins, frames)).astype(np.float32)


def assert_close(got: np.ndarray, expected: np.ndarray, what: str, atol: float = 2e-5) -> None:
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    worst = np.abs(got - expected).max(initial=0)
    assert worst <= atol, f"{what}: differs by up to {worst:.2e}, allowed {atol:.0e}"


# Clips


@pytest.mark.parametrize("frames", [1, 8, 9, 10, 19, 20, 57, 118])
def test_tokens_of_a_clip(network: HearingSession, frames: int) -> None:
    (tokens,) = encode_clips(network, [mel(frames)])
    assert tokens.shape == ((frames + 1) // 2 // 5, CONFIG.language.width)
    assert np.isfinite(tokens).all() and tokens.dtype == np.float32


def test_frames_of_another_float_type(network: HearingSession) -> None:
    (got,), (expected,) = (encode_clips(network, [mel(20).astype(dtype)]) for dtype in (np.float64, np.float32))
    assert_close(got, expected, "float64 frames")


def test_no_clips(network: HearingSession) -> None:
    assert encode_clips(network, []) == []


class Recorder:
    """The network, and the shapes of what it was given."""

    def __init__(self, network: HearingSession) -> None:
        self.network, self.calls = network, []

    @property
    def config(self) -> WhisperEncoderConfig:
        return self.network.config

    def hear(self, log_mel: np.ndarray, *args: Any, **options: Any) -> tuple[np.ndarray, Any]:
        self.calls.append(log_mel.shape)
        return self.network.hear(log_mel, *args, **options)


@pytest.mark.parametrize("fix_padding", [False, True])
def test_a_clip_is_filled_up_as_far_as_it_hears(network: HearingSession, fix_padding: bool,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pieces run on a block or two, and give what the batch filled up to the longest gives."""
    clips, recorder = [mel(30), mel(117, 1), mel(45, 2)], Recorder(network)
    short = encode_clips(recorder, clips, fix_padding=fix_padding)
    assert [shape[2] for shape in recorder.calls] == [40, 117, 60]
    monkeypatch.setattr("minicpm_o.runtime.listening._heard_frames", lambda config, frames, longest: longest)
    whole = encode_clips(recorder, clips, fix_padding=fix_padding)
    assert [shape[2] for shape in recorder.calls[3:]] == [117] * 3
    for got, expected in zip(short, whole, strict=True):
        assert_close(got, expected, "clip")


def test_the_padding_of_the_official_models_is_heard(network: HearingSession) -> None:
    clips = [mel(30), mel(117, 1)]
    official, fixed = (encode_clips(network, clips, fix_padding=fix)[0] for fix in (False, True))
    alone = encode_clips(network, clips[:1])[0]
    assert_close(fixed, alone, "clip whose padding is hidden")
    assert_close(official[:2], alone[:2], "first block")
    assert np.abs(official[2] - alone[2]).max() > 1e-3


def test_without_blocks_all_is_seen(network: HearingSession) -> None:
    changed = mel(60)
    changed[:, 40:] += 1
    blocks = [encode_clips(network, [clip])[0] for clip in (mel(60), changed)]
    network.config = replace(network.config, chunk_s=0)
    whole = [encode_clips(network, [clip])[0] for clip in (mel(60), changed)]
    # the last frame before the change sees one frame of it in the convolutions
    assert np.abs(blocks[0][:2] - blocks[1][:2]).max() < 1e-5
    assert np.abs(whole[0][:2] - whole[1][:2]).max() > 1e-3


# Streams


def hear_all(network: HearingSession, log_mel: np.ndarray, num_chunks: int) -> tuple[list[np.ndarray], list[int]]:
    """Chunks of a block with two frames of context on each side."""
    heard, tokens, lengths = StreamingHearing(), [], []
    for index in range(num_chunks):
        before = 2 if index else 0
        chunk = log_mel[:, 20 * index - before:20 * (index + 1) + 2]
        part, heard = hear_chunk(network, heard, chunk, prefix_frames=before, suffix_frames=2)
        tokens.append(part)
        lengths.append(heard.num_frames)
    return tokens, lengths


def test_a_stream_is_the_clip(network: HearingSession) -> None:
    log_mel = mel(82)
    tokens, lengths = hear_all(network, log_mel, 4)
    assert lengths == [10, 20, 30, 40]
    assert_close(np.concatenate(tokens), encode_clips(network, [log_mel])[0][:8], "stream")


def test_what_was_heard_is_forgotten_before_places_run_out(network: HearingSession) -> None:
    """The context counts: 50 frames and 12 more would be 62 of 60 places, 40 and 12 are not."""
    log_mel = mel(20 * 9 + 2)
    tokens, lengths = hear_all(network, log_mel, 9)
    assert lengths == [10, 20, 30, 40, 50, 10, 20, 30, 40]
    fresh, _ = hear_chunk(network, StreamingHearing(), log_mel[:, 98:122], prefix_frames=2, suffix_frames=2)
    assert_close(tokens[5], fresh, "first chunk after forgetting")


def test_a_state_can_be_gone_back_to(network: HearingSession) -> None:
    _, before = hear_chunk(network, StreamingHearing(), mel(20))
    first, _ = hear_chunk(network, before, mel(20, 1))
    hear_chunk(network, before, mel(20, 2))
    again, after = hear_chunk(network, before, mel(20, 1))
    np.testing.assert_array_equal(first, again)
    assert (before.num_frames, after.num_frames) == (10, 20)


def test_a_long_chunk_repeats_the_last_place(network: HearingSession) -> None:
    tokens, heard = hear_chunk(network, StreamingHearing(), mel(130))
    assert (tokens.shape[0], heard.num_frames) == (13, 65)
    assert np.isfinite(tokens).all()
    _, heard = hear_chunk(network, heard, mel(20))
    assert heard.num_frames == 10


def test_a_chunk_of_less_than_a_token(network: HearingSession) -> None:
    with pytest.raises(AudioError, match="leaves 4 encoder frames, a token takes 5"):
        hear_chunk(network, StreamingHearing(), mel(8))
    with pytest.raises(AudioError, match="leaves 4 encoder frames"):
        hear_chunk(network, StreamingHearing(), mel(12), prefix_frames=2, suffix_frames=2)


# What is refused


@pytest.mark.parametrize(("log_mel", "words"), [
    (np.zeros((8, 0), np.float32), r"shape \(8, 0\)"),
    (np.zeros((80, 20), np.float32), r"takes \(8, F\)"),
    (np.zeros(20, np.float32), r"shape \(20,\)"),
    (np.full((8, 20), np.nan, np.float32), "NaN or infinite"),
    (np.full((8, 20), np.inf, np.float32), "NaN or infinite"),
])
def test_what_cannot_be_heard(network: HearingSession, log_mel: np.ndarray, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        encode_clips(network, [mel(20), log_mel])
    with pytest.raises(AudioError, match=words):
        hear_chunk(network, StreamingHearing(), log_mel)


def test_from_bundle(folder: Path) -> None:
    bundle = SimpleNamespace(config=CONFIG, folder=folder, path=lambda name: folder / name)
    network = HearingSession.from_bundle(bundle, PLAN)  # type: ignore[arg-type]
    assert len(encode_clips(network, [mel(20)])[0]) == 2
    bundle.config = NanoConfig(name="nano")
    with pytest.raises(CheckpointError, match=r"nano, without a hearing\.onnx"):
        HearingSession.from_bundle(bundle, PLAN)  # type: ignore[arg-type]


# Torch answers the same protocol


def test_the_torch_modules_answer_alike(network: HearingSession, folder: Path) -> None:
    torch = pytest.importorskip("torch")
    from minicpm_o.model.encoders.audio_projector import PooledAudioProjector
    from minicpm_o.model.encoders.whisper import TorchHearing, WhisperTower

    weights = random_weights()
    tower, projector = WhisperTower(HEARING), PooledAudioProjector(HEARING.width, CONFIG.language.width, 5)
    for module, prefix in ((tower, "apm."), (projector, "audio_projection_layer.")):
        module.load_state_dict({name.removeprefix(prefix): torch.from_numpy(tensor)
                                for name, tensor in weights.items() if name.startswith(prefix)})
    twin = TorchHearing(tower.eval(), projector.eval())
    for got, expected in zip(encode_clips(twin, [mel(57), mel(30)]), encode_clips(network, [mel(57), mel(30)]),
                             strict=True):
        assert_close(got, expected, "clips", atol=1e-4)
    streams = [hear_all(each, mel(142), 7) for each in (twin, network)]  # type: ignore[arg-type]
    assert streams[0][1] == streams[1][1]
    assert_close(np.concatenate(streams[0][0]), np.concatenate(streams[1][0]), "stream", atol=1e-4)
