"""Counted words: START, rare ones left out, the same file for the same counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from minicpm_o.model.letters import START
from minicpm_o.runtime.word_search import WordModel
from minicpm_o.training.words import count_words, main, sentences_of, write_words


def test_words_and_pairs_are_counted() -> None:
    words, pairs = count_words(["The dog.", "The dog runs"])
    assert words == {START: 2, "the": 2, "dog": 2, "runs": 1}
    assert pairs == {(START, "the"): 2, ("the", "dog"): 2, ("dog", "runs"): 1}


def test_rare_words_are_left_out_and_the_file_is_the_same_each_time(tmp_path: Path) -> None:
    counts = count_words(["the dog", "the dog", "a zyx"])
    assert write_words(*counts, tmp_path / "one.gz") == (3, 2), "START, the, dog"
    write_words(*counts, tmp_path / "two.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()
    model = WordModel.from_file(tmp_path / "one.gz")
    assert model.knows("dog") and not model.knows("zyx")


def test_a_gloss_is_cut_into_sentences() -> None:
    assert sentences_of('a small dog; "the dog ran"; "a bark"') == ["a small dog", "the dog ran", "a bark"]


def test_texts_that_are_kept_out_are_not_counted(tmp_path: Path) -> None:
    texts = [{"kind": "caption", "text": text, "val": val} for text, val in
             (("The dog runs.", False), ("The dog runs.", False), ("A kept cat.", True))]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    wordnet = tmp_path / "wordnet"
    wordnet.mkdir()
    (wordnet / "data.noun").write_text("1 n dog | a kept cat; the dog barks; the dog barks\n")
    main(["--features", str(tmp_path), "--wordnet", str(wordnet), "--out", str(tmp_path / "words.gz")])
    model = WordModel.from_file(tmp_path / "words.gz")
    assert all(model.knows(word) for word in ("the", "dog", "runs", "barks")) and not model.knows("cat")
