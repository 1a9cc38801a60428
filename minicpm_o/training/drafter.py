"""Train the network that guesses how nano's answers go on, `assets/nano/drafter.safetensors`.

    python -m minicpm_o.training.drafter answers --out ANSWERS --seconds 900 --seed 1
    python -m minicpm_o.training.drafter train --answers ANSWERS --out drafter.safetensors

`answers` lets nano answer prompts of `drafter_prompts` greedily, several at a time, and keeps its hidden states; run it
several times with other seeds. `train` takes these alone: from the state before a token and that token it learns the
token after it, three tokens on from its own guess of the state (arXiv:2401.15077), with a share of the distance to the
true state. A twentieth of the answers is kept out, and tells how sure the guesses may be. The words are those that nano
says most; their rows begin as those of nano's own head. What comes with the package: 142,000 tokens of 3,500 answers,
787 steps (the training stopped by the clock), with prompts of an earlier wording of the templates.
Letters: T tokens, D language width, W width of the layers, N words known, B batch.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ..checkpoints.bundle import Bundle
from ..checkpoints.embeddings import quantise_rows
from ..checkpoints.hub import resolve
from ..inputs.messages import Message, TextPart
from ..runtime.device import plan_device
from ..runtime.drafter import MATRICES
from ..runtime.engine import Embeddings
from ..runtime.parts import Parts
from .drafter_prompts import common_nouns, draw_prompts
from .prepare.texts import WORDNET

MOST_TOKENS = 160
"""Longest answer."""
FILE_TOKENS = 4000
"""Tokens of answers in a file."""
WARM_STEPS = 50
TEMPERATURES = tuple(0.5 + 0.1 * step for step in range(26))
KEPT_OUT = 20
"""Of so many answers one is not trained on."""


@dataclass(frozen=True)
class DrafterConfig:
    """The network and its training."""

    words: int = 3072
    width: int = 768
    ahead: int = 3
    """Tokens guessed one after the other."""
    batch: int = 768
    rate: float = 1.5e-3
    head_rate: float = 2e-4
    dropout: float = 0.1
    state_weight: float = 0.3
    """Of the distance to the true state, against the cross-entropy of the words."""
    later_weight: float = 0.8
    """Of each further token, against the one before."""
    steps: int = 800
    seed: int = 0


class DraftNet(nn.Module):
    """State (B, D) and embedding of the word behind it (B, D), both scaled, to the state behind that."""

    def __init__(self, width: int, config: DrafterConfig, head: torch.Tensor) -> None:
        """head (N, D): rows of the words in the model's own head, for scaled states."""
        super().__init__()
        self.enter = nn.Linear(2 * width, config.width)
        self.middle = nn.Linear(config.width, config.width)
        self.leave = nn.Linear(config.width, width)
        self.words = nn.Linear(width, len(head))
        self.drop = nn.Dropout(config.dropout)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.words.bias)
        with torch.no_grad():
            self.words.weight.copy_(head)

    def forward(self, state: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        entered = functional.silu(self.enter(torch.cat([state, said], -1)))
        middle = entered + functional.silu(self.middle(self.drop(entered)))
        return 0.5 * state + self.leave(self.drop(middle))


@dataclass(frozen=True)
class Answers:
    """Answers one after the other: state i stands before token i."""

    states: torch.Tensor
    """(T, D) float16."""
    ids: torch.Tensor
    """(T,) int64; each answer's last is what ended it."""
    lengths: np.ndarray
    """Tokens of each answer."""

    def places(self, *, kept_out: bool) -> torch.Tensor:
        """(n, 2) int64: a place with a next token in its answer, and how many there are."""
        starts = np.cumsum(self.lengths) - self.lengths
        chosen = [(start + at, length - 1 - at) for number, (start, length)
                  in enumerate(zip(starts, self.lengths, strict=True)) if (number % KEPT_OUT == 0) == kept_out
                  for at in range(length - 1)]
        return torch.tensor(chosen, dtype=torch.long).reshape(-1, 2)


def read_answers(files: Iterable[Path]) -> Answers:
    """The files that `give_answers` wrote."""
    parts = [np.load(path) for path in files]
    return Answers(torch.from_numpy(np.concatenate([part["hidden"] for part in parts])),
                   torch.from_numpy(np.concatenate([part["ids"] for part in parts])).long(),
                   np.concatenate([part["lens"] for part in parts]))


def give_answers(folder: Path, seconds: float, seed: int, slots: int = 16, banned: frozenset[str] = frozenset()) -> int:
    """Answer prompts for so long, `slots` at a time; returns the tokens written. banned: prompts that are measured."""
    parts = Parts(Bundle.open(Path(resolve("nano"))), plan_device(threads=1))
    parts.share(slots)
    ends, prompts = time.monotonic() + seconds, draw_prompts(common_nouns(WORDNET), seed, banned)
    folder.mkdir(parents=True, exist_ok=True)
    done: list[_Open] = []
    total = files = 0
    for answer in _answered(parts, prompts, slots):
        done.append(answer)
        is_over = time.monotonic() > ends
        if is_over or sum(len(one.ids) for one in done) > FILE_TOKENS:
            _write(folder / f"{seed}_{files}.npz", done)
            total, files, done = total + sum(len(one.ids) for one in done), files + 1, []
        if is_over:
            break
    return total


@dataclass
class _Open:
    """An answer that is being given."""

    cache: Any
    ids: list[int]
    """What was said; the last is not read yet."""
    states: list[np.ndarray]


def _answered(parts: Parts, prompts: Iterator[str], slots: int) -> Iterator[_Open]:
    """Answers as they end; another prompt takes the place of each."""
    engine: Any = parts.engine
    running = [_begin(parts, next(prompts)) for _ in range(slots)]
    while True:
        steps = engine.decode_many([one.ids[-1] for one in running], [one.cache for one in running])
        for slot, (one, step) in enumerate(zip(running, steps, strict=True)):
            one.states.append(step.hidden[0].astype(np.float16))
            one.ids.append(_likeliest(step.logits, parts))
            if one.ids[-1] in parts.eos_ids or len(one.ids) > MOST_TOKENS:
                yield one
                running[slot] = _begin(parts, next(prompts))


def _begin(parts: Parts, prompt: str) -> _Open:
    inputs = parts.prepare([Message("user", (TextPart(prompt),))], transcripts=[])
    cache = parts.engine.new_cache(256)
    step = parts.engine.prefill(parts.engine.embed(inputs.ids), cache)
    return _Open(cache, [_likeliest(step.logits, parts)], [step.hidden[-1].astype(np.float16)])


def _likeliest(logits: np.ndarray, parts: Parts) -> int:
    logits = logits.copy()
    logits[list(parts.banned_ids)] = -np.inf
    return int(logits.argmax())


def _write(path: Path, answers: Sequence[_Open]) -> None:
    np.savez(path, hidden=np.concatenate([np.stack(one.states) for one in answers]),
             ids=np.concatenate([one.ids for one in answers]).astype(np.int32),
             lens=np.array([len(one.ids) for one in answers]))


class Trainer:
    """One training on answers and the model's word table."""

    def __init__(self, answers: Answers, table: np.ndarray, config: DrafterConfig) -> None:
        """table (V, D): nano's embeddings, which are its head too."""
        torch.manual_seed(config.seed)
        self.answers, self.config = answers, config
        self.table = torch.from_numpy(table)
        self.state_scale = 1.0 / answers.states.float().std().item()
        self.said_scale = 1.0 / self.table.std().item()
        counts = Counter(answers.ids.tolist())
        self.word_ids = torch.tensor([word for word, _ in counts.most_common(config.words)])
        self.places = torch.full((len(table),), -1)
        self.places[self.word_ids] = torch.arange(len(self.word_ids))
        self.net = DraftNet(table.shape[1], config, self.table[self.word_ids] / self.state_scale)

    def losses(self, batch: torch.Tensor) -> tuple[torch.Tensor, list[float]]:
        """batch (B, 2) of `Answers.places`: the loss, and for each token ahead how many guesses were right of those
        whose earlier ones were."""
        first, left = batch[:, 0], batch[:, 1]
        state, total = self.answers.states[first].float() * self.state_scale, torch.zeros(())
        alive, rates = torch.ones(len(batch), dtype=torch.bool), []
        for ahead in range(self.config.ahead):
            there = left > ahead
            at = torch.where(there, first + ahead, first)
            after = torch.where(there, at + 1, at)
            state = self.net(state, self.table[self.answers.ids[at]] * self.said_scale)
            wanted = torch.where(there, self.places[self.answers.ids[after]], -1)
            logits, known = self.net.words(state), wanted >= 0
            off = functional.smooth_l1_loss(state[there], self.answers.states[after][there].float() * self.state_scale)
            loss = functional.cross_entropy(logits[known].float(), wanted[known]) + self.config.state_weight * off
            total = total + loss * self.config.later_weight**ahead
            right = (logits.argmax(-1) == wanted) & there
            rates.append((right & alive).sum().item() / max(1, int((alive & there).sum())))
            alive &= right
        return total, rates

    def train(self) -> None:
        """So many steps as the config says; the rate falls as a cosine."""
        config = self.config
        layers = [weight for name, weight in self.net.named_parameters() if not name.startswith("words")]
        groups = [{"params": layers, "top": config.rate},
                  {"params": list(self.net.words.parameters()), "top": config.head_rate}]
        optimiser = torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.98), weight_decay=0.02)
        for step, batch in enumerate(islice(self._batches(), config.steps)):
            fall = max(0.02, 0.5 + 0.5 * math.cos(math.pi * step / config.steps))
            for group in optimiser.param_groups:
                group["lr"] = group["top"] * min(1.0, (step + 1) / WARM_STEPS) * fall
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, _ = self.losses(batch)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            optimiser.step()

    def _batches(self) -> Iterator[torch.Tensor]:
        places = self.answers.places(kept_out=False)
        while True:
            yield from places[torch.randperm(len(places))].split(self.config.batch)

    def rates(self) -> list[float]:
        """Of the answers kept out, as of `losses`."""
        self.net.eval()
        with torch.no_grad():
            found = [self.losses(batch)[1] for batch in self.answers.places(kept_out=True).split(2048)]
        self.net.train()
        return [float(rate) for rate in np.mean(found, axis=0)]

    def temperature(self) -> float:
        """What the logits must be divided by for the likeliest word's probability to be that of its being right
        (arXiv:1706.04599), of the first guesses on the answers kept out; by a grid."""
        places = self.answers.places(kept_out=True)[:, 0]
        self.net.eval()
        with torch.no_grad():
            said = self.table[self.answers.ids[places]] * self.said_scale
            logits = self.net.words(self.net(self.answers.states[places].float() * self.state_scale, said))
        self.net.train()
        right = (logits.argmax(-1) == self.places[self.answers.ids[places + 1]]).float()

        def surprise(temperature: float) -> float:
            sure = torch.softmax(logits / temperature, -1).amax(-1).clamp(max=0.999)
            return float(functional.binary_cross_entropy(sure, right))

        return min(TEMPERATURES, key=surprise)

    def tensors(self) -> dict[str, np.ndarray]:
        """What `runtime.drafter` reads, its probabilities made true."""
        weights = {name: weight.detach().numpy() for name, weight in self.net.state_dict().items()}
        temperature = self.temperature()
        weights |= {name: weights[name] / np.float32(temperature) for name in ("words.weight", "words.bias")}
        return packed(weights, self.word_ids.numpy(), (self.state_scale, self.said_scale))


