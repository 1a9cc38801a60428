"""Which English words there are and how they follow each other, counted: what own ears look words up in.

    python -m minicpm_o.training.words --features FEATURES --out words_en.txt.gz

Reads the training side of the spoken texts (`texts.json`) and WordNet's definitions and examples.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..model.letters import START, spoken_words
from .prepare.texts import WORDNET, read_texts, wordnet_glosses

LEAST_WORD = 2
LEAST_PAIR = 2
"""What was seen less often is left out."""


def count_words(texts: Iterable[str]) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Words, START among them, and pairs."""
    words: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for text in texts:
        said = [START, *spoken_words(text)]
        words.update(said)
        pairs.update(itertools.pairwise(said))
    return words, pairs


def write_words(words: Counter[str], pairs: Counter[tuple[str, str]], path: Path) -> tuple[int, int]:
    """The file of `WordModel.from_file`, common ones first; returns how many words and pairs it holds."""
    known = {word: count for word, count in words.most_common() if count >= LEAST_WORD and not word.startswith("'")}
    kept = [(pair, count) for pair, count in pairs.most_common()
            if count >= LEAST_PAIR and pair[0] in known and pair[1] in known]
    lines = [f"{word} {count}\n" for word, count in known.items()]
    lines += [f"{first} {second} {count}\n" for (first, second), count in kept]
    path.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))  # without a time: same counts, same file
    return len(known), len(kept)


def sentences_of(gloss: str) -> list[str]:
    """Definition and examples of a WordNet gloss."""
    return [part.strip() for part in re.split(r'[;"]', gloss) if part.strip()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.training.words", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="folder of minicpm_o.training.prepare")
    parser.add_argument("--wordnet", type=Path, default=WORDNET, help="folder of WordNet's data files; optional")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    spoken = read_texts(options.features)
    kept_out = {text.text.strip(" .").lower() for text in spoken if text.val}
    read = [part for gloss in wordnet_glosses(options.wordnet) for part in sentences_of(gloss)
            if part.strip(" .").lower() not in kept_out]
    words, pairs = write_words(*count_words([*(text.text for text in spoken if not text.val), *read]), options.out)
    print(f"{words} words and {pairs} pairs in {options.out}")


if __name__ == "__main__":
    main()
