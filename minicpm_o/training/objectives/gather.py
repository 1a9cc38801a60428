"""Rows of all ranks, the only thing that objectives know of them. With no process group there is one rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Gathered:
    """Rows of all ranks in the order of the ranks, and where this rank's own begin."""

    rows: Tensor
    start: int


def gather(rows: Tensor) -> Gathered:
    """rows (B, ...), B as each rank has it. Gradients go back to the rank that a row came from."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Gathered(rows, 0)
    from torch.distributed.nn.functional import all_gather

    lengths = _lengths(rows)
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])
    padded = torch.cat([rows, padded[len(rows) :]])
    if rows.requires_grad:
        all_rows = all_gather(padded)
    else:
        all_rows = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(all_rows, padded)
    cut = [part[:length] for part, length in zip(all_rows, lengths, strict=True)]
    return Gathered(torch.cat(cut), sum(lengths[: dist.get_rank()]))


def gather_texts(texts: list[Tensor]) -> list[Tensor]:
    """ids (W,) of every rank's texts, in the order of the ranks."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return texts
    width = torch.tensor([max(map(len, texts))], device=texts[0].device)
    dist.all_reduce(width, op=dist.ReduceOp.MAX)
    padded = torch.full((len(texts), int(width)), -1, device=texts[0].device)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    return [row[row >= 0] for row in gather(padded).rows]


def _lengths(rows: Tensor) -> list[int]:
    own = torch.tensor([len(rows)], device=rows.device)
    lengths = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, own)
    return [int(length) for length in lengths]
