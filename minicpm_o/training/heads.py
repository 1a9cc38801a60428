"""What pre-training lays over a model: vectors that hide, projections that compare, decoders that tell what was hidden.

Sized from the model's config; saved with a run, never exported. An objective that is off has nothing here.
Shapes: D language width, C numbers of a patch, M numbers of a frame, J pieces, Q tokens of a piece, K hidden patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..model.config import NanoConfig, OfficialConfig, OmniConfig
from ..model.encoders.positions import place_sincos
from ..rates import AUDIO_POOL
from .objectives.contrastive import ContrastiveConfig, Modality
from .objectives.masked_audio import MaskedAudioConfig
from .objectives.masked_image import MaskedImageConfig
from .objectives.masked_language import MaskedLanguageConfig
from .objectives.matching import MatchingConfig

DECODER_HEAD_WIDTH = 64


class PretrainHeads(nn.Module):
    """A part for every objective that is on."""

    def __init__(self, config: OmniConfig, *, masked_language: MaskedLanguageConfig | None = None,
                 masked_image: MaskedImageConfig | None = None, masked_audio: MaskedAudioConfig | None = None,
                 contrastive: ContrastiveConfig | None = None, matching: MatchingConfig | None = None) -> None:
        """Raises OptionError for an objective that the model has no eyes or ears for."""
        super().__init__()
        for pairs in filter(None, (contrastive, matching)):
            _check_senses(config, pairs.media)
        width = config.language.width
        if masked_language:
            self.masked_language = MaskVector(width)
        if masked_image:
            patch = patch_numbers(config)
            self.masked_image = nn.ModuleDict({
                "mask": MaskVector(patch), "decoder": PatchDecoder(width, patch, masked_image.layers)})
        if masked_audio:
            frame, per_token = frame_numbers(config)
            self.masked_audio = nn.ModuleDict({
                "mask": MaskVector(frame), "decoder": FrameDecoder(width, frame, per_token)})
        if contrastive:
            self.contrastive = ContrastiveHead(width, contrastive)
        if matching:
            self.matching = nn.ModuleDict({kind: MatchHead(width) for kind in matching.media})


class MaskVector(nn.Module):
    """A learned vector (D,) in the place of what is hidden."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(width) * 0.02)


class PatchDecoder(nn.Module):
    """Asks the states of a picture's tokens what was on its hidden patches, by their places alone.

    states (J, Q, D), places (J, K, 2) of row and column -> (J, K, C).
    """

    def __init__(self, width: int, patch: int, layers: int) -> None:
        super().__init__()
        self.width = width
        self.place = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(CrossLayer(width) for _ in range(layers))
        self.out_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, patch)

    def forward(self, states: Tensor, places: Tensor) -> Tensor:
        weight = self.place.weight
        table = torch.from_numpy(place_sincos(places.cpu().numpy(), self.width))
        x = self.place(table.to(weight))  # (J, K, D)
        states = self.norm(states.to(weight.dtype))
        for layer in self.layers:
            x = layer(x, states)
        return self.out(self.out_norm(x))


class CrossLayer(nn.Module):
    """Cross-attention, then feed-forward, each behind its norm and added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        heads = max(n for n in range(1, max(1, width // DECODER_HEAD_WIDTH) + 1) if width % n == 0)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, states: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x), states, states, need_weights=False)[0]
        return x + self.feed_forward(x)


class FrameDecoder(nn.Module):
    """states (A, D) of a sound's tokens -> the frames that each covers (A, per_token, M)."""

    def __init__(self, width: int, frame: int, per_token: int) -> None:
        super().__init__()
        self.per_token = per_token
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(),
                                    nn.Linear(2 * width, per_token * frame))

    def forward(self, states: Tensor) -> Tensor:
        states = states.to(self.layers[1].weight.dtype)
        return self.layers(states).unflatten(-1, (self.per_token, -1))


class ContrastiveHead(nn.Module):
    """Projections of media and text into one space, and the temperature of each comparison."""

    def __init__(self, width: int, config: ContrastiveConfig) -> None:
        super().__init__()
        is_softmax = config.loss == "infonce"
        self.projections = nn.ModuleDict(
            {kind: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.width)) for kind in
             (*config.media, "text")})
        start = math.log(1 / 0.07) if is_softmax else math.log(10.0)  # as CLIP and SigLIP begin
        self.log_scale = nn.ParameterDict({kind: nn.Parameter(torch.tensor([start])) for kind in config.media})
        if not is_softmax:
            self.bias = nn.ParameterDict({kind: nn.Parameter(torch.tensor([-10.0])) for kind in config.media})

    def embed(self, states: Tensor, kind: str) -> Tensor:
        """states (B, D) -> embeddings of "text", "image" or "audio"."""
        projection = self.projections[kind]
        return projection(states.to(projection[1].weight.dtype))

    def scale(self, kind: str) -> Tensor:
        """One over the temperature; at most 100, as CLIP has it."""
        return self.log_scale[kind].float().exp().clamp(max=100.0)


class MatchHead(nn.Module):
    """states (N, D) -> logits (N,)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, states: Tensor) -> Tensor:
        return self.layers(states.to(self.layers[1].weight.dtype))[:, 0]


def _check_senses(config: OmniConfig, media: Sequence[Modality]) -> None:
    for kind in media:
        patch_numbers(config) if kind == "image" else frame_numbers(config)


def patch_numbers(config: OmniConfig) -> int:
    """Pixels of a patch times channels, or nano's features of a cell."""
    if isinstance(config, NanoConfig):
        return config.vision.width
    if not isinstance(config, OfficialConfig) or config.vision is None:
        raise OptionError(f"an objective with pictures is on, but {config.name} has no eyes; turn it off, leave "
                          f"them out of its media, or load the model's vision")
    return config.vision.channels * config.vision.patch_px**2


def frame_numbers(config: OmniConfig) -> tuple[int, int]:
    """Mel bins (with nano the encoder's width), and the frames that a token covers."""
    if isinstance(config, NanoConfig):
        return config.hearing.width, AUDIO_POOL
    if not isinstance(config, OfficialConfig) or config.hearing is None:
        raise OptionError(f"an objective with sounds is on, but {config.name} has no ears; turn it off, leave "
                          f"them out of its media, or load the model's hearing")
    return config.hearing.mel_bins, 2 * config.hearing.pool_step
