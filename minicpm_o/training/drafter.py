"""Train the network that guesses how nano's answers go on, `assets/nano/drafter.safetensors`.

    python -m minicpm_o.training.drafter answers --out ANSWERS --seconds 900 --seed 1
    python -m minicpm_o.training.drafter train --answers ANSWERS --out drafter.safetensors

`answers` lets nano answer prompts of `drafter_prompts` and such as it thinks of itself greedily, several at a time, and
keeps its hidden states; run it several times with other seeds. `train` takes these alone: from the states so far and
the token behind each it learns the next state and the token behind that, a few tokens on from its own guesses
(arXiv:2401.15077; that further guesses see earlier ones, as at run time: arXiv:2503.01840). A twentieth of the answers
is kept out, and tells how sure the guesses may be. The words are those that nano says most; their rows begin as those
of nano's own head. What comes with the package: 673,000 tokens of 18,000 answers to made-up prompts (seeds 101 and
102), 3,800 steps; then `--begun` from there, 1,500 steps at `--rate 6e-4` on seed 101 and on 198,000 tokens of 4,550
answers to prompts of nano's own (`--own-share 1`, seeds 201 and 202).
Letters: B answers, T tokens, D language width, H heads, K head width, N words known. A pair is a state and the token
behind it; pair i of an answer guesses state i + 1 and token i + 2.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import torch
from rich.progress import track
from torch import nn
from torch.nn import functional

from ..checkpoints.embeddings import quantise_rows
from ..checkpoints.graphs.language import rotary_tables
from ..checkpoints.hub import resolve
from ..model.config import LanguageConfig
from ..model.outputs.chattts import turn
from ..runtime.drafter import CONTEXT_PAIRS, read_drafter
from ..runtime.engine import Embeddings
from .drafter_answers import OWN_SHARE, Answer, give_answers, read_answers

WARM_STEPS = 50
NORM_EPS = LanguageConfig.norm_eps
"""That of the layer which `runtime.drafter` builds of the weights."""
LENGTHS_APART = 12.0
"""Tokens by which answers of a batch may differ in length."""
SCALED_BY = 200
"""Answers that tell the scale of states."""
TEMPERATURES = tuple(0.5 + 0.1 * step for step in range(26))
KEPT_OUT = 20
"""Of so many answers one is not trained on."""


@dataclass(frozen=True)
class DrafterConfig:
    """The network and its training."""

    words: int = 3072
    heads: int = 9
    kv_heads: int = 3
    ffn: int = 768
    ahead: int = 3
    """Tokens guessed one after the other."""
    batch_tokens: int = 1200
    rate: float = 1e-3
    head_rate: float = 3e-4
    dropout: float = 0.1
    state_weight: float = 0.3
    """Of the distance to the true state, against the cross-entropy of the words."""
    later_weight: float = 0.8
    """Of each further token, against the one before."""
    steps: int = 3000
    seed: int = 0


class DraftNet(nn.Module):
    """A decoder layer over pairs of a scaled state and the scaled embedding of the token behind it."""

    def __init__(self, width: int, config: DrafterConfig, head: torch.Tensor) -> None:
        """head (N, D): rows of the words in the model's own head, for scaled states."""
        super().__init__()
        self.width, self.heads, self.kv_heads = width, config.heads, config.kv_heads
        self.head_width = width // config.heads
        self.enter = nn.Linear(2 * width, width)
        self.norms = nn.ParameterList([torch.ones(width) for _ in range(3)])
        self.queries = nn.Linear(width, width, bias=False)
        self.keys, self.values = (nn.Linear(width, self.kv_heads * self.head_width, bias=False) for _ in range(2))
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, config.ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(config.ffn, width, bias=False)
        self.words = nn.Linear(width, len(head), bias=False)
        self.drop = nn.Dropout(config.dropout)
        places = LanguageConfig(head_width=self.head_width, context_tokens=CONTEXT_PAIRS)  # as at run time
        self.turns = [torch.from_numpy(np.tile(table, 2)) for table in rotary_tables(places)]  # each (pairs, K)
        for small in (self.out, self.down):
            nn.init.normal_(small.weight, std=0.005)
        with torch.no_grad():
            self.words.weight.copy_(head)

    def named(self) -> dict[str, torch.Tensor]:
        """Weights by the names that a language model of one layer gives them, as `runtime.drafter` reads them."""
        attention, feed_forward = "model.layers.0.self_attn", "model.layers.0.mlp"
        linears = {"enter": self.enter, f"{attention}.q_proj": self.queries, f"{attention}.k_proj": self.keys,
                   f"{attention}.v_proj": self.values, f"{attention}.o_proj": self.out,
                   f"{feed_forward}.gate_proj": self.gate, f"{feed_forward}.up_proj": self.up,
                   f"{feed_forward}.down_proj": self.down, "lm_head": self.words}
        norms = ("model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm")
        weights: dict[str, torch.Tensor] = {name: linear.weight for name, linear in linears.items()}
        weights |= dict(zip(norms, self.norms, strict=True))
        return {"enter.bias": self.enter.bias} | {f"{name}.weight": weight for name, weight in weights.items()}

    def forward(self, states: torch.Tensor, said: torch.Tensor, ahead: int) -> list[torch.Tensor]:
        """True pairs (B, T, D) to `ahead` guesses of the state behind each pair: by the true pairs up to it, by those
        up to the one before and a guessed one, and so on. The first n places of the n-th guess mean nothing."""
        queries, keys, values = self._heads(into := self._enter(states, said))
        seen = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        guessed = [self._leave(into, seen)]
        own: list[tuple[torch.Tensor, torch.Tensor]] = []
        for step in range(1, ahead):
            into = self._enter(_later(guessed[-1], 1, dim=1), said)
            queries, own_keys, own_values = self._heads(into)
            own.append((own_keys, own_values))
            chain = [tuple(_later(part, step - 1 - place, dim=2) for part in pair) for place, pair in enumerate(own)]
            guessed.append(self._leave(into, _attend(queries, keys, values, chain, step)))
        return guessed

    def _enter(self, states: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        return 0.5 * states + self.enter(torch.cat([states, said], -1))

    def _norm(self, x: torch.Tensor, place: int) -> torch.Tensor:
        return functional.rms_norm(x, (self.width,), self.norms[place], NORM_EPS)

    def _heads(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, T, D) to turned queries, turned keys and values, each (B, H, T, K)."""
        normed, made = self._norm(x, 0), []
        for part, heads in ((self.queries, self.heads), (self.keys, self.kv_heads), (self.values, self.kv_heads)):
            apart = part(normed).unflatten(-1, (heads, self.head_width)).transpose(1, 2)
            cosine, sine = (table[: x.shape[1]].to(apart.dtype) for table in self.turns)
            turned = apart if part is self.values else turn(apart, (cosine, sine))
            made.append(turned.repeat_interleave(self.heads // heads, dim=1))
        return made

    def _leave(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        x = x + self.drop(self.out(seen.transpose(1, 2).flatten(2)))
        normed = self._norm(x, 1)
        x = x + self.drop(self.down(functional.silu(self.gate(normed)) * self.up(normed)))
        return self._norm(x, 2)


def _later(x: torch.Tensor, places: int, dim: int) -> torch.Tensor:
    """x moved on by so many places, zeros before it."""
    gap = x.new_zeros(*(places if axis == dim else size for axis, size in enumerate(x.shape)))
    return torch.cat([gap, x.narrow(dim, 0, x.shape[dim] - places)], dim)


def _attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
            chain: Sequence[tuple[torch.Tensor, ...]], step: int) -> torch.Tensor:
    """Attention of guessed pairs: over the true ones that are at least `step` before, and over a key and a value (B, H,
    T, K) of each guess of the chain, at the query's own place."""
    place = torch.arange(queries.shape[2])
    scores = (queries @ keys.transpose(-1, -2)).masked_fill(place > place[:, None] - step, -torch.inf)
    further = [(queries * key).sum(-1, keepdim=True) for key, _ in chain]
    scores = torch.cat([scores, *further], -1).float() / math.sqrt(queries.shape[-1])
    shares = torch.softmax(scores, -1).to(values.dtype)
    seen = shares[..., : len(place)] @ values
    for number, (_, value) in enumerate(chain):
        seen = seen + shares[..., len(place) + number, None] * value
    return seen


@dataclass(frozen=True)
class Batch:
    """Answers side by side, filled up with pairs that mean nothing."""

    states: torch.Tensor
    """(B, T, D) float32."""
    said: torch.Tensor
    """(B, T) int64: the token of every pair."""
    wanted: torch.Tensor
    """(B, T) int64: the token to guess; -1 where there is none."""
    next_states: torch.Tensor
    """(B, T, D) float32: the state to guess."""
    begins: torch.Tensor
    """(B,) int64: the first pair whose guess is of the answer."""

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Batch:
        """Pairs of answers of three tokens or more."""
        def side_by_side(parts: Iterable[torch.Tensor], fill: float) -> torch.Tensor:
            return nn.utils.rnn.pad_sequence(list(parts), batch_first=True, padding_value=fill)

        return cls(side_by_side((one.states[:-1].float() for one in answers), 0),
                   side_by_side((one.ids[1:-1] for one in answers), 0),
                   side_by_side((one.ids[2:] for one in answers), -1),
                   side_by_side((one.states[1:].float() for one in answers), 0),
                   torch.tensor([one.asked - 1 for one in answers]))

    def there(self, ahead: int) -> torch.Tensor:
        """(B, T) bool: the pairs whose guess, so many further than the first, is of the answer."""
        return (self.wanted >= 0) & (torch.arange(self.wanted.shape[1]) >= self.begins[:, None] + ahead)


class Trainer:
    """One training on answers and the model's word table."""

    def __init__(self, answers: Sequence[Answer], table: np.ndarray, config: DrafterConfig,
                 begun: Mapping[str, np.ndarray] | None = None) -> None:
        """table (V, D): nano's embeddings, which are its head too. begun: a drafter to go on from, with its words."""
        torch.manual_seed(config.seed)
        self.config, self.draws = config, Random(config.seed)
        long_enough = [one for one in answers if len(one.ids) > 2]
        self.kept_out = long_enough[::KEPT_OUT]
        self.trained = [one for number, one in enumerate(long_enough) if number % KEPT_OUT]
        self.table = torch.from_numpy(table)
        self.state_scale = 1.0 / torch.cat([one.states for one in answers[:SCALED_BY]]).float().std().item()
        self.said_scale = 1.0 / self.table.std().item()
        counts = Counter(token_id for one in answers for token_id in one.ids[one.asked :].tolist())
        self.word_ids = torch.tensor([word for word, _ in counts.most_common(config.words)])
        if begun is not None:
            self.word_ids = torch.from_numpy(begun["word_ids"]).long()
            self.state_scale, self.said_scale = (float(scale) for scale in begun["scales"])
        self.places = torch.full((len(table) + 1,), -1)  # the last is of what is not wanted at all
        self.places[self.word_ids] = torch.arange(len(self.word_ids))
        self.net = DraftNet(table.shape[1], config, self.table[self.word_ids] / self.state_scale)
        if begun is not None:
            with torch.no_grad():
                for name, weight in self.net.named().items():
                    weight.copy_(torch.from_numpy(begun[name]))

    def guesses(self, batch: Batch, ahead: int) -> list[torch.Tensor]:
        """Scaled states (B, T, D) as `DraftNet` guesses them."""
        guessed: list[torch.Tensor] = self.net(batch.states * self.state_scale,
                                               self.table[batch.said] * self.said_scale, ahead)
        return guessed

    def losses(self, batch: Batch) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """The loss, and for each token ahead how many guesses were right, and of how many: of those whose earlier ones
        were."""
        total, counted = torch.zeros(()), []
        wanted = self.places[batch.wanted]
        alive = torch.ones_like(wanted, dtype=torch.bool)
        for ahead, state in enumerate(self.guesses(batch, self.config.ahead)):
            there = batch.there(ahead)
            known = there & (wanted >= 0)
            logits = self.net.words(state[known])
            off = functional.smooth_l1_loss(state[there].float(), batch.next_states[there] * self.state_scale)
            surprise = functional.cross_entropy(logits.float(), wanted[known])
            total = total + (surprise + self.config.state_weight * off) * self.config.later_weight**ahead
            right = torch.zeros_like(there)
            right[known] = logits.argmax(-1) == wanted[known]
            tried = there if ahead == 0 else there & _later(alive, 1, dim=1)
            alive = right & tried
            counted.append((int(alive.sum()), int(tried.sum())))
        return total, counted

    def train(self) -> None:
        """So many steps as the config says; the rate falls as a cosine."""
        config = self.config
        layers = [weight for name, weight in self.net.named_parameters() if not name.startswith("words")]
        groups = [{"params": layers, "top": config.rate},
                  {"params": list(self.net.words.parameters()), "top": config.head_rate}]
        optimiser = torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.98), weight_decay=0.02)
        batches = islice(self._batches(), config.steps)
        for step, batch in enumerate(track(batches, "learning to guess", total=config.steps)):
            fall = max(0.02, 0.5 + 0.5 * math.cos(math.pi * step / config.steps))
            for group in optimiser.param_groups:
                group["lr"] = group["top"] * min(1.0, (step + 1) / WARM_STEPS) * fall
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, _ = self.losses(batch)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            optimiser.step()

    def _batches(self) -> Iterator[Batch]:
        """Answers of about the same length side by side."""
        while True:
            order = sorted(self.trained, key=lambda one: len(one.ids) + self.draws.uniform(0, LENGTHS_APART))
            batches: list[list[Answer]] = [[]]
            for one in order:
                batches[-1].append(one)
                if len(batches[-1]) * len(one.ids) >= self.config.batch_tokens:
                    batches.append([])
            self.draws.shuffle(batches)
            yield from (Batch.of(batch) for batch in batches if batch)

    def _kept_out(self) -> Iterator[Batch]:
        order = sorted(self.kept_out, key=lambda one: len(one.ids))
        return (Batch.of(order[start : start + 24]) for start in range(0, len(order), 24))

    def rates(self) -> list[float]:
        """Of the answers kept out, for each token ahead: the share of guesses that were right, of those whose earlier
        ones were."""
        self.net.eval()
        with torch.no_grad():
            counted = np.sum([self.losses(batch)[1] for batch in self._kept_out()], axis=0)
        self.net.train()
        return [float(right / max(1, tried)) for right, tried in counted]

    def temperature(self) -> float:
        """What the logits must be divided by for the likeliest word's probability to be that of its being right
        (arXiv:1706.04599), of the first guesses on the answers kept out; by a grid."""
        self.net.eval()
        found, right = [], []
        with torch.no_grad():
            for batch in self._kept_out():
                there = batch.there(0)
                found.append(self.net.words(self.guesses(batch, 1)[0][there]))
                right.append((found[-1].argmax(-1) == self.places[batch.wanted[there]]).float())
        self.net.train()
        logits, hits = torch.cat(found), torch.cat(right)

        def surprise(temperature: float) -> float:
            sure = torch.softmax(logits / temperature, -1).amax(-1).clamp(max=0.999)
            return float(functional.binary_cross_entropy(sure, hits))

        return min(TEMPERATURES, key=surprise)

    def tensors(self) -> dict[str, np.ndarray]:
        """What `runtime.drafter` reads, its probabilities made true."""
        weights = {name: weight.detach().numpy().astype(np.float32) for name, weight in self.net.named().items()}
        weights["lm_head.weight"] /= np.float32(self.temperature())
        matrices = {name: weight for name, weight in weights.items() if weight.ndim > 1}
        vectors = {name: weight for name, weight in weights.items() if weight.ndim == 1}
        return packed(matrices, vectors | {"word_ids": self.word_ids.numpy().astype(np.int32),
                                           "heads": np.array([self.net.heads, self.net.kv_heads], np.int32),
                                           "scales": np.array([self.state_scale, self.said_scale], np.float32)})


