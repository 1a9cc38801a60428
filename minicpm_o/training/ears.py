"""The ears' words: which pieces of words nano hears, and how it learns to hear them by CTC (Graves et al. 2006).

The pieces are tokens of the language model: letters, so that any word can be written, and the commonest tokens of what
is spoken. Learned from the frozen encoder's cached frames, a whole sound at a time; the language model learns later to
read what is heard. Shapes: B batch, F2 encoder frames, S seconds, U pieces.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..evaluation.metrics import edit_distance
from ..inputs.text import Tokenizer
from ..model.config import NanoConfig, WordEarsConfig
from ..model.encoders.projector import BLANK, STACK, UNIT_STEPS, WordEars
from ..rates import UNIT_AUDIO_TOKENS, exact_div
from .features import AudioCache
from .recipe import Precision

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
_ROOM = 0.8
"""Pieces per step that a sound may hold at most: CTC needs a step between equal ones."""


def spoken_words(text: str) -> list[str]:
    """Words as they sound: small letters and apostrophes."""
    return re.sub(r"[^a-z' ]+", " ", text.lower()).split()


def choose_units(texts: Iterable[str], tokenizer: Tokenizer, count: int) -> list[int]:
    """Token ids of `count` pieces: every letter at the beginning and inside of a word, then the commonest tokens.

    Raises InputError where the texts hold fewer.
    """
    counts = Counter(token for text in texts for word in spoken_words(text) for token in tokenizer.encode(f" {word}"))
    letters = [tokenizer.encode(form) for letter in LETTERS for form in (f" {letter}", letter)]
    units = list(dict.fromkeys(ids[0] for ids in letters if len(ids) == 1))
    common = [token for token, _ in counts.most_common() if token not in units]
    if len(units) + len(common) < count:
        raise InputError(f"the texts hold {len(units) + len(common)} pieces of words and {count} are wanted; have more "
                         f"texts spoken, or make `units` of the config smaller")
    return units + common[: count - len(units)]


class Speller:
    """Texts to CTC's classes and back."""

    def __init__(self, units: Sequence[int], tokenizer: Tokenizer) -> None:
        self.units, self.tokenizer = list(units), tokenizer
        self._classes = {tokenizer.decode([unit]): number for number, unit in enumerate(units, start=BLANK + 1)}
        self._longest = max(map(len, self._classes))

    def spell(self, text: str) -> list[int]:
        """Classes of the text's words: the language model's own tokens where all are known, else the longest that fit.
        """
        return [piece for word in spoken_words(text) for piece in self._word(f" {word}")]

    def _word(self, word: str) -> list[int]:
        own = [self._classes.get(self.tokenizer.decode([token])) for token in self.tokenizer.encode(word)]
        if None not in own:
            return [piece for piece in own if piece is not None]
        pieces = []
        while word:
            size = next((size for size in range(min(self._longest, len(word)), 0, -1)
                         if word[:size] in self._classes), 0)
            pieces += [self._classes[word[:size]]] if size else []
            word = word[size or 1 :]
        return pieces

    def read(self, path: Sequence[int]) -> str:
        """CTC's path, a class per step, as words."""
        pieces = [piece for piece, before in zip(path, [BLANK, *path], strict=False)
                  if piece not in (before, BLANK)]
        return self.tokenizer.decode([self.units[piece - 1] for piece in pieces]).strip()


@dataclass(frozen=True)
class EarsTraining:
    """How long and how fast."""

    seconds: float = 1500.0
    steps: int = 100_000
    """The cosine follows whichever of the two is nearer its end."""
    batch_units: int = 240
    """Seconds of sound in a step."""
    peak_lr: float = 1.5e-3
    warmup: int = 200
    """Steps up to the peak."""
    weight_decay: float = 0.05
    hidden_share: float = 0.06
    """Share of the frames that are silenced, in stretches of a tenth of a second."""
    noise: float = 0.15
    """Noise on the frames, as a share of their spread: voices that were never heard."""
    precision: Precision = "fp32"
    """What is computed in; weights and the optimiser keep float32."""
    seed: int = 0


