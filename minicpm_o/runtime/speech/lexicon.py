"""Word to phonemes by looking it up: bisection in the sorted lexicon file that `checkpoints.lexicon` writes.

It does not know endings, letters or sentences (`english.py`, `letters.py`).
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from minicpm_o.errors import CheckpointError


@dataclass(frozen=True)
class Entry:
    """Pronunciations of one word: the default, and others by part of speech (empty text = spelled by letters)."""

    default: str
    tagged: dict[str, str] = field(default_factory=dict)

    def choose(self, *tags: str) -> str:
        """The pronunciation of the first tag that this word distinguishes, else the default."""
        return next((self.tagged[tag] for tag in tags if tag in self.tagged), self.default)


@dataclass(frozen=True)
class Lexicon:
    """A sorted list of words held as bytes (about 5 MB); reading it takes tens of milliseconds."""

    lines: bytes

    @classmethod
    def open(cls, path: Path) -> Lexicon:
        """Read a lexicon file. Errors: CheckpointError when it is missing or damaged."""
        try:
            lines = gzip.decompress(Path(path).read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise CheckpointError(
                f"the pronouncing lexicon {Path(path).name} cannot be read ({error}); assemble the model again"
            ) from error
        if b"\t" not in lines:
            raise CheckpointError(f"the pronouncing lexicon {Path(path).name} has no words; assemble the model again")
        return cls(b"\n" + lines)

    def find(self, word: str) -> Entry | None:
        """The entry of exactly this word (case counts), or None."""
        line = self._line(word.encode() + b"\t")
        if line is None:
            return None
        default, *tagged = line.decode().split("\t")[1:]
        pairs = (item.partition("=") for item in tagged)
        return Entry(default, {tag: phonemes for tag, _, phonemes in pairs})

    def __contains__(self, word: str) -> bool:
        return self._line(word.encode() + b"\t") is not None

    def _line(self, key: bytes) -> bytes | None:
        """Bisect over byte offsets: every probe steps back to the start of its line."""
        low, high = 1, len(self.lines)
        while low < high:
            start = self.lines.rfind(b"\n", 0, (low + high) // 2 + 1) + 1
            start = max(start, low)
            stop = self.lines.find(b"\n", start)
            stop = len(self.lines) if stop < 0 else stop
            line = self.lines[start:stop]
            if line.startswith(key):
                return line
            if line < key:
                low = stop + 1
            else:
                high = start
        return None
