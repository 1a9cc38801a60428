"""Instruction tuning: of conversations it is learned what the assistant says, how that sounds, and when it speaks.

    example ─ laid out ─ packed ─┬─ language model ─┬─ answers' words ────────── next_token
                                 │                  ├─ listen, speak, end ────── decisions   (live sessions, 4.5)
                                 │                  └─ thoughts ─ talker ─────── speech_codes (spoken answers, 4.5)

Packed samples are blind to each other, so that packing changes the speed alone. 2.6's voice, ChatTTS, rests: its
training needs the DVAE's encoder, which no checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import nn

from ..errors import InputError, OptionError
from .examples import Example
from .feeds import Draws, StageFeed
from .live import live_row, weigh_decisions
from .objectives.next_token import by_task, token_losses
from .objectives.speech_codes import SpeechCodesConfig, check_codes, count_codes, speech_codes
from .pretrain_feed import stand_in
from .rows import NOT_LEARNED, Batch, Row, collate, hidden_states, pack
from .terms import Objective, Term, model_blocks
from .trainee import OfficialTrainee, Trainee


class SftConfig(BaseModel, frozen=True, extra="forbid"):
    """What is learned of a conversation."""

    weight: float = Field(default=1.0, ge=0)
    """Of the answers' words."""
    decisions_weight: float = Field(default=1.0, ge=0)
    """Of listening, speaking and the end of a turn in live sessions: they are few, and every second has one."""
    speech_codes: SpeechCodesConfig | None = None
    """Let the talker learn spoken answers; examples bring their speech tokens."""
    max_tokens: int = Field(default=2048, ge=16)
    """Longest sample; longer ones are skipped and counted, never cut. Packed rows are as long at most."""
    pack: bool = True
    """Samples side by side, so that little is padded."""


@dataclass(frozen=True)
class SftMicro:
    """A micro-batch: rows, and where in them a live decision is learned."""

    batch: Batch
    is_decision: torch.Tensor
    """(B, T) like the labels."""

    @property
    def batches(self) -> tuple[Batch, ...]:
        return (self.batch,)


def build(config: SftConfig, trainee: Trainee, data: Draws, seed: int) -> tuple[SftObjective, SftFeed]:
    """The stage for the engine. Raises OptionError for speech tokens and a model without a talker."""
    if config.speech_codes and trainee.model.talker is None:
        raise OptionError(f"{trainee.name} has no talker to learn speech tokens; leave sft.speech_codes out")
    return SftObjective(config, trainee), SftFeed(config, trainee, data)


class SftObjective(Objective):
    """The model and its terms."""

    def __init__(self, config: SftConfig, trainee: Trainee) -> None:
        super().__init__()
        self.config, self.model = config, trainee.model
        self.weights = {"next_token": config.weight, "decisions": config.decisions_weight}
        if config.speech_codes:
            self.weights["speech_codes"] = config.speech_codes.weight

    def forward(self, micro: SftMicro) -> dict[str, Term]:
        batch, hidden = micro.batch, hidden_states(self.model, micro.batch)
        wanted = batch.labels != NOT_LEARNED
        terms = {"next_token": self._term(batch, hidden, wanted & ~micro.is_decision)}
        if micro.is_decision.any():
            terms["decisions"] = self._term(batch, hidden, wanted & micro.is_decision)
        if self.config.speech_codes:
            terms["speech_codes"] = speech_codes(self.model.talker, batch, hidden,
                                                 teaches_language=self.config.speech_codes.teaches_language)
        return terms

    def _term(self, batch: Batch, hidden: torch.Tensor, wanted: torch.Tensor) -> Term:
        losses = token_losses(self.model.head, hidden[wanted], batch.labels[wanted])
        return Term(losses.sum(), len(losses), by_task(batch, wanted, losses.detach()))

    def counts(self, micro: SftMicro) -> dict[str, float]:
        decisions = int(micro.is_decision.sum())
        found: dict[str, float] = {"next_token": micro.batch.num_labels - decisions}
        found |= {"decisions": decisions} if decisions else {}
        return found | ({"speech_codes": count_codes(micro.batch)} if self.config.speech_codes else {})

    def num_tokens(self, micro: SftMicro) -> int:
        return micro.batch.num_tokens

    def blocks(self) -> Sequence[nn.Module]:
        return model_blocks(self.model)

    def to_micro(self, micro: SftMicro, device: Any) -> SftMicro:
        return SftMicro(micro.batch.to(device), micro.is_decision.to(device))


class SftFeed(StageFeed):
    """The mixture's conversations of a step, laid out and packed."""

    def __init__(self, config: SftConfig, trainee: Trainee, data: Draws) -> None:
        super().__init__(trainee, data)
        self.config = config

    def micro(self, examples: Sequence[Example], step: int = 0, number: int = 0) -> SftMicro:
        """The examples as one batch; where none can be used, a stand-in of which nothing is learned."""
        rows = [row for example in examples if (row := self._row(example)) is not None]
        if not rows:
            row = self.trainee.row(stand_in(self.trainee))
            rows = [replace(row, labels=np.full_like(row.labels, NOT_LEARNED))]
        if self.config.pack:
            rows = pack(sorted(rows, key=len, reverse=True), self.config.max_tokens)
        return SftMicro(collate(rows), self._decisions(rows))

    def _row(self, example: Example) -> Row | None:
        try:
            row = self._laid(example)
            if not row.num_labels:
                raise OptionError("nothing in it is learned; it needs an answer that is not empty")
        except InputError as error:
            self.skip(example, error)
            return None
        return row

    def _laid(self, example: Example) -> Row:
        if "units" in example.facts:
            if not isinstance(self.trainee, OfficialTrainee):
                raise OptionError(f"{self.trainee.name} has no live units; they are 4.5's")
            row = live_row(self.trainee, example.facts["units"], system=example.facts.get("system", ""),
                           name=example.name)
            if len(row) > self.config.max_tokens:
                raise OptionError(f"{example.name or 'a session'} takes {len(row)} tokens, more than max_tokens = "
                                  f"{self.config.max_tokens}; raise it, or give shorter sessions")
            return row
        row = self.trainee.row(example, max_tokens=self.config.max_tokens)
        if row.speech and self.config.speech_codes:
            for turn in row.speech:
                check_codes(turn, self.trainee.model.talker, row.name)
        elif row.speech:
            row = replace(row, speech=())
        return row

    def _decisions(self, rows: Sequence[Row]) -> torch.Tensor:
        """(B, T) of the next token."""
        longest = max(map(len, rows))
        found = torch.zeros(len(rows), longest, dtype=torch.bool)
        if isinstance(self.trainee, OfficialTrainee) and self.trainee.config.version == "4.5":
            for line, row in enumerate(rows):
                is_live = np.isin(row.segments, [number for number, task in enumerate(row.tasks) if task == "live"])
                marked = weigh_decisions(row, self.trainee) & is_live
                found[line, : len(row) - 1] = torch.from_numpy(marked[1:])
        return found
