"""Pre-training: next token on documents of words, pictures and sounds, and beside it the tasks that tie these together.

    example ─ its media, loaded once ─┬─ whole ─────────────────── next token
                                      ├─ with words hidden ─────── masked language
                                      ├─ its pictures, hidden ──── masked image
                                      ├─ its sounds, hidden ────── masked audio
                                      └─ medium | words ────────── contrastive, matching

An objective is on when its section is in the recipe; one that is off runs nothing and has no parameters. In a
micro-batch every objective that is on runs once, in this order, on every rank (see `pretrain_feed`). What learns may
change by phases, as MiniCPM-o's connectors learn first and everything after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field, model_validator
from torch import nn

from .feeds import Draws
from .heads import PretrainHeads
from .objectives.contrastive import ContrastiveConfig, Embedded, embed_all, info_nce, sigmoid
from .objectives.masked_audio import MaskedAudioConfig, masked_audio
from .objectives.masked_image import MaskedImageConfig, masked_image
from .objectives.masked_language import MaskedLanguageConfig, masked_language
from .objectives.matching import MatchingConfig, matching
from .objectives.next_token import NextTokenConfig, next_token
from .objectives.pairs import Pairs, SeenPairs, see_pairs
from .objectives.switch import Switch
from .pretrain_feed import KINDS, PretrainFeed, PretrainMicro
from .terms import Objective, Term, model_blocks
from .trainee import Trainee

Trained = Literal["all", "heads", "connectors", "language", "vision", "hearing"]


class Phase(BaseModel, frozen=True, extra="forbid"):
    """What learns, and how long."""

    until: float | None = Field(default=None, gt=0, lt=1)
    """Share of the run's steps at which it ends; None: it is the last."""
    train: tuple[Trained, ...] = Field(min_length=1)
    """Parts that learn; what the recipe's model section freezes stays frozen all the same."""


class PretrainConfig(BaseModel, frozen=True, extra="forbid"):
    """Objectives, each on when its section is there, and the phases."""

    next_token: NextTokenConfig | None = NextTokenConfig()
    masked_language: MaskedLanguageConfig | None = None
    masked_image: MaskedImageConfig | None = None
    masked_audio: MaskedAudioConfig | None = None
    contrastive: ContrastiveConfig | None = None
    """Its negatives are the other pairs of a micro-batch, of all ranks."""
    matching: MatchingConfig | None = None
    phases: tuple[Phase, ...] = (Phase(train=("all",)),)
    max_tokens: int = Field(default=2048, ge=16)
    """Longest sample; longer ones are skipped and counted."""

    @model_validator(mode="after")
    def _check(self) -> PretrainConfig:
        ends = [phase.until for phase in self.phases]
        inner = [end for end in ends[:-1] if end is not None]
        if not ends or ends[-1] is not None or len(inner) < len(ends) - 1 or inner != sorted(set(inner)):
            raise ValueError(f"phases end at {ends}; give each but the last an `until`, rising, and the last none")
        if not self.switches:
            raise ValueError("every objective is off; turn one on")
        if self.contrastive and self.matching and self.contrastive.tasks != self.matching.tasks:
            raise ValueError(f"contrastive takes the tasks {self.contrastive.tasks} and matching "
                             f"{self.matching.tasks}; they share their pairs, so give both the same")
        return self

    @property
    def switches(self) -> dict[str, Switch]:
        """The objectives that are on."""
        names = ("next_token", "masked_language", "masked_image", "masked_audio", "contrastive", "matching")
        return {name: switch for name in names if (switch := getattr(self, name)) is not None}

    @property
    def paired(self) -> tuple[str, ...]:
        """Media that are laid out in pairs with texts."""
        wanted = {kind for switch in (self.contrastive, self.matching) if switch for kind in switch.media}
        return tuple(kind for kind in KINDS if kind in wanted)

    def pair_switch(self, kind: str) -> Switch:
        """The objective that says which samples are paired for a medium; both take the same where both are on."""
        return next(switch for switch in (self.contrastive, self.matching) if switch and kind in switch.media)


