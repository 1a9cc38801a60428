"""Own ears learn by CTC which letters are spoken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.errors import CheckpointError  # noqa: E402
from minicpm_o.model.config import WordEarsConfig, tiny  # noqa: E402
from minicpm_o.model.encoders.word_ears import WordEars  # noqa: E402
from minicpm_o.model.letters import LETTERS  # noqa: E402
from minicpm_o.rates import UNIT_ENCODER_FRAMES  # noqa: E402
from minicpm_o.training.ears import (  # noqa: E402
    EarsTraining,
    put_into,
    read_aloud,
    train_ears,
    utterances,
    word_error_rate,
)
from minicpm_o.training.export import read_connectors, write_connectors  # noqa: E402
from minicpm_o.training.features import AudioCache  # noqa: E402

HEARING = tiny().hearing


def noisy_cache(texts: list[str], width: int) -> AudioCache:
    """Every letter has frames of its own."""
    rng = np.random.default_rng(0)
    looks = {letter: rng.normal(size=width) * 2 for letter in LETTERS}
    frames, index = [], []
    for number, text in enumerate(texts):
        start = sum(map(len, frames))
        said = np.concatenate([np.repeat(looks.get(letter, looks[" "])[None], 4, 0) for letter in text])
        sound = np.pad(said, ((0, -len(said) % UNIT_ENCODER_FRAMES), (0, 0)))
        frames.append(sound + rng.normal(size=sound.shape) * 0.1)
        index.append({"source": 0, "frame": start, "units": len(sound) // UNIT_ENCODER_FRAMES, "n": len(sound) * 320,
                      "text": text, "val": number % 4 == 3, "kind": "sentence"})
    return AudioCache([np.concatenate(frames).astype(np.float16)], index)


def test_what_cannot_be_spelt_is_left_out() -> None:
    audio = noisy_cache(["the cat", "2 cats", "...", "a hat"], HEARING.width)
    assert [item.text for item in utterances(audio, validation=False)] == ["the cat"]
    assert [item.text for item in utterances(audio, validation=True)] == ["a hat"]


def test_ctc_learns_to_hear() -> None:
    texts = [" ".join(words) for words in (("the", "cat"), ("a", "hat"), ("the", "bat"), ("a", "cat"), ("the", "hat"),
                                           ("a", "bat"), ("the", "rat"), ("the", "cat"))] * 3
    audio = noisy_cache(texts, HEARING.width)
    known, kept_out = (utterances(audio, validation=side) for side in (False, True))
    assert (len(known), len(kept_out)) == (18, 6)
    torch.manual_seed(0)
    ears = WordEars(HEARING, WordEarsConfig(width=32, ffn=64, layers=1, heads=2))
    before = word_error_rate(ears, audio, kept_out)
    told: list[float] = []
    train_ears(ears, audio, known, EarsTraining(seconds=1e9, steps=350, warmup=20, peak_lr=1e-2, weight_decay=0.0),
               lambda step, seconds, loss: told.append(loss))
    after = word_error_rate(ears, audio, kept_out)
    assert after < 0.5 * before and told, (before, after)
    assert isinstance(read_aloud(ears, torch.zeros(UNIT_ENCODER_FRAMES, HEARING.width)), str)


def test_learned_ears_take_the_place_of_others(tmp_path: Path) -> None:
    path, ears = tmp_path / "connectors.safetensors", WordEars(HEARING, HEARING.words)
    write_connectors({"markers.weight": torch.ones(2), "ears.old": torch.ones(1)}, path)
    put_into(ears, path)
    tensors = read_connectors(path)
    assert set(tensors) == {"markers.weight", *(f"ears.{name}" for name in ears.state_dict())}
    torch.testing.assert_close(tensors["ears.position"].float(), ears.position.detach(), atol=1e-3, rtol=1e-3)
    path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read as connectors"):
        put_into(ears, path)
