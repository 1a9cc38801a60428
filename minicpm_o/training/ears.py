"""The ears' words: how nano learns by CTC (Graves et al. 2006) to write down what it hears, letter by letter.

    python -m minicpm_o.training.ears --features FEATURES --out EARS.pt

Learned from the frozen encoder's cached frames, a whole sound at a time. `--into` puts what was learned into a file of
connectors, which a bundle is assembled with. Shapes: B batch, F2 encoder frames, C classes of letters.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..evaluation.metrics import edit_distance
from ..model.config import HearingConfig
from ..model.encoders.word_ears import WordEars
from ..model.letters import BLANK, read_path, spell, spoken_words
from ..rates import AUDIO_POOL, UNIT_ENCODER_FRAMES, exact_div
from .export import read_connectors, write_connectors
from .features import AudioCache
from .recipe import Precision

_ROOM = 0.8
"""Letters per frame that a sound may hold at most: CTC needs a frame between equal ones."""


@dataclass(frozen=True)
class EarsTraining:
    """How long and how fast."""

    seconds: float = 1500.0
    steps: int = 100_000
    """The cosine follows whichever of the two is nearer its end."""
    batch_units: int = 120
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
    letters: tuple[int, ...]


def utterances(audio: AudioCache, *, validation: bool) -> list[Utterance]:
    """The cache's sounds of one side whose words are all written in letters; digits are of the training side alone."""
    found = []
    for row, entry in enumerate(audio.index):
        letters = tuple(spell(entry["text"]))
        fits = 0 < len(letters) <= _ROOM * UNIT_ENCODER_FRAMES * entry["units"] and not re.search(r"\d", entry["text"])
        if fits and bool(entry["val"]) == validation and not (validation and entry["kind"] == "digit"):
            found.append(Utterance(row, entry["units"], entry["text"], letters))
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
    return [disturbed(audio.tensor(item.row), config.noise, config.hidden_share) for item in chosen], chosen


def disturbed(frames: Tensor, noise: float, hidden_share: float) -> Tensor:
    """Frames (F2, E), F2 a multiple of 5, with noise and with stretches of a tenth of a second silenced."""
    heard = torch.rand(exact_div(len(frames), AUDIO_POOL), 1) > hidden_share
    return frames * heard.repeat_interleave(AUDIO_POOL, 0) + torch.randn_like(frames) * noise * frames.std()


def ctc_loss(ears: WordEars, frames: Sequence[Tensor], said: Sequence[Utterance]) -> Tensor:
    """Mean over the sounds of CTC's loss per letter."""
    padded = nn.utils.rnn.pad_sequence(list(frames), batch_first=True)  # (B, F2, E)
    log_probs = ears(padded).float().log_softmax(-1)  # (B, F2, C)
    letters = [torch.tensor(item.letters) for item in said]
    lengths = torch.tensor([len(sound) for sound in frames])
    return F.ctc_loss(log_probs.transpose(0, 1), torch.cat(letters), lengths, torch.tensor(list(map(len, letters))),
                      blank=BLANK, zero_infinity=True)


def read_aloud(ears: WordEars, frames: Tensor) -> str:
    """The likeliest words in (F2, E)."""
    with torch.inference_mode():
        return read_path(ears(frames[None])[0].argmax(-1).tolist())


def word_error_rate(ears: WordEars, audio: AudioCache, said: Sequence[Utterance]) -> float:
    """Word errors by the words said, over all sounds."""
    ears.eval()
    errors = words = 0
    for item in said:
        wanted = spoken_words(item.text)
        errors += edit_distance(wanted, read_aloud(ears, audio.tensor(item.row)).split())
        words += len(wanted)
    ears.train()
    return errors / max(1, words)


def open_audio(features: Path, names: Sequence[str] = ()) -> AudioCache:
    """The cached frames of these voices, or of all. Raises InputError when there are none."""
    stems = [path.with_name(path.name.removesuffix("_frames.npy")) for path in
             sorted((features / "audio").glob("*_frames.npy"))]
    stems = [stem for stem in stems if Path(f"{stem}_frames.json").is_file() and (not names or stem.name in names)]
    if not stems:
        raise InputError(f"{features} holds no finished frames of sounds; run minicpm_o.training.prepare --only "
                         f"hearing")
    return AudioCache.open(stems)


def open_ears(learned: Path | None) -> WordEars:
    """Ears of nano's shape: as they begin, or as a file of this module holds them."""
    hearing = HearingConfig()
    ears = WordEars(hearing, hearing.words)
    if learned:
        ears.load_state_dict(torch.load(learned, weights_only=True))
    return ears


def put_into(ears: WordEars, connectors: Path) -> None:
    """Write the ears into a file of connectors, in place of those that it has. Raises CheckpointError."""
    tensors = {name: tensor for name, tensor in read_connectors(connectors).items() if not name.startswith("ears.")}
    write_connectors({**tensors, **{f"ears.{name}": tensor for name, tensor in ears.state_dict().items()}}, connectors)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.training.ears", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, required=True, help="caches of minicpm_o.training.prepare")
    parser.add_argument("--out", type=Path, required=True, help="file to write: what was learned, every 500 steps")
    parser.add_argument("--start", type=Path, help="such a file to go on from")
    parser.add_argument("--into", type=Path, help="connectors.safetensors that is to hold the ears at the end")
    parser.add_argument("--seconds", type=float, default=EarsTraining.seconds)
    parser.add_argument("--lr", type=float, default=EarsTraining.peak_lr)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32",
                        help="bf16 is faster on processors that have it")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    options = make_parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    audio, ears = open_audio(options.features), open_ears(options.start)
    said, kept_out = (utterances(audio, validation=side) for side in (False, True))
    hours = sum(item.units for item in said) / 3600
    print(f"{len(said)} sounds, {hours:.1f} h; {len(kept_out)} kept out", flush=True)

    def report(step: int, seconds: float, loss: float) -> None:
        line: dict[str, Any] = {"step": step, "seconds": round(seconds), "ctc": round(loss, 3)}
        if step % 500 == 0:
            line["kept_out_wer"] = round(word_error_rate(ears, audio, kept_out[:60]), 3)
            torch.save(ears.state_dict(), options.out)
        print(line, flush=True)

    training = EarsTraining(seconds=options.seconds, peak_lr=options.lr, precision=options.precision)
    train_ears(ears, audio, said, training, report)
    torch.save(ears.state_dict(), options.out)
    print("kept-out word error rate", round(word_error_rate(ears, audio, kept_out), 4))
    if options.into:
        put_into(ears, options.into)


if __name__ == "__main__":
    main()
