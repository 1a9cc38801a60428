from __future__ import annotations

import pytest

from minicpm_o.runtime.speech.morphology import Split, attach, splits


@pytest.mark.parametrize(
    ("phonemes", "ending", "expected"),
    [
        ("kˈæt", "s", "kˈæts"),
        ("dˈɔɡ", "s", "dˈɔɡz"),
        ("kˈɪs", "s", "kˈɪsᵻz"),
        ("ʤˈʌʤ", "s", "ʤˈʌʤᵻz"),
        ("wˈɔk", "ed", "wˈɔkt"),
        ("plˈA", "ed", "plˈAd"),
        ("wˈAt", "ed", "wˈAɾᵻd"),
        ("wˈɑnt", "ed", "wˈɑntᵻd"),
        ("nˈid", "ed", "nˈidᵻd"),
        ("kˈʌt", "ing", "kˈʌɾɪŋ"),
        ("hˈɛlp", "ing", "hˈɛlpɪŋ"),
        ("slˈO", "ly", "slˈOli"),
    ],
)
def test_endings_sound_as_the_sound_before(phonemes: str, ending: str, expected: str) -> None:
    assert attach(phonemes, ending) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("cats", Split("cat", "s")),
        ("cities", Split("city", "s")),
        ("boxes", Split("box", "s")),
        ("stopped", Split("stop", "ed")),
        ("baked", Split("bake", "ed")),
        ("tried", Split("try", "ed")),
        ("running", Split("run", "ing")),
        ("mary's", Split("mary", "s")),
        ("dogs'", Split("dogs", "s")),
        ("happiness", Split("happy", "ness")),
    ],
)
def test_stems_are_proposed(word: str, split: Split) -> None:
    assert split in list(splits(word))


def test_short_words_have_no_stem() -> None:
    assert not list(splits("is")) and not list(splits("glass")) and not list(splits("red"))
