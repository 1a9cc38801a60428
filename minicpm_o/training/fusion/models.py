"""The same eye, ear and language model, joined in different ways: what is compared.

    late            the language model reads the question alone; an MLP answers from three pooled vectors
    middle_pooled   one pooled token of the picture and one of the sound join the sequence at the middle layer
    middle          all media tokens join the sequence at the middle layer
    first_pooled    the pooled tokens join before the first layer
    full            all media tokens join before the first layer: what the package does
    cross           the sequence has words alone, which look at all media tokens through gated cross-attention
    blind           neither picture nor sound: what the questions give away

Every variant begins with the same weights where it has the same parts, and has as many weights, within a hundredth
(blind has fewer). Shapes: B scenes, Q questions, T words, N media tokens, P picture's tokens, A sound's tokens, D
width, L layers, S picture side, M mel bins, F mel frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.config import LanguageConfig
from ...model.fusion.scatter import scatter_features
from ...model.fusion.spans import Span
from ...model.language.decoder import build_decoder
from ...model.omni import tree_bias
from .batches import ANSWER_WORDS, WORDS, Batch
from .scenes import MEL_BINS, MEL_FRAMES, SIDE_PX


@dataclass(frozen=True)
class FusionConfig:
    """Sizes that all variants share."""

    language: LanguageConfig = field(default_factory=lambda: LanguageConfig(
        vocab_size=len(WORDS), width=128, layers=4, heads=4, kv_heads=4, head_width=32, ffn=384, context_tokens=128))
    eye_layers: int = 2
    ear_layers: int = 1
    ffn: int = 256
    """Of the encoders' layers."""
    patch_px: int = 8
    merge: int = 2
    """Side of the squares of patches that become one token."""
    sound_frames: int = 12
    """Mel frames that become one token."""
    token_hidden: int = 460
    """Hidden width of the projectors of tokens. This and the next are chosen so that all variants weigh the same."""
    pooled_hidden: int = 204
    """Hidden width of the projectors of pooled vectors, and of cross-attention's MLPs."""
    cross_before: tuple[int, ...] = (1, 3)
    """Layers that cross-attention stands before."""

    @property
    def picture_tokens(self) -> int:
        return (SIDE_PX // self.patch_px // self.merge) ** 2

    @property
    def sound_tokens(self) -> int:
        return MEL_FRAMES // self.sound_frames

    @property
    def middle(self) -> int:
        return self.language.layers // 2


# Parts


def encoder_layers(config: FusionConfig, count: int) -> nn.Sequential:
    width, heads = config.language.width, config.language.heads
    return nn.Sequential(*(nn.TransformerEncoderLayer(width, heads, config.ffn, dropout=0.0, activation="gelu",
                                                      batch_first=True, norm_first=True) for _ in range(count)))


class Eye(nn.Module):
    """Pictures (B, 3, S, S) to tokens (B, P, D): convolutions, transformer layers, squares of patches merged.

    Each convolution halves the sides; from scratch they learn to see sooner than one large step (arXiv:2106.14881).
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width, self.side, self.merge = config.language.width, SIDE_PX // config.patch_px, config.merge
        steps = config.patch_px.bit_length() - 1
        widths = (3, *(width // 2 ** (steps - 1 - i) for i in range(steps)))
        self.patches = nn.Sequential(*(part for inner, outer in pairwise(widths) for part in (
            nn.Conv2d(inner, outer, 3, stride=2, padding=1), nn.GELU())))
        self.places = nn.Parameter(torch.randn(self.side**2, width) * 0.02)
        self.layers = encoder_layers(config, config.eye_layers)
        self.out = nn.Sequential(nn.Linear(config.merge**2 * width, width), nn.LayerNorm(width))

    def forward(self, pictures: Tensor) -> Tensor:
        hidden = self.layers(self.patches((1 - pictures) * 2).flatten(2).transpose(1, 2) + self.places)
        grid = hidden.transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.out(F.unfold(grid, self.merge, stride=self.merge).transpose(1, 2))


class Ear(nn.Module):
    """Log-mels (B, M, F) to tokens (B, A, D)."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width = config.language.width
        self.frames = nn.Conv1d(MEL_BINS, width, config.sound_frames, config.sound_frames)
        self.places = nn.Parameter(torch.randn(config.sound_tokens, width) * 0.02)
        self.layers = encoder_layers(config, config.ear_layers)
        self.out = nn.LayerNorm(width)

    def forward(self, log_mels: Tensor) -> Tensor:
        return self.out(self.layers(self.frames(log_mels).transpose(1, 2) + self.places))


class Pool(nn.Module):
    """Tokens (B, N, D) to one (B, 1, D): a learnt query looks at them."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width = config.language.width
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, config.language.heads, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.query.expand(len(tokens), -1, -1)
        return self.attention(query, tokens, tokens, need_weights=False)[0]


def projector(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class CrossBlock(nn.Module):
    """Words (B, T, D) look at media (B, N, D); gates as in Flamingo (arXiv:2204.14198).

    The gates begin at a half instead of zero: there is no trained language model to be spared.
    """

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        width = config.language.width
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, config.language.heads, batch_first=True)
        self.mlp = projector(width, config.pooled_hidden)
        self.gates = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, hidden: Tensor, media: Tensor) -> Tensor:
        look, think = self.gates.tanh()
        hidden = hidden + look * self.attention(self.norms[0](hidden), media, media, need_weights=False)[0]
        return hidden + think * self.mlp(self.norms[1](hidden))


# Variants


class FusionModel(nn.Module):
    """What all variants share; `forward` gives logits (B, Q, answers) over the closed set."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__()
        self.config = config
        self.eye, self.ear = Eye(config), Ear(config)
        self.decoder = build_decoder(config.language)

    def embed(self, batch: Batch) -> Tensor:
        """(B, T, D) of the words."""
        return self.decoder.get_input_embeddings()(batch.ids)

    def think(self, hidden: Tensor, batch: Batch, layers: Sequence[nn.Module]) -> Tensor:
        """Some of the decoder's layers over (B, T, D), or over (B, N + T, D) with media before the words.

        Words have the same positions whether media stand before them or not.
        """
        num_media = hidden.shape[1] - batch.ids.shape[1]
        segments = F.pad(batch.segments, (num_media, 0))  # 0 is the trunk, which every question sees
        after = self.config.picture_tokens + self.config.sound_tokens
        places = torch.arange(num_media).expand(len(hidden), -1)
        positions = torch.cat([places, after + batch.offsets], dim=1)
        bias, rotary = tree_bias(segments), self.decoder.model.rotary_emb(hidden, positions)
        for layer in layers:
            hidden = layer(hidden, attention_mask=bias, position_ids=positions, position_embeddings=rotary)
        return hidden

    def at_ends(self, hidden: Tensor, batch: Batch) -> Tensor:
        """(B, [N +] T, D) to what is thought at the end of each question (B, Q, D), after the final norm."""
        words = hidden[:, hidden.shape[1] - batch.ids.shape[1]:]
        return self.decoder.model.norm(words[torch.arange(len(words))[:, None], batch.ends])

    def say(self, hidden: Tensor, batch: Batch) -> Tensor:
        """The language model's own head, of the words that can be answers."""
        return self.decoder.lm_head(self.at_ends(hidden, batch))[..., : len(ANSWER_WORDS)]


class Blind(FusionModel):
    """The language model alone."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        del self.eye, self.ear

    def forward(self, batch: Batch) -> Tensor:
        return self.say(self.think(self.embed(batch), batch, self.decoder.model.layers), batch)


class Late(FusionModel):
    """Everything apart until the end: only pooled vectors meet."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        width = config.language.width
        self.pools = nn.ModuleList([Pool(config), Pool(config)])
        self.answer = nn.Sequential(nn.Linear(3 * width, 2 * width), nn.GELU(),
                                    nn.Linear(2 * width, len(ANSWER_WORDS)))

    def pooled(self, batch: Batch) -> list[Tensor]:
        """Picture and sound as one vector each, (B, 1, D)."""
        tokens = (self.eye(batch.pictures), self.ear(batch.log_mels))
        return [pool(item) for pool, item in zip(self.pools, tokens, strict=True)]

    def forward(self, batch: Batch) -> Tensor:
        asked = self.at_ends(self.think(self.embed(batch), batch, self.decoder.model.layers), batch)
        media = [item.expand_as(asked) for item in self.pooled(batch)]
        return self.answer(torch.cat([*media, asked], dim=-1))


class InSequence(FusionModel):
    """Media become tokens of the language model's own sequence, before layer `enters`, whole or pooled."""

    def __init__(self, config: FusionConfig, *, enters: int, is_pooled: bool) -> None:
        super().__init__(config)
        self.enters, width = enters, config.language.width
        hidden = config.pooled_hidden if is_pooled else config.token_hidden
        self.connectors = nn.ModuleList(
            nn.Sequential(*([Pool(config)] if is_pooled else []), projector(width, hidden)) for _ in range(2))

    def media(self, batch: Batch) -> list[Tensor]:
        """The picture's tokens (B, P or 1, D) and the sound's (B, A or 1, D)."""
        tokens = (self.eye(batch.pictures), self.ear(batch.log_mels))
        return [connect(item) for connect, item in zip(self.connectors, tokens, strict=True)]

    def forward(self, batch: Batch) -> Tensor:
        layers = self.decoder.model.layers
        words = self.think(self.embed(batch), batch, layers[: self.enters])
        hidden = self.think(join(words, self.media(batch)), batch, layers[self.enters:])
        return self.say(hidden, batch)


def join(words: Tensor, media: Sequence[Tensor]) -> Tensor:
    """Room for the media before the words (B, T, D), and the package's own scatter into it: (B, N + T, D)."""
    stops = torch.tensor([item.shape[1] for item in media]).cumsum(0).tolist()
    spans = [Span(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
    roomy = F.pad(words, (0, 0, stops[-1], 0))
    return torch.stack([scatter_features(row, items, spans) for row, *items in zip(roomy, *media, strict=True)])


class Cross(FusionModel):
    """Words alone are in the sequence and look at the media from a few layers."""

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleDict({str(layer): CrossBlock(config) for layer in config.cross_before})

    def forward(self, batch: Batch) -> Tensor:
        media = torch.cat([self.eye(batch.pictures), self.ear(batch.log_mels)], dim=1)
        hidden, before = self.embed(batch), 0
        for place, block in self.blocks.items():
            hidden = self.think(hidden, batch, self.decoder.model.layers[before: int(place)])
            hidden, before = block(hidden, media), int(place)
        return self.say(self.think(hidden, batch, self.decoder.model.layers[before:]), batch)


VARIANTS = ("blind", "late", "middle_pooled", "middle", "first_pooled", "full", "cross")


def build_variant(name: str, seed: int, config: FusionConfig = FusionConfig()) -> FusionModel:
    """A variant with weights of this seed; parts that variants share have the same ones."""
    torch.manual_seed(seed)
    if name in ("blind", "late", "cross"):
        return {"blind": Blind, "late": Late, "cross": Cross}[name](config)
    enters = config.middle if name.startswith("middle") else 0
    return InSequence(config, enters=enters, is_pooled=name.endswith("pooled"))


def num_weights(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())
