from __future__ import annotations

import pytest

from minicpm_o.runtime.speech.letters import LetterSounds, one_main_stress, pattern


@pytest.fixture(scope="module")
def sounds() -> LetterSounds:
    return LetterSounds.open()


def test_a_pattern_shows_the_letter_between_its_neighbours() -> None:
    assert pattern("cat", 0, (0, 0)) == "C"
    assert pattern("cat", 0, (2, 2)) == "##Cat"
    assert pattern("cat", 2, (1, 2)) == "aT##"


@pytest.mark.parametrize(
    ("word", "phonemes"),
    [("blat", "blˈæt"), ("shime", "ʃˈIm"), ("phex", "fˈɛks"), ("trondle", "tɹˈɑndᵊl"), ("glight", "ɡlˈIt")],
)
def test_invented_words_sound_english(sounds: LetterSounds, word: str, phonemes: str) -> None:
    assert sounds.sound_out(word) == phonemes


@pytest.mark.parametrize("word", ["a", "rhythm", "strengths", "aeiou", "bcdfghjklm", "zzz", "x" * 60])
def test_one_main_stress_and_some_sound(sounds: LetterSounds, word: str) -> None:
    phonemes = sounds.sound_out(word)
    assert phonemes and phonemes.count("ˈ") <= 1


@pytest.mark.parametrize(
    ("before", "after"),
    [("kˈætˈo", "kˈætˌo"), ("kæt", "kˈæt"), ("kˌæto", "kˈæto"), ("pst", "pst"), ("kˌætˈo", "kˌætˈo")],
)
def test_one_main_stress(before: str, after: str) -> None:
    assert one_main_stress(before) == after
