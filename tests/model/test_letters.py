"""Letters of own ears: what is spelt can be read."""

from __future__ import annotations

import pytest

from minicpm_o.model.letters import BLANK, LETTERS, NUM_CLASSES, read_path, spell, spoken_words


def test_words_as_they_sound() -> None:
    assert spoken_words("The CAT's, 3 hats!") == ["the", "cat's", "hats"]


@pytest.mark.parametrize("text", ["the cat sitting", "it's a ball", "zoo"])
def test_what_is_spelt_can_be_read(text: str) -> None:
    path = [BLANK]
    for letter in spell(text):
        path += [letter, letter, BLANK]
    assert read_path(path) == text


def test_repeated_steps_are_one_letter_and_double_letters_need_a_blank() -> None:
    b, o, el = (LETTERS.index(letter) + 1 for letter in "bol")
    assert read_path([b, b, o, o, el, el]) == "bol"
    assert read_path([b, o, el, BLANK, el]) == "boll"


def test_spaces_around_and_between_are_one() -> None:
    space, a = LETTERS.index(" ") + 1, LETTERS.index("a") + 1
    assert read_path([space, a, space, BLANK, space, a, space]) == "a a"
    assert read_path([BLANK] * 4) == "" and read_path([]) == ""


def test_every_letter_has_a_class() -> None:
    assert sorted(spell("'abcdefghijklmnopqrstuvwxyz a"))[-1] == NUM_CLASSES - 1
