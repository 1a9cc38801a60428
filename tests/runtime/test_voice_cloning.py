"""Voice cloning over stand-in networks: graphs made here with the inputs and outputs of the published ones.

The stand-ins take every fourth frame of one mel bin for a token, and a mean over time for a speaker: enough to see what
goes in and what comes out, and nothing of a voice.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stand_ins import save_speaker, save_tokenizer

from minicpm_o.errors import AudioError, CheckpointError
from minicpm_o.inputs.voice_prompt import prompt_mel, resample, speaker_frames, tokenizer_mel
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.voice_cloning import SPEAKER_FILE, TOKENIZER_FILE, VoiceCloner, match_frames

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer(tmp_path / TOKENIZER_FILE)
    save_speaker(tmp_path / SPEAKER_FILE)
    return tmp_path


@pytest.fixture
def cloner(folder: Path) -> VoiceCloner:
    return VoiceCloner.from_folder(folder, plan_device(threads=1))


def clip(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize("samples", [16_000, 16_480, 16_479, 2_000, 30 * 16_000])
def test_a_clip_becomes_a_voice(cloner: VoiceCloner, samples: int) -> None:
    sound = clip(samples)
    voice = cloner.clone(sound)
    tokens = (100 * (tokenizer_mel(sound)[5, ::4] + 3)).astype(np.int64)
    np.testing.assert_allclose(voice.tokens, tokens, atol=1)
    assert voice.tokens.dtype == np.int64 and len(tokens) == -(-(samples // 160) // 4)
    assert voice.mel.shape == (2 * len(tokens), 80) and voice.mel.dtype == np.float32
    mel = prompt_mel(resample(sound, 16_000, 24_000))
    common = min(len(mel), len(voice.mel))
    np.testing.assert_array_equal(voice.mel[:common], mel[:common])
    np.testing.assert_allclose(voice.speaker, np.square(speaker_frames(sound)).mean(0)[np.arange(192) % 80], rtol=1e-4)


def test_frames_are_cut_or_repeated() -> None:
    mel = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(match_frames(mel, 2), mel[:2])
    np.testing.assert_array_equal(match_frames(mel, 5), mel[[0, 1, 2, 2, 2]])
    assert match_frames(mel, 3).shape == (3, 2)


def test_a_long_clip_is_cut_with_a_warning(cloner: VoiceCloner) -> None:
    sound = clip(31 * 16_000)
    with pytest.warns(UserWarning, match=r"31\.0 s long; only its first 30 s"):
        voice = cloner.clone(sound)
    np.testing.assert_array_equal(voice.tokens, cloner.clone(sound[:30 * 16_000]).tokens)
    assert len(voice.tokens) == 750


def test_a_clip_that_cannot_be_used(cloner: VoiceCloner) -> None:
    for sound in (clip(1900), np.zeros((2, 16_000), np.float32), np.zeros(0, np.float32)):
        with pytest.raises(AudioError, match=r"expected \(N,\) at 16000 Hz of 0.12 s or more"):
            cloner.clone(sound)
    with pytest.raises(AudioError, match="NaN or infinite"):
        cloner.clone(np.full(16_000, np.nan, np.float32))


@pytest.mark.parametrize("name", [TOKENIZER_FILE, SPEAKER_FILE])
def test_missing_and_broken_networks(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=f"cannot load .*{name}"):
        VoiceCloner.from_folder(folder, plan_device(threads=1))
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no .*{name}; voice cloning needs it"):
        VoiceCloner.from_folder(folder, plan_device(threads=1))
