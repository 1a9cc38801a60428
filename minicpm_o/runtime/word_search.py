"""Letters to words: CTC prefix beam search over a list of English words, weighed by how often words follow each other.

Small ears spell by sound ("ronning aftr a blacc og"); which words can have been meant, a lexicon and counts of pairs of
words tell. The search goes frame by frame, its state is passed in and returned, so that a stream is read as the whole
is. A pause settles what was said before it. Source: Hannun et al. 2014 (arXiv:1408.2873); pyctcdecode and torchaudio's
decoder do the same, but one wants numpy 1 and the other torch. Letters: F2 encoder frames, C classes of letters.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import CheckpointError
from ..model.letters import BLANK, LETTERS, SPACE, START

NEVER = -math.inf
_TRUST = 20
"""A word that was seen so often has half its say by pairs, half by itself."""


@dataclass(frozen=True)
class SearchConfig:
    """How widely to search, and how much the language has to say beside the letters."""

    beams: int = 24
    letters: int = 8
    """Likeliest classes of a frame that are tried."""
    least: float = -9.0
    """Log-probability below which a letter is not tried."""
    language: float = 0.5
    """Weight of a word's log-probability."""
    word_bonus: float = 1.0
    """For every word, against running words together."""
    unknown: float = -40.0
    """Log-probability of a word that is not in the list."""
    pause_frames: int = 12
    """So many frames without a letter settle what was said."""
    most_words: int = 60
    """So many words without a pause are settled too."""


def either(one: float, other: float) -> float:
    """Log-probability of one or the other."""
    high, low = (one, other) if one > other else (other, one)
    return high if low == NEVER else high + math.log1p(math.exp(low - high))


class WordModel:
    """English words and how likely one is after another."""

    def __init__(self, words: Mapping[str, int], pairs: Mapping[tuple[str, str], int]) -> None:
        """Counts; START may stand first in pairs and among the words."""
        self._words, self._pairs = dict(words), dict(pairs)
        self._total = sum(self._words.values()) + 0.1 * len(self._words)
        self._prefixes = {word[:length] for word in self._words for length in range(1, len(word) + 1)}

    @classmethod
    def from_file(cls, path: Path) -> WordModel:
        """Raises CheckpointError when the file is damaged. Lines: `word count`, then `first second count`."""
        words: dict[str, int] = {}
        pairs: dict[tuple[str, str], int] = {}
        try:
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                for line in lines:
                    *names, count = line.split()
                    if len(names) == 1:
                        words[names[0]] = int(count)
                    else:
                        first, second = names
                        pairs[first, second] = int(count)
        except (OSError, EOFError, ValueError) as error:
            raise CheckpointError(f"the words {path} are damaged ({error}); install minicpm-o again") from error
        return cls(words, pairs)

    def knows(self, word: str) -> bool:
        return word in self._words and word != START

    def begins_one(self, letters: str) -> bool:
        """Whether some word begins so."""
        return letters in self._prefixes

    def log_probability(self, before: str, word: str) -> float:
        """Of a known word: by the word before it as far as that was seen often, and by itself."""
        alone = (self._words[word] + 0.1) / self._total
        seen = self._words.get(before, 0)
        trust = seen / (seen + _TRUST)
        return math.log(trust * self._pairs.get((before, word), 0) / max(1, seen) + (1 - trust) * alone)


Key = tuple[tuple[str, ...], str]
"""Words since the last pause, and the letters of the next one; both empty behind a pause."""


@dataclass(frozen=True)
class Score:
    """Log-probabilities of all paths that write the same."""

    blank: float
    """Of those that end in nothing."""
    letter: float
    """Of those that end in a letter."""
    language: float
    """What the words have earned."""

    @property
    def paths(self) -> float:
        return either(self.blank, self.letter)

    @property
    def total(self) -> float:
        return self.paths + self.language


@dataclass(frozen=True)
class Heard:
    """State of the search."""

    settled: tuple[str, ...] = ()
    open: Mapping[Key, Score] = field(default_factory=lambda: {((), ""): Score(0.0, NEVER, 0.0)})
    quiet_frames: int = 0
    """Frames without a letter up to now."""


