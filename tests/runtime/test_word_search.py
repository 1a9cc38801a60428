"""Letters become words that there are; a stream is read as the whole is."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.errors import CheckpointError
from minicpm_o.model.letters import BLANK, LETTERS, NUM_CLASSES, START
from minicpm_o.runtime.filters import log_softmax
from minicpm_o.runtime.word_search import Heard, SearchConfig, WordModel, WordSearch, either

WORDS = {START: 40, "a": 30, "the": 40, "dog": 20, "dot": 15, "runs": 12, "rum": 12, "sees": 5}
PAIRS = {(START, "the"): 30, (START, "a"): 10, ("the", "dog"): 15, ("the", "dot"): 1, ("a", "dot"): 12,
         ("a", "dog"): 1, ("dog", "runs"): 12, ("dot", "runs"): 1}


@pytest.fixture
def search() -> WordSearch:
    return WordSearch(WordModel(WORDS, PAIRS))


def spoken(text: str, *, sure: float = 6.0, doubts: str = "", held: int = 2) -> np.ndarray:
    """Log-probabilities of a text, each letter held, a blank behind it; "|" is a second of silence.

    doubts: letters that may be meant wherever one is written.
    """
    path: list[int] = []
    for letter in text:
        path += [BLANK] * 50 if letter == "|" else [LETTERS.index(letter) + 1] * held + [BLANK]
    logits = np.eye(NUM_CLASSES)[path] * sure
    for letter in doubts:
        logits[:, LETTERS.index(letter) + 1] += sure / 2
    return log_softmax(logits)


def read(search: WordSearch, log_probs: np.ndarray) -> str:
    return search.words(search.listen(Heard(), log_probs))


@pytest.mark.parametrize("text", ["the dog runs", "a dot", "the dog sees the dog", "sees"])
def test_clear_words_are_read(search: WordSearch, text: str) -> None:
    assert read(search, spoken(text)) == text


def test_what_is_spelt_by_sound_becomes_the_word_that_fits(search: WordSearch) -> None:
    assert read(search, spoken("the dox runs", doubts="gt")) == "the dog runs", "pairs decide what letters leave open"
    assert read(search, spoken("a dox", doubts="gt")) == "a dot"


def test_a_word_that_is_not_in_the_list_is_kept_when_its_letters_are_sure(search: WordSearch) -> None:
    assert read(search, spoken("the zyx runs", sure=12.0)) == "the zyx runs"


def test_an_unfinished_word_counts_at_the_end(search: WordSearch) -> None:
    assert read(search, spoken("the dog")) == "the dog"
    assert read(search, spoken("the dog ")) == "the dog"
    assert read(search, spoken("  the   dog ")) == "the dog"


def test_double_letters_need_a_blank_between(search: WordSearch) -> None:
    path = [LETTERS.index(letter) + 1 for letter in "sees"]
    assert read(search, log_softmax(np.eye(NUM_CLASSES)[path] * 12)) != "sees"
    path.insert(2, BLANK)
    assert read(search, log_softmax(np.eye(NUM_CLASSES)[path] * 12)) == "sees"


def test_silence_says_nothing(search: WordSearch) -> None:
    assert read(search, spoken("||")) == ""
    assert search.words(Heard()) == ""


@pytest.mark.parametrize("sizes", [[1], [7], [50], [13, 50, 1]])
def test_a_stream_is_read_as_the_whole_is(search: WordSearch, sizes: list[int]) -> None:
    log_probs = spoken("the dox runs|a dox| the dog", doubts="gt")
    heard, start, number = Heard(), 0, 0
    while start < len(log_probs):
        size = sizes[number % len(sizes)]
        heard, start, number = search.listen(heard, log_probs[start : start + size]), start + size, number + 1
    assert search.words(heard) == read(search, log_probs) == "the dog runs a dot the dog"


def test_a_pause_settles_and_the_state_stays_small(search: WordSearch) -> None:
    heard = search.listen(Heard(), spoken("the dog|"))
    assert heard.settled == ("the", "dog") and set(heard.open) == {((), "")}
    eager = WordSearch(search.model, SearchConfig(most_words=3))
    heard = eager.listen(Heard(), spoken("the dog sees the dog sees the dog "))
    assert len(heard.settled) >= 6 and all(len(words) < 3 for words, _ in heard.open)


def test_probabilities_of_a_word_add_up(search: WordSearch) -> None:
    model = search.model
    for before in (START, "the", "never seen"):
        total = sum(math.exp(model.log_probability(before, word)) for word in WORDS if word != START)
        assert 0.5 < total <= 1.01, before
    assert model.log_probability("the", "dog") > model.log_probability("a", "dog")
    assert model.knows("dog") and not model.knows("do") and not model.knows(START)
    assert model.begins_one("do") and not model.begins_one("ox")


def test_words_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt.gz"
    with gzip.open(path, "wt") as file:
        file.write("dog 3\nthe 4\nthe dog 2\n")
    model = WordModel.from_file(path)
    assert model.knows("dog") and model.log_probability("the", "dog") > model.log_probability("dog", "dog")
    for broken in (b"no gzip", gzip.compress(b"dog three\n"), gzip.compress(b"a b c 4\n")):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match="damaged"):
            WordModel.from_file(path)


def test_either_is_the_sum_of_chances() -> None:
    assert either(math.log(0.25), math.log(0.5)) == pytest.approx(math.log(0.75))
    assert either(-math.inf, -1.0) == -1.0 and either(-math.inf, -math.inf) == -math.inf