def packed(weights: Mapping[str, np.ndarray], word_ids: np.ndarray, scales: tuple[float, float]) -> dict[str, Any]:
    """Matrices as one byte per number and one scale per row, biases as they are."""
    tensors: dict[str, Any] = {"word_ids": word_ids.astype(np.int32), "scales": np.array(scales, np.float32)}
    for name in MATRICES:
        rounded = quantise_rows(weights[f"{name}.weight"])
        tensors |= {name: rounded["embed_tokens"], f"{name}.scales": rounded["scales"],
                    f"{name}.bias": weights[f"{name}.bias"].astype(np.float32)}
    return tensors


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.training.drafter", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    answers = steps.add_parser("answers")
    answers.add_argument("--seconds", type=float, default=900.0)
    answers.add_argument("--seed", type=int, default=0)
    answers.add_argument("--kept-out", type=Path, help="file of prompts that are not to be asked, one a line")
    train = steps.add_parser("train")
    train.add_argument("--answers", type=Path, required=True, help="folder of `answers`")
    train.add_argument("--steps", type=int, default=DrafterConfig.steps)
    for step in (answers, train):
        step.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.step == "answers":
        banned = frozenset(options.kept_out.read_text("utf-8").splitlines()) if options.kept_out else frozenset()
        print(f"{give_answers(options.out, options.seconds, options.seed, banned=banned)} tokens in {options.out}")
        return
    from safetensors.numpy import save_file

    table = Embeddings.from_file(Path(resolve("nano")) / "embeddings.safetensors")
    trainer = Trainer(read_answers(sorted(options.answers.glob("*.npz"))), table.rows(np.arange(len(table.table))),
                      DrafterConfig(steps=options.steps))
    trainer.train()
    save_file(trainer.tensors(), options.out)
    print(f"right guesses of answers kept out, by place: {', '.join(f'{rate:.3f}' for rate in trainer.rates())}")


if __name__ == "__main__":
    main()
