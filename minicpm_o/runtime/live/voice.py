"""Words as they come to words and sound as they come: each clause is spoken while the next is being written.

Knows neither sockets nor history. N samples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from ...errors import OptionError
from . import clauses
from .events import AudioChunk, TextPiece

if TYPE_CHECKING:
    from ..speech.speaker import Speech

Say: TypeAlias = "Callable[[str], Iterable[Speech]]"
"""A clause to its sound, in one piece or several."""


def speak_along(texts: Iterable[str], say: Say | None) -> Iterator[TextPiece | AudioChunk]:
    """Pieces of text and, behind each clause that they complete, its sound. say: None stays silent."""
    cutter = clauses.ClauseCutter()
    for text in texts:
        if not text:
            continue
        yield TextPiece(text)
        if say is None:
            continue
        complete, cutter = clauses.push(cutter, text)
        for clause in complete:
            yield from _spoken(clause, say)
    for clause in clauses.flush(cutter) if say is not None else ():
        yield from _spoken(clause, say)


def _spoken(clause: str, say: Say | None) -> Iterator[AudioChunk]:
    """A clause that holds nothing to say (an emoji, a rule) is silent, and the answer goes on."""
    text = clause
    try:
        for piece in say(clause) if say is not None else ():
            yield AudioChunk(piece.waveform, piece.rate_hz, text, 1000 * piece.rest_s)
            text = ""
    except OptionError:
        return


def words_of(events: Iterable[Any], replies: list[Any]) -> Iterator[str]:
    """The words of a streamed chat; its reply, the last event, is put into `replies`."""
    for event in events:
        if hasattr(event, "finish_reason"):
            replies.append(event)
        else:
            yield event.text


@dataclass(frozen=True)
class Playback:
    """What of an answer has been sent to be played, and how much of it was."""

    sent: tuple[tuple[str, float], ...] = ()
    """Words and length in ms of every chunk; no words where a chunk goes on with the clause before."""
    rest_ms: float = 0.0
    """Of the last clause, not sent yet."""
    played_ms: float = 0.0

    @property
    def sent_ms(self) -> float:
        return sum(ms for _, ms in self.sent)

    @property
    def is_over(self) -> bool:
        """Whether all that was sent has been played."""
        return self.played_ms >= self.sent_ms - 1.0


def sent(playback: Playback, chunk: AudioChunk) -> Playback:
    """One chunk more on its way."""
    return replace(playback, sent=(*playback.sent, (chunk.text, chunk.ms)), rest_ms=chunk.rest_ms)


def played(playback: Playback, ms: float) -> Playback:
    """The player is `ms` into the answer; it never goes back, nor beyond what was sent."""
    return replace(playback, played_ms=min(max(ms, playback.played_ms), playback.sent_ms))


def heard_text(playback: Playback) -> str:
    """The words that were played, whole words only."""
    words: list[str] = []
    for text, start_ms, length_ms in _clauses(playback):
        share = 0.0 if not length_ms else (playback.played_ms - start_ms) / length_ms
        words.append(_part(text, min(1.0, max(0.0, share))))
    return " ".join(filter(None, words))


def _clauses(playback: Playback) -> Iterator[tuple[str, float, float]]:
    """Words, start and length of each clause, chunks that go on with it joined."""
    starts = [place for place, (text, _) in enumerate(playback.sent) if text]
    for place, following in itertools.pairwise([*starts, len(playback.sent)]):
        before = sum(ms for _, ms in playback.sent[:place])
        rest_ms = playback.rest_ms if following == len(playback.sent) else 0.0
        yield playback.sent[place][0], before, sum(ms for _, ms in playback.sent[place:following]) + rest_ms


def _part(text: str, share: float) -> str:
    """The beginning of a text; a share of its characters, cut back to the last whole word."""
    if share >= 1.0:
        return text
    cut = text[: int(len(text) * share)]
    return cut if " " not in text else cut.rpartition(" ")[0]
