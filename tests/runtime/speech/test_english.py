from __future__ import annotations

import pytest

from minicpm_o.runtime.speech.english import EnglishPhonemizer
from minicpm_o.runtime.speech.kokoro import VOCABULARY, to_ids
from minicpm_o.runtime.speech.lexicon import Lexicon
from minicpm_o.runtime.speech.reading import read


@pytest.fixture
def toy(toy_lexicon: Lexicon) -> EnglishPhonemizer:
    return EnglishPhonemizer(toy_lexicon, lambda word: f"?{word}?")


def spoken(phonemizer: EnglishPhonemizer, text: str) -> str:
    return phonemizer.phonemes(read(text)).removesuffix(".")


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("cat", "kˈæt"),
        ("Cat", "kˈæt"),
        ("london", "lˈʌndən"),
        ("cats", "kˈæts"),
        ("dog's", "dˈɔɡz"),
        ("dogs'", "dˈɔɡz"),
        ("walked walking", "wˈɔkt wˈɔkɪŋ"),
        ("cupcakes", "kˈʌpkˌAks"),
        ("cup-cake", "kˈʌpkˈAk"),
        ("DogCat", "dˈɔɡkˈæt"),
        ("the cat", "ðə kˈæt"),
        ("a cat", "ɐ kˈæt"),
        ("have read", "?have? ɹˈɛd"),
        ("I read it", "ˌI ɹˈid ?it?"),
        ("could", "kˈʊd"),
        ("could walk", "kʊd wˈɔk"),
        ("US", "jˌuˈɛs"),
        ("USA", "jˌuˌɛsˈA"),
        ("NASA's", "nˈæsəz"),
        ("cät", "kˈæt"),
        ("blorf", "?blorf?"),
        ("unread", "ˌʌnɹˈid"),
        ("cat, dog! walk", "kˈæt, dˈɔɡ! wˈɔk"),
    ],
)
def test_ways_to_a_word(toy: EnglishPhonemizer, text: str, phonemes: str) -> None:
    assert spoken(toy, text) == phonemes


def test_a_shouted_text_is_not_spelled(toy: EnglishPhonemizer) -> None:
    assert spoken(toy, "WALK THE CAT") == "wˈɔk ðə kˈæt"
    assert spoken(toy, "US READ LONDON") == "ˌʌs ɹˈid lˈʌndən"


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("Dr. Smith paid $1,250.40.", "dˈɑktəɹ smˈɪθ pˈAd wˈʌn θˈWzᵊnd tˈu hˈʌndɹəd fˈɪfti dˈɑləɹz ænd fˈɔɹɾi sˈɛnts"),
        ("In 1984 it was 72°F.", "ɪn nˌIntˈin ˈAɾi fˈɔɹ ɪt wʌz sˈɛvənti tˈu dəɡɹˈiz fˈɛɹənhˌIt"),
        ("To record a record.", "tə ɹəkˈɔɹd ɐ ɹˈɛkəɹd"),
        ("The object I object to.", "ði ˈɑbʤəkt ˌI əbʤˈɛkt tu"),
        ("An apple, the apple, to eat.", "ɐn ˈæpᵊl, ði ˈæpᵊl, tʊ ˈit"),
        ("He's well-known.", "hiz wˈɛlnˈOn"),
        ("Who'd've thought Mary'd come?", "hˌudəv θˈɔt mˈɛɹid kˈʌm?"),
        ("The CPU, GPUs and NASA.", "ðə sˌipˌijˈu, ʤˌipˌijˈuz ænd nˈæsə"),
        ("WHO IS IT?", "hˌu ɪz ɪt?"),
        ("The WHO and the US said it.", "ðə dˌʌbᵊljuˌAʧˈO ænd ðə jˌuˈɛs sˈɛd ɪt"),
        ("naïve fiancée, café", "nɑˈiv fiənsˈi, kæfˈA"),
        ("Ms. Lee's chatbot", "mˈɪz lˈiz ʧˈætbˌɑt"),
        ("Vitamin A is a vitamin.", "vˈIɾəmən ˈA ɪz ɐ vˈIɾəmən"),
    ],
)
def test_sentences(english: EnglishPhonemizer, text: str, phonemes: str) -> None:
    assert spoken(english, text) == phonemes


@pytest.mark.parametrize(
    "text",
    [
        "Zuckerberg xkcd pfft Nguyen Kyrgyzstan Häagen-Dazs qwrtz",
        "Привет αβγ שלום नमस्ते ひらがな 한국어 😂 🇺🇸 ☃ ₿",
        "a.b.c x_y {z} [1] <tag> \\n 5%^&*()+=|~`",
        "ƒ ǆ ɐ ẞ ŋ ﬀ Ⅷ ① ½ ™",
    ],
)
def test_anything_becomes_sounds_of_the_vocabulary(english: EnglishPhonemizer, text: str) -> None:
    phonemes = english.phonemes(read(text))
    assert len(to_ids(phonemes)) == len(phonemes)
    assert set(phonemes) <= VOCABULARY.keys() | {"ɾ", "ʔ"}


def test_every_word_of_a_text_is_heard(english: EnglishPhonemizer) -> None:
    text = "Zorbling vrixes quompled the 14 frelms of Xyloph's nth jzk"
    assert all(english.word(word) for word in text.replace("14", "fourteen").split())
