"""The tokenizer of 2.6's voice: whole and as text comes in, its layout, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from chattts_tiny import VOICE, WORDS, write_vocabulary

from minicpm_o.errors import CheckpointError
from minicpm_o.runtime.chattts_text import ChatTTSText

SENTENCE = "Hello, old  world! 你好。 v2.6 and *so* on. [Etts]"


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> ChatTTSText:
    return ChatTTSText.from_folder(write_vocabulary(tmp_path_factory.mktemp("voice")))


def words(text: ChatTTSText, ids: list[int]) -> list[str]:
    return [WORDS[token] for token in ids]


def test_text_becomes_pieces_of_words(text: ChatTTSText) -> None:
    assert words(text, text.encode("Hi, 你好")) == ["h", "##i", ",", "你", "好"]


def test_marks_in_text_are_text_and_stars_are_not_spoken(text: ChatTTSText) -> None:
    ids = text.encode("a *b* [Etts][Ptts]")
    assert text.tokens.end not in ids and text.tokens.audio_bos not in ids
    assert words(text, ids)[:3] == ["a", "b", "["]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_stream_is_whole(text: ChatTTSText, size: int) -> None:
    pieces = ["".join(part) for part in itertools.zip_longest(*[iter(SENTENCE)] * size, fillvalue="")]
    assert "".join(pieces) == SENTENCE
    assert list(text.stream(pieces)) == text.encode(SENTENCE)


def test_a_word_waits_until_the_next_has_begun(text: ChatTTSText) -> None:
    given: list[str] = []

    def pieces():
        for piece in ("ab", "c", " d", "e f"):
            given.append(piece)
            yield piece

    stream = text.stream(pieces())
    assert WORDS[next(stream)] == "a" and given == ["ab", "c", " d"]
    assert words(text, list(stream)) == ["##b", "##c", "d", "##e", "f"]


def test_layout_fills_the_reserved_slots(text: ChatTTSText) -> None:
    full, valid = text.layout([30, 31, 32], VOICE)
    assert full.tolist() == [1, 2, 30, 31, 32, 3, *[0] * 36, 4]
    assert np.flatnonzero(valid).tolist() == [0, 1, 2, 3, 4, 5, 42]
    full, valid = text.layout([30] * 50, VOICE)
    assert len(full) == 43 and text.tokens.end not in full and valid.all()


@pytest.mark.parametrize("sentence, ends", [("so it is.", True), ("你好。", True), ("no!", True), ("1.", False),
                                            ("so", False), (".", True), ("what, ", False)])
def test_ends_of_sentences(text: ChatTTSText, sentence: str, ends: bool) -> None:
    assert text.ends_sentence(text.encode(sentence)) is ends
    assert not text.ends_sentence([])


def test_tokenizer_json_reads_as_the_vocabulary(text: ChatTTSText, tmp_path) -> None:
    text.tokenizer.save(str(tmp_path / "tokenizer.json"))
    twin = ChatTTSText.from_folder(tmp_path)
    assert twin.encode(SENTENCE) == text.encode(SENTENCE) and twin.tokens == text.tokens


def test_what_is_no_tokenizer_of_the_voice_is_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="neither tokenizer.json nor vocab.txt"):
        ChatTTSText.from_folder(tmp_path)
    (tmp_path / "vocab.txt").write_text("[UNK]\na\n[Stts]\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"lacks \[spk_emb\] \[Etts\] \[PAD\] \[Ptts\]"):
        ChatTTSText.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="download it again"):
        ChatTTSText.from_folder(tmp_path)
