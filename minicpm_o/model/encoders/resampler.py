"""Grid of picture features to a fixed number of tokens of the language model's width.

Four kinds of token, in this order: local (cross-attention from a grid of queries with 2-D positions), global (the mean
feature through an MLP), words (the frozen classifier's most likely classes, written as word embeddings: the classifier
already knows a thousand names, so they need not be learned again) and concepts (the same from a linear head over the
mean and the maximum of the features, trained on the words of captions, boxes and labels).
Shapes: B batch, P = G*G grid cells, E encoder width, Q tokens, D language width, H heads. The idea of the resampler is
that of MiniCPM-V (arXiv:2408.01800); position bias, word and concept
tokens are this project's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import NanoConfig
from .positions import grid_distances, sincos_2d


class Resampler(nn.Module):
    """features (B, P, E), class_logits (B, 1000) of the mean feature -> tokens (B, Q, D)."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        vision, shape, width = config.vision, config.resampler, config.language.width
        self.num_words, self.num_global, self.heads = shape.num_words, shape.num_global, shape.heads
        self.width = width
        self.class_words = nn.Parameter(torch.zeros(vision.num_classes, width))
        self.word_rank = nn.Parameter(torch.zeros(shape.num_words, width))
        self.num_concepts = shape.num_concepts
        self.concept_head = nn.Linear(2 * vision.width, shape.vocabulary)
        self.concept_words = nn.Parameter(torch.zeros(shape.vocabulary, width))
        self.concept_rank = nn.Parameter(torch.zeros(shape.num_concepts, width))
        self.feature_in = nn.Linear(vision.width, width)
        self.feature_norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(shape.query_grid**2, width) * 0.02)
        self.distance_scale = nn.Parameter(torch.linspace(0.5, 4.0, shape.heads))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, 2 * width)
        self.ffn_out = nn.Linear(2 * width, width)
        self.global_in = nn.Linear(vision.width, 2 * width)
        self.global_out = nn.Linear(2 * width, shape.num_global * width)
        self.out_norm = nn.LayerNorm(width)
        self.out_proj = nn.Linear(width, width)
        self.register_buffer("key_position", torch.from_numpy(sincos_2d(vision.grid, width)), persistent=False)
        self.register_buffer("query_position", torch.from_numpy(sincos_2d(shape.query_grid, width)), persistent=False)
        self.register_buffer(
            "distances", torch.from_numpy(grid_distances(shape.query_grid, vision.grid)), persistent=False
        )

    def forward(self, features: Tensor, class_logits: Tensor, concept_logits: Tensor | None = None) -> Tensor:
        """concept_logits (B, vocabulary): given in training only, by heads that have not seen the picture."""
        tokens = torch.cat([self.local_tokens(features), self.global_tokens(features)], dim=1)
        tokens = self.out_proj(self.out_norm(tokens))
        words, concepts = self.word_tokens(class_logits), self.concept_tokens(features, concept_logits)
        return torch.cat([tokens, words, concepts], dim=1)  # (B, Q, D)

    def local_tokens(self, features: Tensor) -> Tensor:
        """Each query looks around its own place: attention falls off with distance, per head as learned."""
        batch, width, heads = features.shape[0], self.width, self.heads
        h = self.feature_norm(self.feature_in(features))  # (B, P, E) -> (B, P, D)
        query = (self.query + self.query_position)[None]
        q = self.q_proj(query).view(1, -1, heads, width // heads).transpose(1, 2)
        k = self.k_proj(h + self.key_position).view(batch, -1, heads, width // heads).transpose(1, 2)
        v = self.v_proj(h).view(batch, -1, heads, width // heads).transpose(1, 2)
        scores = q @ k.transpose(2, 3) * (width // heads) ** -0.5  # (B, H, Q, P)
        scores = scores - F.softplus(self.distance_scale)[:, None, None] * self.distances
        x = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)  # (B, H, Q, K) -> (B, Q, D)
        x = self.query + self.o_proj(x)
        return x + self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x))))

    def global_tokens(self, features: Tensor) -> Tensor:
        h = self.global_out(F.gelu(self.global_in(features.mean(1))))
        return h.view(features.shape[0], self.num_global, self.width)

    def word_tokens(self, class_logits: Tensor) -> Tensor:
        """The most likely classes, in order, each its word embedding weighed by its probability."""
        probability, index = class_logits.softmax(-1).topk(self.num_words, dim=-1)  # (B, W)
        confidence = probability.sqrt().unsqueeze(-1)  # the root keeps second guesses audible
        return self.class_words[index] * confidence + self.word_rank  # (B, W, D)

    def concept_logits(self, features: Tensor) -> Tensor:
        """features (B, P, E) -> (B, vocabulary): the mean tells the whole, the maximum what is somewhere in it."""
        return self.concept_head(torch.cat([features.mean(1), features.amax(1)], dim=-1))

    def concept_tokens(self, features: Tensor, logits: Tensor | None = None) -> Tensor:
        """The most likely concepts, in order, each its word embedding weighed by its probability."""
        logits = self.concept_logits(features) if logits is None else logits
        probability, index = logits.sigmoid().topk(self.num_concepts, dim=-1)
        return self.concept_words[index] * probability.sqrt().unsqueeze(-1) + self.concept_rank  # (B, C, D)
