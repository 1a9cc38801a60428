"""The table of the tokens' bytes."""

from __future__ import annotations

import pytest
from phone import read_tokens

from minicpm_o.mobile.tokens import byte_letters, token_table


def test_letters_of_bytes_are_those_of_the_tokenizers_library() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert set(byte_letters()) == set(level.alphabet())
    for text in ("a b\n", "é", "东", "😀"):
        (piece, _), = level.pre_tokenize_str(text)
        assert piece == "".join(byte_letters()[byte] for byte in text.encode())


def test_words_come_back_as_bytes() -> None:
    letters = byte_letters()
    half = "".join(letters[byte] for byte in "东".encode()[:2])
    table = token_table({"words": ["<|end|>", "Ġcat", None, half], "special": [0]})
    assert read_tokens(table) == [b"", b" cat", b"", "东".encode()[:2]]
