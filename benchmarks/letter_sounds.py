"""Learn how English letters sound from a pronouncing lexicon, and measure it on words held out.

    python benchmarks/letter_sounds.py --gold us_gold.json [--write minicpm_o/runtime/speech/letters_en.txt.gz]

Each word's phonemes are aligned to its letters (each letter says none, one or two sounds; expectation-maximisation with
best paths). A rule `left LETTER right -> sounds` is kept for growing windows whenever it says something else than the
narrower window; the widest rule that matches is used (decision lists in the manner of W. Daelemans' IGTree). Words
that share their first five letters stand on the same side of the split, so that no inflection leaks.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from minicpm_o.runtime.speech.letters import WINDOWS, LetterSounds, pattern
from minicpm_o.runtime.speech.lexicon import Lexicon
from minicpm_o.runtime.speech.morphology import VOWELS

Sounds = tuple[str, ...]
Aligned = tuple[str, tuple[Sounds, ...]]


def to_sounds(phonemes: str) -> Sounds:
    """Symbols, a stress mark joined to the vowel behind it."""
    sounds, stress = [], ""
    for symbol in phonemes:
        if symbol in "ˈˌ":
            stress = symbol
        elif symbol in VOWELS:
            sounds.append(stress + symbol)
            stress = ""
        else:
            sounds.append(symbol)
    return tuple(sounds)


def read_words(path: Path) -> dict[str, str]:
    """Plain words of three letters and more with their default pronunciation."""
    words = {}
    for word, phonemes in json.loads(path.read_text(encoding="utf-8")).items():
        plain = word.isascii() and word.isalpha() and len(word) > 2 and word[1:] == word[1:].lower()
        default = phonemes if isinstance(phonemes, str) else phonemes["DEFAULT"]
        if plain and default and 0.4 < len(to_sounds(default)) / len(word) < 1.6:
            words[word.lower()] = default
    return words


def align(word: str, sounds: Sounds, cost: Mapping[tuple[str, Sounds], float]) -> tuple[Sounds, ...] | None:
    """The cheapest way to share the sounds among the letters, or None when there is none."""
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
    for letter in word:
        reached: dict[int, tuple[float, int]] = {}
        for start, (total, _) in best[-1].items():
            for taken in range(min(2, len(sounds) - start) + 1):
                chunk = sounds[start : start + taken]
                price = total + cost.get((letter, chunk), 12.0 + 2 * abs(taken - 1))
                if start + taken not in reached or price < reached[start + taken][0]:
                    reached[start + taken] = (price, start)
        best.append(reached)
    if len(sounds) not in best[-1]:
        return None
    stop, chunks = len(sounds), []
    for step in reversed(best[1:]):
        start = step[stop][1]
        chunks.append(sounds[start:stop])
        stop = start
    return tuple(reversed(chunks))


def without_stress(sounds: Sounds) -> Sounds:
    """Alignment does not care about stress."""
    return tuple(sound.strip("ˈˌ") for sound in sounds)


def align_all(words: Mapping[str, str], rounds: int) -> list[Aligned]:
    """Alignments of all words after some rounds of counting."""
    plain = {word: without_stress(to_sounds(phonemes)) for word, phonemes in words.items()}
    cost = first_costs(plain)
    sample = random.Random(0).sample(sorted(plain), min(20_000, len(plain)))
    for _ in range(rounds):
        counts: Counter[tuple[str, Sounds]] = Counter()
        for word in sample:
            counts.update(zip(word, align(word, plain[word], cost) or (), strict=False))
        cost = to_costs(counts)
    return [aligned for word in words if (aligned := stressed(word, to_sounds(words[word]), plain[word], cost))]


def first_costs(words: Mapping[str, Sounds]) -> dict[tuple[str, Sounds], float]:
    """Letters and sounds at about the same place in the word belong together."""
    counts: Counter[tuple[str, Sounds]] = Counter()
    for word, sounds in words.items():
        for index, letter in enumerate(word):
            place = round(index * (len(sounds) - 1) / max(1, len(word) - 1))
            for near in range(max(0, place - 1), min(len(sounds), place + 2)):
                counts[letter, (sounds[near],)] += 2 if near == place else 1
    for letter in "abcdefghijklmnopqrstuvwxyz":
        counts[letter, ()] = sum(n for (other, _), n in counts.items() if other == letter) // 20
    return to_costs(counts)


def to_costs(counts: Counter[tuple[str, Sounds]]) -> dict[tuple[str, Sounds], float]:
    """Minus log of the share of each sound among a letter's sounds."""
    totals: Counter[str] = Counter()
    for (letter, _), number in counts.items():
        totals[letter] += number
    return {key: -math.log(number / totals[key[0]]) for key, number in counts.items() if number > 1}


