"""Expected words are those of Stanford's PTBTokenizer 3.4.1 as coco-caption calls it, recorded from a run."""

from __future__ import annotations

import pytest

from minicpm_o.evaluation.official.caption import ptb_tokens
from minicpm_o.evaluation.tokenise import character_tokens


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's dog, isn't it?", "a man 's dog is n't it"),
        ("They cannot go; we gonna run.", "they can not go we gon na run"),
        ("The dogs' toys cost $5.50 (cheap) & 20%!", "the dogs toys cost $ 5.50 -lrb- cheap -rrb- & 20 %"),
        ('He said "hello" to the 1st boy at 3:30 p.m.', "he said hello to the 1st boy at 3:30 p.m."),
        ("black/white and/or the U.S. flag...", "black/white and/or the u.s. flag"),
        ("Wait -- what - no", "wait what no"),
        ("it’s a “smart” café — nice", "it 's a smart café nice"),
        ("e.g. Mr. Smith, Dr. Who", "e.g. mr. smith dr. who"),
        ("1,000 people in 1990's cars", "1,000 people in 1990 's cars"),
        ("a t-shirt, close-up", "a t-shirt close-up"),
        ("dog.cat dog,cat dog!cat", "dog.cat dog cat dog!cat"),
        ("end of St. John's St.", "end of st. john 's st."),
        ("O'Brien's o'clock 'em", "o'brien 's o'clock 'em"),
        ("A 3-D B&W AT&T", "a 3-d b&w at&t"),
        ("", ""),
    ],
)
def test_words_are_those_of_the_java_tokeniser(caption: str, words: str) -> None:
    assert " ".join(ptb_tokens(caption)) == words


def test_chinese_goes_by_characters_and_keeps_latin_words_whole() -> None:
    assert character_tokens("两只狗，T恤 iPhone 12。") == ["两", "只", "狗", "t", "恤", "iphone", "12"]
