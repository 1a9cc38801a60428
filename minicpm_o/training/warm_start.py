"""Connectors that begin by speaking the language model's tongue, before the language model itself is asked.

Picture side: class words start as the mean embeddings of the classes' names, and the resampler learns to name the
words of a picture's captions and labels somewhere among its tokens. Sound side: the projector learns by CTC (Graves et
al. 2006). Both read their tokens against the language model's own embedding table, so that a token lands near the
embedding of what is seen or said there. Shapes: B batch, Q picture tokens, T audio tokens, D language width, V' words
in use, F2 encoder frames.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inputs.text import Tokenizer
from ..model.encoders.projector import AudioProjector
from ..model.omni import Connectors
from ..rates import AUDIO_POOL
from .features import AudioCache, ImageCache


def start_words(words: Tensor, table: Tensor, tokenizer: Tokenizer, names: Sequence[str]) -> None:
    """Write the mean embedding of each name into its row of words (rows, D); empty names stay zero."""
    with torch.no_grad():
        for row, name in enumerate(names):
            if name:
                words[row] = table[torch.tensor(tokenizer.encode(" " + name.replace("_", " ")))].mean(0)


def start_scales(connectors: Connectors, table: Tensor, marker_ids: Sequence[int]) -> None:
    """Tokens of the resampler begin as loud as word embeddings; markers begin as their rows."""
    scale = float(table.std())
    with torch.no_grad():
        nn.init.normal_(connectors.resampler.out_proj.weight, std=scale / connectors.resampler.width**0.5)
        connectors.resampler.out_proj.bias.zero_()
        connectors.markers.weight.copy_(table[torch.tensor(list(marker_ids))])
        nn.init.normal_(connectors.projector.out.weight, std=scale / connectors.projector.out.in_features**0.5)


class CtcHead(nn.Module):
    """Scores audio tokens against the embeddings of the words in use, plus a learned blank."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", F.normalize(table, dim=-1))
        self.blank = nn.Parameter(torch.randn(table.shape[1]) * float(table.std()))
        self.log_scale = nn.Parameter(torch.tensor(2.5))
        self.bias = nn.Parameter(torch.zeros(len(table) + 1))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (B, T, D) -> log-probabilities (B, T, V' + 1), blank first."""
        words = torch.cat([F.normalize(self.blank, dim=0)[None], self.table])
        scores = F.normalize(tokens, dim=-1) @ words.T * self.log_scale.exp() + self.bias
        return scores.float().log_softmax(-1)


def warm_start_projector(
    projector: AudioProjector,
    table: Tensor,
    audio: AudioCache,
    rows: Sequence[int],
    tokenizer: Tokenizer,
    *,
    max_seconds: float,
    batch_size: int = 48,
    peak_lr: float = 2e-3,
    report: Callable[[str], None] = print,
) -> None:
    """CTC on cached encoder frames for max_seconds; leaves the projector trained in place."""
    texts = {row: tokenizer.encode(audio.index[row]["text"]) for row in rows}
    used = sorted({token for ids in texts.values() for token in ids})
    column = {token: i + 1 for i, token in enumerate(used)}
    head = CtcHead(table[torch.tensor(used)])
    parameters = [*projector.parameters(), *[p for p in head.parameters() if p.requires_grad]]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, weight_decay=0.05)
    started, step, running = time.monotonic(), 0, 0.0
    by_length = sorted(rows, key=lambda row: audio.index[row]["units"])
    rng = random.Random("warm start")
    loudness = float(table.norm(dim=-1).mean())
    while (spent := time.monotonic() - started) < max_seconds:
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * warm_rate(step, spent / max_seconds)
        start = rng.randrange(max(1, len(by_length) - batch_size))
        chosen = by_length[start : start + batch_size]
        loss = _ctc_step(projector, head, audio, chosen, texts, column, loudness, rng)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, running = step + 1, 0.98 * running + 0.02 * float(loss.detach())
        if step % 100 == 0:
            report(f"projector warm start: step {step}, {spent:.0f} s, CTC loss {running / (1 - 0.98**step):.3f}")