def stressed(word: str, sounds: Sounds, plain: Sounds, cost: Mapping[tuple[str, Sounds], float]) -> Aligned | None:
    """The alignment with the stress marks put back."""
    chunks = align(word, plain, cost)
    if chunks is None:
        return None
    rest = iter(sounds)
    return word, tuple(tuple(next(rest) for _ in chunk) for chunk in chunks)


def learn(aligned: Iterable[Aligned], least: int) -> dict[str, str]:
    """Rules of all windows that change what the narrower window says; rarer than `least` are left out."""
    counts: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in WINDOWS]
    for word, chunks in aligned:
        for index, chunk in enumerate(chunks):
            for level, window in enumerate(WINDOWS):
                counts[level][pattern(word, index, window)]["".join(chunk)] += 1
    rules: dict[str, str] = {}
    for level, table in enumerate(counts):
        for key, outputs in table.items():
            (output, number), *_ = outputs.most_common(1)
            wide_enough = level < 2 or number >= least
            if wide_enough and output != narrower(rules, key, level):
                rules[key] = output
    return rules


def narrower(rules: Mapping[str, str], key: str, level: int) -> str | None:
    """What the rules of narrower windows say for this pattern."""
    middle = next(index for index, letter in enumerate(key) if letter.isupper())
    for left, right in reversed(WINDOWS[:level]):
        part = key[middle - left : middle + right + 1]
        if part in rules:
            return rules[part]
    return None


def distance(a: Sounds, b: Sounds) -> int:
    """Edits from a to b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def score(sounds: LetterSounds, words: Mapping[str, str]) -> dict[str, float]:
    """Sound error rate without and with stress, and words fully right."""
    plain = with_stress = total = right = 0
    for word, phonemes in words.items():
        wanted, said = to_sounds(phonemes), to_sounds(sounds.sound_out(word))
        plain += distance(without_stress(wanted), without_stress(said))
        with_stress += distance(wanted, said)
        total += len(wanted)
        right += wanted == said
    return {"sounds_wrong": plain / total, "with_stress": with_stress / total, "words_right": right / len(words)}


def pack(rules: Mapping[str, str]) -> bytes:
    """Rules as a file in the lexicon's format."""
    lines = sorted(f"{key}\t{output}".encode() for key, output in rules.items())
    return gzip.compress(b"\n".join(lines) + b"\n", 9, mtime=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gold", type=Path, required=True)
    parser.add_argument("--least", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    words = read_words(options.gold)
    held_out = {word: words[word] for word in words if zlib.crc32(word[:5].encode()) % 20 == 0}
    aligned = align_all(words, options.rounds)
    for least in (2, 3, 4):
        rules = learn((pair for pair in aligned if pair[0] not in held_out), least)
        sounds = LetterSounds(Lexicon(b"\n" + gzip.decompress(pack(rules))))
        print(json.dumps({"least": least, "rules": len(rules), "bytes": len(pack(rules)), **score(sounds, held_out)}))
    if options.write:
        content = pack(learn(aligned, options.least))
        options.write.write_bytes(content)
        print(json.dumps({"written": str(options.write), "bytes": len(content), "held_out_words": len(held_out)}))


if __name__ == "__main__":
    main()
