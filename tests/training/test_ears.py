"""Ears for words: texts are spelt in the language model's own tokens, and CTC learns to hear them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.errors import InputError  # noqa: E402
from minicpm_o.model.config import WordEarsConfig, tiny  # noqa: E402
from minicpm_o.model.encoders.projector import WordEars  # noqa: E402
from minicpm_o.rates import UNIT_ENCODER_FRAMES  # noqa: E402
from minicpm_o.training.ears import (  # noqa: E402
    LETTERS,
    EarsTraining,
    Speller,
    choose_units,
    read_aloud,
    spoken_words,
    start_units,
    train_ears,
    utterances,
    word_error_rate,
)
from minicpm_o.training.features import AudioCache  # noqa: E402

PIECES = [form for letter in LETTERS for form in (f" {letter}", letter)] + [" the", " cat", "ing", " sat"]


class Tokenizer:
    """Longest piece first; ids are places in the list."""

    def encode(self, text: str) -> list[int]:
        ids = []
        while text:
            piece = max((piece for piece in PIECES if text.startswith(piece)), key=len)
            ids.append(PIECES.index(piece))
            text = text[len(piece) :]
        return ids

    def decode(self, ids: list[int]) -> str:
        return "".join(PIECES[number] for number in ids)


def test_words_as_they_sound() -> None:
    assert spoken_words("The CAT's, 3 hats!") == ["the", "cat's", "hats"]


def test_pieces_are_letters_and_the_commonest_tokens() -> None:
    units = choose_units(["the cat", "the cat sat", "the"], Tokenizer(), 2 * len(LETTERS) + 2)
    assert [PIECES[unit] for unit in units[-2:]] == [" the", " cat"]
    with pytest.raises(InputError, match="pieces of words and 99 are wanted"):
        choose_units(["the"], Tokenizer(), 99)


def test_what_is_spelt_can_be_read() -> None:
    speller = Speller(choose_units(["the cat sat"], Tokenizer(), 2 * len(LETTERS) + 2), Tokenizer())
    path = [0, 0]
    for piece in speller.spell("The cat sitting"):
        path += [piece, piece, 0]
    assert speller.read(path) == "the cat sitting", "a word of unknown tokens is spelt by letters"


def noisy_cache(texts: list[str], width: int) -> AudioCache:
    """Every letter has frames of its own."""
    rng = np.random.default_rng(0)
    looks = {letter: rng.normal(size=width) * 2 for letter in LETTERS + " "}
    frames, index = [], []
    for number, text in enumerate(texts):
        start = sum(map(len, frames))
        said = np.concatenate([np.repeat(looks[letter][None], 4, 0) for letter in text])
        sound = np.pad(said, ((0, -len(said) % UNIT_ENCODER_FRAMES), (0, 0)))
        frames.append(sound + rng.normal(size=sound.shape) * 0.1)
        index.append({"source": 0, "frame": start, "units": len(sound) // UNIT_ENCODER_FRAMES, "n": len(sound) * 320,
                      "text": text, "val": number % 4 == 3, "kind": "sentence"})
    return AudioCache([np.concatenate(frames).astype(np.float16)], index)


def test_ctc_learns_to_hear() -> None:
    texts = [" ".join(words) for words in (("the", "cat"), ("a", "hat"), ("the", "bat"), ("a", "cat"), ("the", "hat"),
                                           ("a", "bat"), ("the", "rat"), ("the", "cat"))] * 3
    config = tiny()
    shape = WordEarsConfig(width=32, ffn=64, layers=1, heads=2, units=2 * len(LETTERS))
    config = replace(config, hearing=replace(config.hearing, words=shape))
    tokenizer = Tokenizer()
    speller = Speller(choose_units(texts, tokenizer, shape.units), tokenizer)
    audio = noisy_cache(texts, config.hearing.width)
    known, kept_out = (utterances(audio, speller, validation=side) for side in (False, True))
    assert (len(known), len(kept_out)) == (18, 6)
    torch.manual_seed(0)
    ears = WordEars(config, shape)
    before = word_error_rate(ears, speller, audio, kept_out)
    told: list[float] = []
    train_ears(ears, audio, known, EarsTraining(seconds=1e9, steps=150, warmup=20, peak_lr=3e-3),
               lambda step, seconds, loss: told.append(loss))
    after = word_error_rate(ears, speller, audio, kept_out)
    assert after < 0.7 * before and told, (before, after)
    assert isinstance(read_aloud(ears, speller, torch.zeros(UNIT_ENCODER_FRAMES, config.hearing.width)), str)


def test_pieces_begin_as_the_language_models_words() -> None:
    config = tiny()
    ears = WordEars(config, config.hearing.words)
    table = torch.arange(96.0)[:, None].expand(96, config.language.width)
    units = list(range(50, 50 + config.hearing.words.units))
    start_units(ears, units, table)
    assert ears.unit_ids.tolist() == [0, *units] and ears.unit_words[3, 0] == 52