def _ctc_step(
    projector: AudioProjector,
    head: CtcHead,
    audio: AudioCache,
    rows: Sequence[int],
    texts: dict[int, list[int]],
    column: dict[int, int],
    loudness: float,
    rng: random.Random,
) -> Tensor:
    frames = [audio.tensor(row) for row in rows]
    lengths = torch.tensor([len(f) // AUDIO_POOL for f in frames])
    padded = nn.utils.rnn.pad_sequence(frames, batch_first=True)
    padded = padded * (torch.rand(padded.shape[0], padded.shape[1], 1) > 0.08)  # SpecAugment in time: lean on context
    tokens = projector(padded)  # (B, T, D)
    log_probs = head(tokens)
    targets = [torch.tensor([column[token] for token in texts[row]]) for row in rows]
    sizes = torch.tensor([len(t) for t in targets])
    ctc = F.ctc_loss(log_probs.transpose(0, 1), torch.cat(targets), lengths, sizes, zero_infinity=True)
    norm = tokens.float().norm(dim=-1)
    return ctc + 0.1 * ((norm / loudness - 1) ** 2).mean()  # tokens as loud as words


@dataclass(frozen=True)
class SeenWords:
    """One picture's views and the tokens of the words that people used about it."""

    rows: tuple[int, ...]
    token_ids: tuple[int, ...]


STOP_WORDS = frozenset(
    "a an the and or of in on at to is are was with by for from his her its their there it as while who that this be "
    "up down out over into near next behind front through around another other some one two three very has have".split()
)


def content_tokens(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens of the words that carry a picture's content."""
    words = {w.strip(".,'\"!?()").lower() for text in texts for w in text.split()} - STOP_WORDS
    return tuple(sorted({token for word in words if len(word) > 2 for token in tokenizer.encode(" " + word)}))


def warm_start_resampler(
    connectors: Connectors,
    table: Tensor,
    images: ImageCache,
    pictures: Sequence[SeenWords],
    *,
    max_seconds: float,
    batch_size: int = 48,
    peak_lr: float = 1e-3,
    report: Callable[[str], None] = print,
) -> None:
    """Words against tokens for max_seconds: each word wants one token near its embedding. Trains in place."""
    used = sorted({token for picture in pictures for token in picture.token_ids})
    column = {token: i for i, token in enumerate(used)}
    words = F.normalize(table[torch.tensor(used)], dim=-1)
    counts = torch.zeros(len(used))
    for picture in pictures:
        counts[[column[token] for token in picture.token_ids]] += 1
    rarity = (len(pictures) / counts).log().clamp(min=0.3)
    log_scale, bias = nn.Parameter(torch.tensor(2.5)), nn.Parameter(torch.zeros(len(used)))
    parameters = [*connectors.resampler.parameters(), log_scale, bias]
    optimizer = torch.optim.AdamW(parameters, lr=peak_lr, weight_decay=0.05)
    loudness, rng = float(table.norm(dim=-1).mean()), random.Random("warm start")
    started, step, running = time.monotonic(), 0, 0.0
    while (spent := time.monotonic() - started) < max_seconds:
        for group in optimizer.param_groups:
            group["lr"] = peak_lr * warm_rate(step, spent / max_seconds)
        chosen = rng.choices(pictures, k=batch_size)
        rows = [rng.choice(picture.rows) for picture in chosen]
        features = torch.from_numpy(np.stack([images.features[row] for row in rows])).float()
        class_logits = torch.from_numpy(np.stack([images.class_logits[row] for row in rows])).float()
        target = torch.zeros(batch_size, len(used))
        for index, picture in enumerate(chosen):
            target[index, [column[token] for token in picture.token_ids]] = 1.0
        target = target * rarity
        tokens = connectors.resampler(features, class_logits)  # (B, Q, D)
        scores = (F.normalize(tokens, dim=-1) @ words.T * log_scale.exp()).logsumexp(1) + bias  # (B, V')
        loss = -(target * scores.log_softmax(-1)).sum() / target.sum()
        loss = loss + 0.1 * ((tokens.norm(dim=-1) / loudness - 1) ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, running = step + 1, 0.98 * running + 0.02 * float(loss.detach())
        if step % 100 == 0:
            report(f"resampler warm start: step {step}, {spent:.0f} s, loss {running / (1 - 0.98**step):.3f}")


def warm_rate(step: int, progress: float) -> float:
    """Share of the peak rate: 100 steps up, then a cosine by time."""
    return min(1.0, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