def packed(matrices: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices as one byte per number and one scale per row, other tensors as they are."""
    tensors = dict(others)
    for name, matrix in matrices.items():
        rounded = quantise_rows(matrix)
        tensors |= {name: rounded["embed_tokens"], f"{name}.scales": rounded["scales"]}
    return tensors


def told(rates: Sequence[float]) -> str:
    """Of the first, second, ... guess."""
    return ", ".join(f"{rate:.3f}" for rate in rates)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.training.drafter", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    answers = steps.add_parser("answers")
    answers.add_argument("--seconds", type=float, default=900.0)
    answers.add_argument("--seed", type=int, default=0)
    answers.add_argument("--own-share", type=float, default=OWN_SHARE, help="of prompts that nano thinks of")
    answers.add_argument("--kept-out", type=Path, nargs="*", default=[],
                         help="files of prompts that are not to be asked, {\"prompt\": ...} a line")
    train = steps.add_parser("train")
    train.add_argument("--answers", type=Path, required=True, help="folder of `answers`")
    train.add_argument("--steps", type=int, default=DrafterConfig.steps)
    train.add_argument("--rate", type=float, default=DrafterConfig.rate, help="of learning, at its highest")
    train.add_argument("--begun", type=Path, help="drafter to go on from")
    for step in (answers, train):
        step.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.step == "answers":
        lines = (line for path in options.kept_out for line in path.read_text("utf-8").splitlines() if line)
        banned = frozenset(json.loads(line)["prompt"] for line in lines)
        said = give_answers(options.out, options.seconds, options.seed, options.own_share, banned=banned)
        print(f"{said} tokens in {options.out}")
        return
    from safetensors.numpy import save_file

    table = Embeddings.from_file(Path(resolve("nano")) / "embeddings.safetensors")
    trainer = Trainer(read_answers(sorted(options.answers.glob("*.npz"))), table.rows(np.arange(len(table.table))),
                      DrafterConfig(steps=options.steps, rate=options.rate),
                      read_drafter(options.begun) if options.begun else None)
    print(f"right guesses of answers kept out, before: {told(trainer.rates())}")
    trainer.train()
    save_file(trainer.tensors(), options.out)
    print(f"after: {told(trainer.rates())}")


if __name__ == "__main__":
    main()