@dataclass(frozen=True)
class Utterance:
    """A sound of the cache and what is said in it."""

    row: int
    units: int
    text: str
    pieces: tuple[int, ...]


def utterances(audio: AudioCache, speller: Speller, *, validation: bool) -> list[Utterance]:
    """The cache's sounds of one side whose words CTC can write down; digits are of the training side alone."""
    found = []
    for row, entry in enumerate(audio.index):
        pieces = tuple(speller.spell(entry["text"]))
        fits = 0 < len(pieces) <= _ROOM * UNIT_STEPS * entry["units"]
        if fits and bool(entry["val"]) == validation and not (validation and entry["kind"] == "digit"):
            found.append(Utterance(row, entry["units"], entry["text"], pieces))
    return found


def train_ears(ears: WordEars, audio: AudioCache, said: Sequence[Utterance], config: EarsTraining,
               report: Callable[[int, float, float], None]) -> None:
    """CTC, in place. report: step, seconds and the running loss, every hundred steps."""
    ears.train()
    optimizer = torch.optim.AdamW(ears.parameters(), lr=config.peak_lr, betas=(0.9, 0.98),
                                  weight_decay=config.weight_decay)
    ordered, rng = sorted(said, key=lambda item: item.units), random.Random(config.seed)
    torch.manual_seed(config.seed)
    started, step, running = time.monotonic(), 0, 0.0
    while (spent := time.monotonic() - started) < config.seconds and step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = config.peak_lr * _rate(step, max(spent / config.seconds, step / config.steps), config.warmup)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            loss = ctc_loss(ears, *_drawn(audio, ordered, rng, config))
        loss.backward()
        nn.utils.clip_grad_norm_(ears.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, running = step + 1, 0.98 * running + 0.02 * float(loss.detach())
        if step % 100 == 0:
            report(step, spent, running / (1 - 0.98**step))


def _rate(step: int, progress: float, warmup: int) -> float:
    """Share of the peak rate: up, then a cosine."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def _drawn(audio: AudioCache, ordered: Sequence[Utterance], rng: random.Random, config: EarsTraining
           ) -> tuple[list[Tensor], list[Utterance]]:
    """Sounds of like length, disturbed."""
    middle = rng.randrange(len(ordered))
    count = max(4, min(64, config.batch_units // ordered[middle].units))
    chosen = list(ordered[max(0, middle - count // 2) : middle + count // 2 + 1])
    return [_disturbed(frames_of(audio, item), config) for item in chosen], chosen


def frames_of(audio: AudioCache, item: Utterance) -> Tensor:
    """(F2, E) float32."""
    return torch.from_numpy(np.array(audio.read(item.row))).float()


def _disturbed(frames: Tensor, config: EarsTraining) -> Tensor:
    heard = torch.rand(exact_div(len(frames), 5), 1) > config.hidden_share
    return frames * heard.repeat_interleave(5, 0) + torch.randn_like(frames) * config.noise * frames.std()


def ctc_loss(ears: WordEars, frames: Sequence[Tensor], said: Sequence[Utterance]) -> Tensor:
    """Mean over the sounds of CTC's loss per piece."""
    padded = nn.utils.rnn.pad_sequence(list(frames), batch_first=True)  # (B, F2, E)
    log_probs = ears.logits(padded).float().log_softmax(-1)  # (B * S, 25, U + 1)
    log_probs = log_probs.reshape(len(frames), -1, log_probs.shape[-1])
    pieces = [torch.tensor(item.pieces) for item in said]
    lengths = torch.tensor([len(sound) // STACK for sound in frames])
    return F.ctc_loss(log_probs.transpose(0, 1), torch.cat(pieces), lengths, torch.tensor(list(map(len, pieces))),
                      blank=BLANK, zero_infinity=True)


def read_aloud(ears: WordEars, speller: Speller, frames: Tensor) -> str:
    """What is heard in (F2, E), second by second, as the language model gets it: ten pieces a second at most."""
    with torch.inference_mode():
        paths = ears.logits(frames[None]).argmax(-1).tolist()
    seconds = [[piece for piece, before in zip(path, [BLANK, *path], strict=False) if piece not in (before, BLANK)]
               for path in paths]
    pieces = [speller.units[piece - 1] for second in seconds for piece in second[:UNIT_AUDIO_TOKENS]]
    return speller.tokenizer.decode(pieces).strip()


def word_error_rate(ears: WordEars, speller: Speller, audio: AudioCache, said: Sequence[Utterance]) -> float:
    """Word errors by the words said, over all sounds."""
    ears.eval()
    errors = words = 0
    for item in said:
        wanted = spoken_words(item.text)
        errors += edit_distance(wanted, spoken_words(read_aloud(ears, speller, frames_of(audio, item))))
        words += len(wanted)
    ears.train()
    return errors / max(1, words)


def start_units(ears: WordEars, units: Sequence[int], table: Tensor) -> None:
    """The pieces begin as the language model's own embeddings (V, D)."""
    ids = torch.tensor(list(units))
    with torch.no_grad():
        ears.unit_words[1:] = table[ids]
        ears.unit_ids[1:] = ids


def open_audio(features: Path, names: Sequence[str] = ()) -> AudioCache:
    """The cached frames of these voices, or of all. Raises InputError when there are none."""
    stems = [path.with_name(path.name.removesuffix("_frames.npy")) for path in
             sorted((features / "audio").glob("*_frames.npy"))]
    stems = [stem for stem in stems if Path(f"{stem}_frames.json").is_file() and (not names or stem.name in names)]
    if not stems:
        raise InputError(f"{features} holds no finished frames of sounds; run minicpm_o.training.prepare --only "
                         f"hearing")
    return AudioCache.open(stems)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.training.ears", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="caches of minicpm_o.training.prepare")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of the language part")
    parser.add_argument("--out", type=Path, required=True, help="file to write: weights and pieces")
    parser.add_argument("--start", type=Path, help="such a file to go on from")
    parser.add_argument("--seconds", type=float, default=EarsTraining.seconds)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32",
                        help="bf16 is faster on processors that have it")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tokenizer, audio, shape = Tokenizer.from_file(options.tokenizer), open_audio(options.features), WordEarsConfig()
    ears, state = WordEars(NanoConfig(), shape), None
    if options.start:
        state = torch.load(options.start, weights_only=True)
        ears.load_state_dict(state["ears"], strict=False)
    texts = [entry["text"] for entry in audio.index if not entry["val"]]
    units = state["units"] if state else choose_units(texts, tokenizer, shape.units)
    speller = Speller(units, tokenizer)
    said, kept_out = (utterances(audio, speller, validation=side) for side in (False, True))
    hours = sum(item.units for item in said) / 3600
    print(f"{len(said)} sounds, {hours:.1f} h; {len(kept_out)} kept out; {len(units)} pieces", flush=True)

    def report(step: int, seconds: float, loss: float) -> None:
        line: dict[str, Any] = {"step": step, "seconds": round(seconds), "ctc": round(loss, 3)}
        if step % 500 == 0:
            line["kept_out_wer"] = round(word_error_rate(ears, speller, audio, kept_out[:60]), 3)
            torch.save({"ears": ears.state_dict(), "units": units}, options.out)
        print(line, flush=True)

    train_ears(ears, audio, said, EarsTraining(seconds=options.seconds, precision=options.precision), report)
    torch.save({"ears": ears.state_dict(), "units": units}, options.out)
    print("kept-out word error rate", round(word_error_rate(ears, speller, audio, kept_out), 4))


if __name__ == "__main__":
    main()
