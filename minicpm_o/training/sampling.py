"""Answers drawn from the model while it trains, several to a prompt at once, and how likely it finds them.

Shapes: B answers, T tokens of the longest prompt, A tokens of the longest answer, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from ..model.omni import OmniModel
from .objectives.next_token import token_losses
from .rows import NOT_LEARNED, Batch, Row, collate, hidden_states


@dataclass(frozen=True)
class SamplingSettings:
    """How answers are drawn."""

    max_tokens: int = 32
    temperature: float = 1.0
    """0 takes the likeliest."""
    seed: int = 0
    top_p: float = 1.0
    """Share of the likeliest tokens that are drawn from; 1 draws from all."""


@torch.no_grad()
def sample_answers(model: OmniModel, prompts: Sequence[Row], end_ids: Sequence[int], settings: SamplingSettings,
                   copies: int = 1) -> list[list[int]]:
    """So many answers to each prompt, those of a prompt side by side; each with its end, where that was reached.

    A prompt is encoded and read once, whatever `copies`. Holds the keys and values of all answers at once: bound it by
    the number of prompts.
    """
    was_training, language = model.training, model.decoder
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(settings.seed)
    fused = model.fuse([torch.from_numpy(row.ids).to(device) for row in prompts], [row.media for row in prompts])
    embeds, mask = _padded_left(fused)
    ends, cache = torch.tensor(list(end_ids), device=device), DynamicCache()
    answers: list[list[int]] = [[] for _ in range(len(prompts) * copies)]
    alive = torch.ones(len(answers), dtype=torch.bool, device=device)
    for _ in range(settings.max_tokens):
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        hidden = language.model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions,
                                past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        if len(hidden) < len(answers):  # a prompt is read once for all its answers
            cache.batch_repeat_interleave(copies)
            hidden, mask = hidden.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
        chosen = _choose(language.lm_head(hidden).float(), settings, generator)
        for row in alive.nonzero().flatten().tolist():
            answers[row].append(int(chosen[row]))
        alive &= ~torch.isin(chosen, ends)
        if not alive.any():
            break
        embeds = model.embed(chosen[:, None]).to(embeds.dtype)
        mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype, device=device)], dim=1)
    model.train(was_training)
    return answers


def _choose(logits: Tensor, settings: SamplingSettings, generator: torch.Generator) -> Tensor:
    """(B, V) -> (B,)."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    chances = (logits / settings.temperature).softmax(-1)
    if settings.top_p < 1:
        chances = _likeliest(chances, settings.top_p)
    return torch.multinomial(chances, 1, generator=generator)[:, 0]


def _likeliest(chances: Tensor, top_p: float) -> Tensor:
    """(B, V) with zeros beyond the fewest likeliest tokens that make up top_p together."""
    ranked, order = chances.sort(-1, descending=True)
    kept = ranked.cumsum(-1) - ranked < top_p  # the first always
    return torch.zeros_like(chances).scatter(-1, order, ranked * kept)


def _padded_left(fused: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts (T, D) -> (B, T, D) with zeros before the shorter ones, and which places are prompt (B, T)."""
    longest = max(len(item) for item in fused)
    embeds = torch.stack([torch.cat([item.new_zeros(longest - len(item), item.shape[1]), item]) for item in fused])
    mask = torch.stack([torch.arange(longest, device=item.device) >= longest - len(item) for item in fused]).long()
    return embeds, mask


def answered_row(prompt: Row, answer: Sequence[int]) -> Row:
    """A prompt with an answer behind it, of which every token is learned."""
    said = np.array(answer, np.int64)
    labels = np.concatenate([np.full(len(prompt.ids), NOT_LEARNED), said])
    return Row(np.concatenate([prompt.ids, said]), labels, prompt.media, prompt.tasks, name=prompt.name)


def answers_row(prompt: Row, answers: Sequence[Sequence[int]]) -> Row:
    """As answered_row, with several answers behind the same prompt, none of which sees another: the prompt is paid for
    once. The prompt's last token, which says each answer's first, stands before each."""
    stem, last = len(prompt.ids) - 1, prompt.ids[-1:]
    said = [np.array(answer, np.int64) for answer in answers]
    pieces = [np.concatenate([last, ids]) for ids in said]
    learned = [np.concatenate([[NOT_LEARNED], ids]) for ids in said]
    segments = [np.full(len(piece), number) for number, piece in enumerate(pieces, start=1)]
    return Row(
        np.concatenate([prompt.ids[:-1], *pieces]), np.concatenate([np.full(stem, NOT_LEARNED), *learned]),
        prompt.media, ("trunk", *prompt.tasks * len(said)), np.concatenate([np.zeros(stem, np.int64), *segments]),
        (0,) * (1 + len(said)), np.concatenate([np.arange(stem), *(np.arange(len(p)) + stem for p in pieces)]),
        name=prompt.name)


def answer_logps(model: OmniModel, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, A) of the learned tokens of each row, and which places are tokens (B, A)."""
    batch = collate(rows).to(next(model.parameters()).device)
    return batch_logps(model, batch)


def batch_logps(model: OmniModel, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """As answer_logps, of rows with one answer or several, one after the other; B counts answers.

    temperature: at which the answers were drawn.
    """
    wanted = batch.labels != NOT_LEARNED
    logps = -token_losses(lambda hidden: model.head(hidden) / temperature,
                          hidden_states(model, batch)[wanted], batch.labels[wanted])
    counts = _answer_lengths(batch, wanted)
    longest = max(counts)
    padded = [torch.cat([row, row.new_zeros(longest - len(row))]) for row in logps.split(counts)]
    mask = torch.arange(longest, device=logps.device)[None] < torch.tensor(counts, device=logps.device)[:, None]
    return torch.stack(padded), mask


def _answer_lengths(batch: Batch, wanted: Tensor) -> list[int]:
    """Learned tokens of each answer; a row's segments are its answers."""
    owners = torch.stack([wanted.nonzero()[:, 0], batch.segments[wanted]], 1)
    return torch.unique_consecutive(owners, return_counts=True, dim=0)[1].tolist()
