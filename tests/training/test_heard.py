"""What own ears wrote down stands in the caches, and the language model learns from it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.model.config import tiny  # noqa: E402
from minicpm_o.model.encoders.word_ears import WordEars  # noqa: E402
from minicpm_o.runtime.word_search import WordModel, WordSearch  # noqa: E402
from minicpm_o.training import samples as s  # noqa: E402
from minicpm_o.training.features import AudioCache, heard_path  # noqa: E402
from minicpm_o.training.heard import chosen_rows, hear_rows  # noqa: E402

HEARING = tiny().hearing


@pytest.fixture
def audio(tmp_path: Path) -> AudioCache:
    frames = np.random.default_rng(0).normal(size=(150, HEARING.width)).astype(np.float16)
    np.save(tmp_path / "tone_frames.npy", frames)
    entries = [{"kind": kind, "text": text, "val": False, "frame": 50 * row, "units": 1, "n": 16000}
               for row, (kind, text) in enumerate((("chat", "A?"), ("chat", "B?"), ("digit", "two")))]
    (tmp_path / "tone_frames.json").write_text(json.dumps(entries))
    heard_path(tmp_path / "tone").write_text(json.dumps({"1": "Bee."}))
    return AudioCache.open([tmp_path / "tone"])


def test_what_was_heard_comes_with_the_cache(audio: AudioCache) -> None:
    assert [entry["heard"] for entry in audio.index] == [None, "Bee.", None]


def test_rows_of_every_kind_are_chosen(audio: AudioCache) -> None:
    assert chosen_rows(audio, 5) == [0, 1, 2]
    assert chosen_rows(audio, 1) == chosen_rows(audio, 1) and 2 in chosen_rows(audio, 1)
    assert len(chosen_rows(audio, 1)) == 2


def test_the_same_rows_are_heard_alike(audio: AudioCache) -> None:
    torch.manual_seed(0)
    ears = WordEars(HEARING, HEARING.words).eval()
    search = WordSearch(WordModel({"bee": 2, "tea": 2}, {}))
    found = hear_rows(ears, search, audio, [0, 2])
    assert set(found) == {0, 2} and found == hear_rows(ears, search, audio, [0, 2])
    assert all(isinstance(words, str) for words in found.values())


def test_the_language_model_learns_from_what_was_heard() -> None:
    rng = random.Random(0)
    assert s.ears_branch(rng, "A bee.", "A be.").transcript == "A be."
    with_text, by_ear = s.spoken_branches(rng, "A bee?", "Yes.", "A be?")
    assert (with_text.transcript, by_ear.transcript) == ("A bee?", "A be?")
    assert s.digit_branch("two", "To.").transcript == "To." and s.digit_branch("two").transcript is None