class WordSearch:
    """Log-probabilities of letters to words."""

    def __init__(self, model: WordModel, config: SearchConfig = SearchConfig()) -> None:
        self.model, self.config = model, config

    def listen(self, heard: Heard, log_probs: np.ndarray) -> Heard:
        """Read (F2, C) further frames."""
        for row in log_probs:
            heard = self._frame(heard, row)
        return heard

    def words(self, heard: Heard) -> str:
        """What was most likely said so far."""
        return SPACE.join((*heard.settled, *self._best(heard)))

    def _frame(self, heard: Heard, row: np.ndarray) -> Heard:
        is_quiet = int(row.argmax()) == BLANK
        grown = _Growing(self._last_settled(heard), self)
        tried = self._tried(row)
        for key, score in heard.open.items():
            grown.extend(key, score, tried)
        quiet_frames = heard.quiet_frames + 1 if is_quiet else 0
        heard = replace(heard, open=grown.best(self.config.beams), quiet_frames=quiet_frames)
        return self._settle(heard) if self._is_time(heard) else heard

    def _tried(self, row: np.ndarray) -> list[tuple[int, float]]:
        """Classes that are likely enough, with their log-probabilities."""
        likely = np.argsort(row)[::-1][: self.config.letters].tolist()
        return [(number, float(row[number])) for number in likely
                if number == BLANK or row[number] > self.config.least]

    def _is_time(self, heard: Heard) -> bool:
        if heard.quiet_frames >= self.config.pause_frames:
            return any(key != ((), "") for key in heard.open)
        return max(len(words) for words, _ in heard.open) >= self.config.most_words

    def _settle(self, heard: Heard) -> Heard:
        return replace(Heard(), settled=(*heard.settled, *self._best(heard)), quiet_frames=heard.quiet_frames)

    def _best(self, heard: Heard) -> tuple[str, ...]:
        """The likeliest words since the last pause, the unfinished one taken as whole."""
        before, finished = self._last_settled(heard), []
        for (words, letters), score in heard.open.items():
            earned = self.earned((before, *words)[-1], letters) if letters else 0.0
            finished.append((score.total + earned, (*words, letters) if letters else words))
        return max(finished)[1]

    def earned(self, before: str, word: str) -> float:
        """What a finished word adds to the score."""
        known = self.model.knows(word)
        log_probability = self.model.log_probability(before, word) if known else self.config.unknown
        return self.config.language * log_probability + self.config.word_bonus

    @staticmethod
    def _last_settled(heard: Heard) -> str:
        return heard.settled[-1] if heard.settled else START


class _Growing:
    """The hypotheses of a frame, built from those of the frame before."""

    def __init__(self, before: str, search: WordSearch) -> None:
        self._before, self._search = before, search
        self._paths: dict[Key, list[float]] = {}

    def extend(self, key: Key, score: Score, tried: Sequence[tuple[int, float]]) -> None:
        """By each class with its log-probability: nothing, the last letter held, a new letter, or the end of a word."""
        paths = score.paths
        for number, log_prob in tried:
            if number == BLANK:
                self._add(key, score.language, blank=paths + log_prob)
            elif LETTERS[number - 1] == SPACE:
                self._end_word(key, score.language, paths + log_prob)
            else:
                self._write(key, score, paths, LETTERS[number - 1], log_prob)

    def _write(self, key: Key, score: Score, paths: float, letter: str, log_prob: float) -> None:
        words, letters = key
        is_held = letters.endswith(letter)
        if is_held:
            self._add(key, score.language, letter=score.letter + log_prob)
        self._add((words, letters + letter), score.language, letter=(score.blank if is_held else paths) + log_prob)

    def _end_word(self, key: Key, language: float, log_probability: float) -> None:
        words, letters = key
        if not letters:  # one more space writes nothing
            self._add(key, language, letter=log_probability)
            return
        earned = self._search.earned((self._before, *words)[-1], letters)
        self._add(((*words, letters), ""), language + earned, letter=log_probability)

    def _add(self, key: Key, language: float, *, blank: float = NEVER, letter: float = NEVER) -> None:
        if key not in self._paths:
            self._paths[key] = [blank, letter, language]
            return
        paths = self._paths[key]
        paths[0], paths[1] = either(paths[0], blank), either(paths[1], letter)

    def best(self, count: int) -> dict[Key, Score]:
        """The likeliest; a word that leaves the list is told at once what it will cost."""
        scores = {key: Score(*paths) for key, paths in self._paths.items()}
        ranked = sorted(scores, key=lambda key: scores[key].total + self._ahead(key[1]), reverse=True)
        return {key: scores[key] for key in ranked[:count]}

    def _ahead(self, letters: str) -> float:
        config = self._search.config
        return config.language * config.unknown if letters and not self._search.model.begins_one(letters) else 0.0

