"""Words that are still being written to clauses, and what of them was heard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from minicpm_o.errors import OptionError
from minicpm_o.runtime.live.clauses import MOST_CHARACTERS, ClauseCutter, flush, push
from minicpm_o.runtime.live.events import AudioChunk, TextPiece
from minicpm_o.runtime.live.voice import Playback, heard_text, played, sent, speak_along
from minicpm_o.runtime.speech.speaker import Speech

RATE_HZ = 1000


def cut(text: str, size: int = 1) -> list[str]:
    cutter, found = ClauseCutter(), []
    for start in range(0, len(text), size):
        clauses, cutter = push(cutter, text[start : start + size])
        found += clauses
    return found + flush(cutter)


@pytest.mark.parametrize(("text", "clauses"), [
    ("Hello there. How are you?", ["Hello there.", "How are you?"]),
    ("It costs 3.50 dollars. Dr. Smith pays.", ["It costs 3.50 dollars.", "Dr. Smith pays."]),
    ("See e.g. the cat. J. Doe saw it!", ["See e.g. the cat.", "J. Doe saw it!"]),
    ("1. First we go.\n2. Then we eat.", ["1. First we go.", "2. Then we eat."]),
    ("In the evening light, the sea is calm.", ["In the evening light,", "the sea is calm."]),
    ("Yes, of course.", ["Yes, of course."]),
    ("In Spanish, the word is hola.", ["In Spanish,", "the word is hola."]),
    ("The answer to this question is a classic example of a play by him.",
     ["The answer to this question is a classic example", "of a play by him."]),
    ("It is so. The answer to this question is a classic example of it.",
     ["It is so.", "The answer to this question is a classic example of it."]),
    ("今天天气很好。我们去散步吧！", ["今天天气很好。", "我们去散步吧！"]),
    ("Wait... what?", ["Wait...", "what?"]),
    ("...", []),
])
def test_clauses_end_where_speakers_breathe(text: str, clauses: list[str]) -> None:
    assert cut(text) == clauses


@pytest.mark.parametrize("size", [2, 3, 7, 1000])
def test_whole_is_chunked(size: int) -> None:
    text = "Mr. Brown has 2.5 cats, three dogs; and, when it rains, a goat. They live in Oslo! Do they? Yes."
    assert cut(text, size) == cut(text, 1)
    assert " ".join(cut(text, size)) == text


def test_text_without_marks_is_cut_between_words() -> None:
    clauses = cut("word " * 100)
    assert len(clauses) > 1 and all(len(clause) <= MOST_CHARACTERS for clause in clauses)


def beep(clause: str) -> Iterator[Speech]:
    """A tenth of a second for each letter."""
    if "unsayable" in clause:
        raise OptionError("nothing to say")
    yield Speech(np.ones(100 * len(clause), np.float32), "", RATE_HZ)


def test_each_clause_is_spoken_before_the_next_is_written() -> None:
    events = list(speak_along(["Hello", " there.", " How", " are you?"], beep))
    kinds = [type(event) for event in events]
    assert kinds == [TextPiece, TextPiece, TextPiece, AudioChunk, TextPiece, AudioChunk]
    assert [event.text for event in events if isinstance(event, AudioChunk)] == ["Hello there.", "How are you?"]


def test_what_cannot_be_said_is_left_out_and_silence_stays_silent() -> None:
    assert [type(event) for event in speak_along(["unsayable. Good."], beep)] == [TextPiece, AudioChunk]
    assert [type(event) for event in speak_along(["Hello."], None)] == [TextPiece]


def chunk(text: str, ms: float) -> AudioChunk:
    return AudioChunk(np.zeros(round(ms * RATE_HZ / 1000), np.float32), RATE_HZ, text)


def test_the_history_keeps_what_was_heard() -> None:
    playback = Playback()
    for piece in (chunk("The sea is wide.", 1000), chunk("", 500), chunk("It is blue.", 1000)):
        playback = sent(playback, piece)
    assert playback.sent_ms == 2500 and not playback.is_over
    assert heard_text(playback) == ""
    assert heard_text(played(playback, 750)) == "The sea"
    assert heard_text(played(playback, 1500)) == "The sea is wide."
    assert heard_text(played(playback, 9999)) == "The sea is wide. It is blue."
    assert played(played(playback, 900), 100).played_ms == 900
    assert played(playback, 2500).is_over
    assert heard_text(Playback()) == ""


def test_a_clause_that_is_sent_in_part_was_heard_in_part() -> None:
    first = AudioChunk(np.zeros(RATE_HZ // 2, np.float32), RATE_HZ, "The sea is wide and blue.", rest_ms=1500)
    begun = sent(Playback(), first)
    assert heard_text(played(begun, 500)) == "The"
    whole = sent(begun, chunk("", 1500))
    assert heard_text(played(whole, 500)) == "The" and heard_text(played(whole, 2000)) == "The sea is wide and blue."
