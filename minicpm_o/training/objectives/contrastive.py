"""Contrastive learning: a medium and its text lie near each other, and far from the others of the batch of all ranks.

Sources: CLIP (arXiv:2103.00020) for InfoNCE with a learned temperature; SigLIP (arXiv:2303.15343) for the sigmoid.
Shapes: B pairs of this rank, G pairs of all ranks, D width of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..terms import Term
from .gather import gather
from .switch import Switch

Modality = Literal["image", "audio"]


class ContrastiveConfig(Switch, frozen=True):
    """Which media, and by which loss."""

    media: tuple[Modality, ...] = ("image", "audio")
    """What is paired with text."""
    loss: Literal["infonce", "sigmoid"] = "infonce"
    """CLIP's softmax over the batch both ways, or SigLIP's yes or no for every pair."""
    width: int = Field(default=128, ge=1)
    """Of the embeddings."""


@dataclass(frozen=True)
class Embedded:
    """Unit vectors of this rank's media and texts, and of all ranks'."""

    media: Tensor
    """(B, D)."""
    texts: Tensor
    """(B, D)."""
    all_media: Tensor
    """(G, D)."""
    all_texts: Tensor
    """(G, D)."""
    keys: Tensor
    """(G, 2) of medium and text."""
    valid: Tensor
    """(G,)."""
    start: int
    """This rank's first among all."""

    @property
    def own(self) -> slice:
        return slice(self.start, self.start + len(self.media))

    @property
    def is_other(self) -> Tensor:
        """(G, G), media by texts: a negative, that is neither the pair itself nor an equal text or medium."""
        differs = (self.keys[:, None] != self.keys[None]).all(-1)
        return differs & self.valid[:, None] & self.valid[None]


def embed_all(media: Tensor, texts: Tensor, keys: Tensor, valid: Tensor) -> Embedded:
    """Embeddings (B, D) of any length, made unit vectors and gathered."""
    media, texts = F.normalize(media.float(), dim=-1), F.normalize(texts.float(), dim=-1)
    all_media = gather(media)
    return Embedded(media, texts, all_media.rows, gather(texts).rows, gather(keys).rows,
                    gather(valid.to(torch.uint8)).rows.bool(), all_media.start)


def info_nce(embedded: Embedded, scale: Tensor) -> Term:
    """Half the cross-entropies of every medium among all texts and of every text among all media.

    scale: one over the temperature. An equal text (or medium) elsewhere in the batch is no negative.
    """
    own = embedded.own
    right = torch.arange(own.start, own.stop, device=embedded.media.device)
    is_other, valid = embedded.is_other, embedded.valid[own]
    total = embedded.media.new_zeros(())
    for rows, columns, other in ((embedded.media, embedded.all_texts, is_other[own]),
                                 (embedded.texts, embedded.all_media, is_other.T[own])):
        logits = scale.float() * rows @ columns.T  # (B, G)
        allowed = other.clone()
        allowed[torch.arange(len(right), device=right.device), right] = True
        losses = F.cross_entropy(logits.masked_fill(~allowed, float("-inf")), right, reduction="none")
        total = total + 0.5 * losses[valid].sum()
    return Term(total, int(valid.sum()))


def sigmoid(embedded: Embedded, scale: Tensor, bias: Tensor) -> Term:
    """SigLIP's loss: every medium of this rank with every text of all, summed, to be divided by the pairs."""
    own, valid = embedded.own, embedded.valid[embedded.own]
    logits = scale.float() * embedded.media @ embedded.all_texts.T + bias.float()  # (B, G)
    is_right = torch.zeros_like(logits, dtype=torch.bool)
    is_right[torch.arange(len(logits)), torch.arange(own.start, own.stop)] = valid.cpu()
    losses = -F.logsigmoid(torch.where(is_right, logits, -logits))
    return Term(losses[is_right | embedded.is_other[own]].sum(), int(valid.sum()))