def build(config: PretrainConfig, trainee: Trainee, data: Draws, seed: int) -> tuple[PretrainObjective, PretrainFeed]:
    """The stage for the engine; seed draws the heads, the masks and the negatives.

    Raises OptionError for an objective that the model has no eyes or ears for.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective = PretrainObjective(config, trainee)
    return objective, PretrainFeed(config, trainee, data, seed)


# Losses


class PretrainObjective(Objective):
    """The model, its heads, and a term for every objective that is on."""

    def __init__(self, config: PretrainConfig, trainee: Trainee) -> None:
        super().__init__()
        self.config = config
        self.model = trainee.model
        self.heads = PretrainHeads(
            trainee.config, masked_language=config.masked_language, masked_image=config.masked_image,
            masked_audio=config.masked_audio, contrastive=config.contrastive, matching=config.matching)
        self.weights = {term: switch.weight for name, switch in config.switches.items()
                        for term in ([f"{kind}_text_{name}" for kind in switch.media]
                                     if isinstance(switch, ContrastiveConfig | MatchingConfig) else [name])}

    def forward(self, micro: PretrainMicro) -> dict[str, Term]:
        terms, model, heads = {}, self.model, self.heads
        if micro.next_token:
            terms["next_token"] = next_token(model, micro.next_token)
        if micro.masked_language:
            terms["masked_language"] = masked_language(model, micro.masked_language, heads.masked_language.vector)
        if micro.masked_image:
            terms["masked_image"] = masked_image(
                model, micro.masked_image, heads.masked_image["mask"].vector, heads.masked_image["decoder"],
                normalise=self.config.masked_image.normalise)
        if micro.masked_audio:
            terms["masked_audio"] = masked_audio(
                model, micro.masked_audio, heads.masked_audio["mask"].vector, heads.masked_audio["decoder"])
        for kind, pairs in micro.pairs.items():
            terms |= self._pair_terms(kind, pairs)
        return terms

    def _pair_terms(self, kind: str, pairs: Pairs) -> dict[str, Term]:
        terms, (contrastive, match) = {}, self._on(kind)
        seen = see_pairs(self.model, pairs)
        embedded = self.embedded(kind, pairs, seen)
        if contrastive:
            head = self.heads.contrastive
            terms[f"{kind}_text_contrastive"] = (
                info_nce(embedded, head.scale(kind)) if contrastive.loss == "infonce"
                else sigmoid(embedded, head.scale(kind), head.bias[kind]))
        if match:
            scale = self.heads.contrastive.scale(kind).detach() if contrastive else 0.0
            terms[f"{kind}_text_matching"] = matching(
                self.model, pairs, seen, self.heads.matching[kind], embedded, scale)
        return terms

    def embedded(self, kind: str, pairs: Pairs, seen: SeenPairs) -> Embedded:
        """Embeddings of the pairs of all ranks; without contrastive learning the bare states, which compare nothing."""
        media, texts = seen.media, seen.texts
        if self._on(kind)[0]:
            media, texts = self.heads.contrastive.embed(media, kind), self.heads.contrastive.embed(texts, "text")
        else:
            media, texts = media.detach(), texts.detach()
        return embed_all(media, texts, pairs.keys, pairs.valid)

    def _on(self, kind: str) -> tuple[ContrastiveConfig | None, MatchingConfig | None]:
        """The two objectives for a medium, where they are on for it."""
        contrastive, match = self.config.contrastive, self.config.matching
        return (contrastive if contrastive and kind in contrastive.media else None,
                match if match and kind in match.media else None)

    def counts(self, micro: PretrainMicro) -> dict[str, float]:
        found: dict[str, float] = {}
        if micro.next_token:
            found["next_token"] = micro.next_token.num_labels
        for name in ("masked_language", "masked_image", "masked_audio"):
            if item := getattr(micro, name):
                found[name] = item.count
        for kind, pairs in micro.pairs.items():
            contrastive, match = self._on(kind)
            found |= {f"{kind}_text_contrastive": pairs.count} if contrastive else {}
            found |= {f"{kind}_text_matching": 2 * pairs.count} if match else {}
        return found

    def num_tokens(self, micro: PretrainMicro) -> int:
        return sum(batch.num_tokens for batch in micro.batches)

    def trainable(self, step: int, steps: int) -> Sequence[str] | None:
        phase = next(phase for phase in self.config.phases if phase.until is None or step < phase.until * steps)
        if "all" in phase.train:
            return None
        return [f"{part}." if part == "heads" else f"model.{part}." for part in phase.train]

    def blocks(self) -> Sequence[nn.Module]:
        """Layers of the language model, and each tower whole: ranks see different numbers of pictures."""
        return model_blocks(self.model)

    def to_micro(self, micro: PretrainMicro, device: Any) -> PretrainMicro:
        return micro.to(device)
