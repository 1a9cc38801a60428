"""The English pronouncing lexicon: two JSON word lists (misaki 0.9.4, Apache-2.0) become one small sorted file.

The file is gzip of UTF-8 lines `word TAB pronunciation [TAB TAG=pronunciation ...]`, sorted by bytes, so that a reader
bisects the unpacked bytes and never builds a table in memory. The first pronunciation is the default, tagged ones hold
for a part of speech (`NOUN`, `VERB`, `ADJ`, `VBD` ...) or, with the tag `END`, before a pause. It does not know how a
word is looked up or what the phonemes sound like (runtime/speech).
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from pathlib import Path

from minicpm_o.checkpoints.storage import write_atomic
from minicpm_o.errors import CheckpointError

Pronunciations = str | Mapping[str, str | None]
"""One pronunciation, or pronunciations by part of speech with `DEFAULT` among them; None = spelled letter by letter."""


def build_lexicon(gold_json: str | os.PathLike[str], silver_json: str | os.PathLike[str], path: Path) -> None:
    """Write the lexicon file; checked (gold) entries win over generated (silver) ones. Same inputs, same bytes.

    Errors: CheckpointError when an input is not a word list.
    """
    entries = {**_read_words(Path(silver_json)), **_read_words(Path(gold_json))}
    lines = sorted(_line(word, pronunciations).encode() for word, pronunciations in entries.items())
    write_atomic(Path(path), [gzip.compress(b"\n".join(lines) + b"\n", compresslevel=9, mtime=0)])


def _read_words(path: Path) -> dict[str, Pronunciations]:
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the word list {path.name} cannot be read ({error}); fetch the part again") from error
    if not isinstance(words, dict) or not words:
        raise CheckpointError(f"the word list {path.name} is not a JSON object of words; fetch the part again")
    return words


def _line(word: str, pronunciations: Pronunciations) -> str:
    if isinstance(pronunciations, str):
        return f"{word}\t{pronunciations}"
    default = pronunciations["DEFAULT"]
    tagged = [
        f"{'END' if tag == 'None' else tag}={phonemes or ''}"
        for tag, phonemes in sorted(pronunciations.items())
        if tag != "DEFAULT" and phonemes != default
    ]
    return "\t".join([word, default or "", *tagged])
