"""Alignment: answers that people, or rules, like better become likelier, not too far from the tuned model.

    dpo    pairs of a better and a worse answer to one prompt (RLAIF-V's form), no sampling
    grpo   several answers to one prompt, drawn from the model as it is, rewarded by rule, compared with each other

Both look back at a reference, the model before alignment: with LoRA the model without its adapter, else a frozen copy.
trl has both losses, but its trainers take batches of padded ids with pixels beside them, not this model's rows, in
which pictures and sounds have places; so the formulas stand in `objectives` and this module brings rows to them.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn

from ..errors import InputError, OptionError
from ..inputs.messages import Message, TextPart
from ..model.omni import EncodedMedia, OmniModel
from .examples import Example
from .feeds import Draws, StageFeed
from .objectives.policy import advantages, grpo
from .objectives.preference import Preferences, dpo, ipo
from .rewards import check_weights, length_rewards, total_reward
from .rows import NOT_LEARNED, Batch, Media, Row, collate
from .sampling import SamplingSettings, answered_row, answers_row, batch_logps, sample_answers
from .save import base_fingerprint
from .terms import Objective, Term, model_blocks, seed_of
from .trainee import Trainee


class DpoConfig(BaseModel, frozen=True, extra="forbid"):
    """Direct preference optimisation; beta is RLAIF-V's."""

    beta: float = Field(default=0.1, gt=0)
    """How dear it is to move away from the reference."""
    loss: Literal["dpo", "ipo"] = "dpo"
    """ipo stops at a margin, where pairs are few or always the right way round."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the pairs that may be the wrong way round; dpo alone."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Of the better answer's own next-token loss beside it: keeps the language from drifting."""
    cache: Path | None = None
    """Folder for the reference's log-probabilities: what was looked up once is not computed again."""


class GrpoConfig(BaseModel, frozen=True, extra="forbid"):
    """Group relative policy optimisation with rewards by rule."""

    group: int = Field(default=4, ge=2)
    """Answers to a prompt."""
    max_tokens: int = Field(default=32, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    """Of drawing, and of the chances that are learned from what was drawn."""
    clip: float = Field(default=0.2, gt=0)
    kl_weight: float = Field(default=0.04, ge=0)
    by_sequence: bool = False
    rewards: dict[str, float] = {"answer": 1.0, "facts": 1.0, "fluency": 0.2}
    """Reward -> weight; those that a sample's facts say nothing about are left out for it."""
    right_from: float = 0.5
    """An answer with this much reward counts as right for the length reward."""
    length_weight: float = Field(default=0.0, ge=0)
    length_tau: float = Field(default=16.0, gt=0)
    """Tokens of spread in a group from which the length reward is felt in full."""
    length_after: int = Field(default=480, ge=0)
    """Steps before it begins, as in the report of 4.5."""

    @model_validator(mode="after")
    def _known(self) -> GrpoConfig:
        check_weights(self.rewards)
        return self


class AlignConfig(BaseModel, frozen=True, extra="forbid"):
    """Which of the two, and how."""

    method: Literal["dpo", "grpo"] = "dpo"
    dpo: DpoConfig = DpoConfig()
    grpo: GrpoConfig = GrpoConfig()
    max_tokens: int = Field(default=2048, ge=16)
    """Longest prompt with answer; longer ones are skipped and counted."""


def build(config: AlignConfig, trainee: Trainee, data: Draws, seed: int) -> tuple[Objective, AlignFeed]:
    """The stage for the engine; takes the model as it is now for its reference."""
    reference = Reference(trainee.model, None if config.method == "grpo" else config.dpo.cache)
    if config.method == "dpo":
        return DpoObjective(config.dpo, trainee, reference), PairFeed(config, trainee, data)
    return GrpoObjective(config.grpo, trainee, reference, seed), PromptFeed(config, trainee, data)


# Reference


class Reference:
    """The model before alignment, asked for log-probabilities."""

    def __init__(self, model: OmniModel, cache: Path | None = None) -> None:
        learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.is_adapter = bool(learning) and all(".lora_" in name for name in learning) and _is_fresh(model)
        self._copy = None if self.is_adapter else copy.deepcopy(model).requires_grad_(False).eval()
        self._model = model
        self._cache = _LogpCache(cache / f"{base_fingerprint(model, ())}.jsonl") if cache else None

    @torch.no_grad()
    def logps(self, batch: Batch) -> Tensor:
        """(B,) of the whole answers."""
        keys = [row_key(row) for row in batch.rows] if self._cache and not _has_other_ranks() else []
        known = [self._cache.get(key) for key in keys] if self._cache else []
        if known and None not in known:
            return torch.tensor(known, device=batch.labels.device)
        found = self.token_logps(batch).sum(1)
        if keys and self._cache:
            self._cache.put(dict(zip(keys, found.tolist(), strict=True)))
        return found

    @torch.no_grad()
    def token_logps(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """(B, A) of the answers' tokens, zeros behind the shorter ones; see batch_logps."""
        with self._asked() as model:
            return batch_logps(model, batch, temperature)[0]

    @contextmanager
    def _asked(self) -> Iterator[OmniModel]:
        if self._copy is not None:
            yield self._copy.to(next(self._model.parameters()).device)  # the engine moves the model alone
            return
        was_training = self._model.training
        self._model.eval()
        with self._model.language.disable_adapter():
            yield self._model
        self._model.train(was_training)


def _is_fresh(model: OmniModel) -> bool:
    """Whether the adapter changes nothing yet, so that the model without it is the model before alignment."""
    return all(not parameter.detach().any() for name, parameter in model.named_parameters() if ".lora_B" in name)


class _LogpCache:
    """Log-probabilities by row, a JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, float] = {}
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._known.update(json.loads(line))

    def get(self, key: str) -> float | None:
        return self._known.get(key)

    def put(self, found: Mapping[str, float]) -> None:
        self._known.update(found)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


def row_key(row: Row) -> str:
    """Digest of all that a row's log-probability depends on beside the weights."""
    digest = hashlib.sha256(row.ids.tobytes() + row.labels.tobytes())
    for array in _arrays(row.media):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:24]


def _arrays(media: Media) -> Iterator[np.ndarray]:
    if isinstance(media, EncodedMedia):
        yield from (tensor.numpy() for tensor in (media.features, media.class_logits, *media.frames))
        return
    yield from media.pieces
    yield from (log_mel for sounds in media.sounds for log_mel in sounds.log_mels)


def _has_other_ranks() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


# DPO


@dataclass(frozen=True)
class PairMicro:
    """Better and worse answers, row by row."""

    chosen: Batch
    rejected: Batch
    count: int
    """Pairs that count; 0 for a stand-in."""

    @property
    def batches(self) -> tuple[Batch, ...]:
        return self.chosen, self.rejected


class AlignObjective(Objective):
    """What both have."""

    def __init__(self, trainee: Trainee, reference: Reference) -> None:
        super().__init__()
        self.model = trainee.model
        self.reference = reference

    def num_tokens(self, micro: Any) -> int:
        return sum(batch.num_tokens for batch in micro.batches)

    def blocks(self) -> Sequence[nn.Module]:
        return model_blocks(self.model)


class DpoObjective(AlignObjective):
    """Pairs to the preference loss, and the better answers' own loss beside it."""

    def __init__(self, config: DpoConfig, trainee: Trainee, reference: Reference) -> None:
        super().__init__(trainee, reference)
        self.config = config
        self.weights = {"chosen": config.sft_weight}

    def forward(self, micro: PairMicro) -> dict[str, Term]:
        policy = [batch_logps(self.model, batch)[0].sum(1) for batch in micro.batches]
        before = [self.reference.logps(batch) for batch in micro.batches]
        found = self._compared(micro, policy + before)
        told = {"margin": found.margins, "accuracy": (found.margins > 0).float(), "kl": found.kl}
        counted = bool(micro.count)
        parts = {name: (float(values.sum()), float(len(values))) for name, values in told.items() if counted}
        terms = {"dpo": Term(found.losses.sum() * counted, micro.count, parts)}
        if self.config.sft_weight:
            terms["chosen"] = Term(-policy[0].sum() * counted, micro.chosen.num_labels * counted)
        return terms

    def _compared(self, micro: PairMicro, logps: Sequence[Tensor]) -> Preferences:
        if self.config.loss == "dpo":
            return dpo(*logps, beta=self.config.beta, label_smoothing=self.config.label_smoothing)
        return ipo(*logps, *((batch.labels != NOT_LEARNED).sum(1) for batch in micro.batches), beta=self.config.beta)

    def counts(self, micro: PairMicro) -> dict[str, float]:
        found: dict[str, float] = {"dpo": micro.count}
        return found | ({"chosen": micro.chosen.num_labels} if self.config.sft_weight and micro.count else {})

    def to_micro(self, micro: PairMicro, device: Any) -> PairMicro:
        return PairMicro(micro.chosen.to(device), micro.rejected.to(device), micro.count)


class AlignFeed(StageFeed):
    """The mixture's examples, laid out."""

    def __init__(self, config: AlignConfig, trainee: Trainee, data: Draws) -> None:
        super().__init__(trainee, data)
        self.config = config


class PairFeed(AlignFeed):
    """Pairs for DPO."""

    def micro(self, examples: Sequence[Example], step: int = 0, number: int = 0) -> PairMicro:
        pairs = []
        for example in examples:
            try:
                pairs.append(self._pair(example))
            except InputError as error:
                self.skip(example, error)
        if pairs:
            chosen, rejected = zip(*pairs, strict=True)
            return PairMicro(collate(chosen), collate(rejected), len(pairs))
        said = (Message("user", (TextPart("nothing"),)), Message("assistant", (TextPart("nothing"),)))
        row = self.trainee.row(Example(said, name="the stand-in"))
        return PairMicro(collate([row]), collate([row]), 0)

    def _pair(self, example: Example) -> tuple[Row, Row]:
        last = example.messages[-1]
        if example.rejected is None or last.role != "assistant":
            raise OptionError("a preference needs a better answer, the last message, and `rejected`, the worse one")
        worse = (*example.messages[:-1], Message("assistant", (TextPart(example.rejected),)))
        rows = tuple(self.trainee.row(replace(example, messages=messages), max_tokens=self.config.max_tokens)
                     for messages in (example.messages, worse))
        if np.array_equal(rows[0].ids, rows[1].ids):
            raise OptionError("the better and the worse answer are the same")
        return _last_answer(rows[0], self.trainee), _last_answer(rows[1], self.trainee)


def _last_answer(row: Row, trainee: Trainee) -> Row:
    """The row with its last answer alone learned: earlier ones are the same in both. Raises OptionError for none."""
    spans = trainee.answers(row.ids)
    labels = np.full_like(row.labels, NOT_LEARNED)
    labels[spans[-1].start : spans[-1].stop] = row.ids[spans[-1].start : spans[-1].stop]
    if spans[-1].length < 2:
        raise OptionError("an answer of the pair is empty")
    return replace(row, labels=labels)


# GRPO


@dataclass(frozen=True)
class PromptMicro:
    """Prompts to answer, and what is known about them."""

    prompts: tuple[Row, ...]
    facts: tuple[Mapping[str, Any], ...]
    step: int
    number: int
    """Place in the step."""
    count: int
    """Prompts that count."""

    @property
    def batches(self) -> tuple[Batch, ...]:
        return (collate(self.prompts),)


class PromptFeed(AlignFeed):
    """Prompts for GRPO: conversations without their last answer."""

    def micro(self, examples: Sequence[Example], step: int = 0, number: int = 0) -> PromptMicro:
        prompts, facts = [], []
        for example in examples:
            try:
                prompts.append(self._prompt(example))
                total_reward("", example.facts, self.config.grpo.rewards)
                facts.append(example.facts)
            except InputError as error:
                del prompts[len(facts) :]
                self.skip(example, error)
        if prompts:
            return PromptMicro(tuple(prompts), tuple(facts), step, number, len(prompts))
        stand_in = self.trainee.prompt([Message("user", (TextPart("nothing"),))], "the stand-in")
        return PromptMicro((stand_in,), ({"answer": "nothing"},), step, number, 0)

    def _prompt(self, example: Example) -> Row:
        messages = example.messages[:-1] if example.messages[-1].role == "assistant" else example.messages
        row = replace(self.trainee.prompt(messages, example.name), tasks=(example.task,))
        if len(row) + self.config.grpo.max_tokens > self.config.max_tokens:
            raise OptionError(f"the prompt takes {len(row)} tokens, and with the answer more than max_tokens = "
                              f"{self.config.max_tokens}")
        return row


class GrpoObjective(AlignObjective):
    """Prompts to answers, answers to rewards, rewards to the loss; one update for each set of answers."""

    def __init__(self, config: GrpoConfig, trainee: Trainee, reference: Reference, seed: int) -> None:
        super().__init__(trainee, reference)
        self.config, self.seed = config, seed
        self.end_ids, self._text = trainee.end_ids, trainee.said

    def forward(self, micro: PromptMicro) -> dict[str, Term]:
        config = self.config
        answers = sample_answers(self.model, micro.prompts, self.end_ids, SamplingSettings(
            config.max_tokens, config.temperature, seed_of(self.seed, micro.step, micro.number, _rank())), config.group)
        groups = [answers[start : start + config.group] for start in range(0, len(answers), config.group)]
        rewards, told = self._rewards(micro, groups)
        device = next(self.model.parameters()).device
        batch = collate([answers_row(*both) for both in zip(micro.prompts, groups, strict=True)]).to(device)
        logp, mask = batch_logps(self.model, batch, config.temperature)
        found = grpo(logp, logp.detach(), self.reference.token_logps(batch, config.temperature), mask,
                     advantages(torch.tensor(rewards, device=device), config.group), clip=config.clip,
                     kl_weight=config.kl_weight, by_sequence=config.by_sequence)
        told |= {"reward": rewards, "kl": found.kl.tolist(), "tokens": [float(len(said)) for said in answers]}
        parts = {name: (sum(values), float(len(values))) for name, values in told.items() if micro.count}
        return {"grpo": Term(found.losses.sum() * bool(micro.count), micro.count * config.group, parts)}

    def _rewards(self, micro: PromptMicro, groups: Sequence[Sequence[Sequence[int]]]
                 ) -> tuple[list[float], dict[str, list[float]]]:
        """Of every answer, and by name."""
        config, rewards, told = self.config, [], {}
        for facts, group in zip(micro.facts, groups, strict=True):
            earned = [total_reward(self._text(said), facts, config.rewards) for said in group]
            for _, parts in earned:
                for name, value in parts.items():
                    told.setdefault(f"reward_{name}", []).append(value)
            totals = [total for total, _ in earned]
            if config.length_weight and micro.step >= config.length_after:
                short = length_rewards([len(said) for said in group], [total >= config.right_from for total in totals],
                                       config.length_tau)
                totals = [total + config.length_weight * value for total, value in zip(totals, short, strict=True)]
            rewards += totals
        return rewards, told

    def counts(self, micro: PromptMicro) -> dict[str, float]:
        return {"grpo": micro.count * self.config.group}


def _rank() -> int:
    return dist.get_rank() if _has_other_ranks() else 0


# Held-out scores


@torch.no_grad()
def greedy_answers(trainee: Trainee, examples: Sequence[Example], *, max_tokens: int = 32, batch_size: int = 16
                   ) -> list[str]:
    """The likeliest answer to each example's prompt."""
    answers = []
    for start in range(0, len(examples), batch_size):
        prompts = [trainee.prompt(example.messages[:-1]) for example in examples[start : start + batch_size]]
        said = sample_answers(trainee.model, prompts, trainee.end_ids, SamplingSettings(max_tokens, 0.0))
        answers += [trainee.said(ids) for ids in said]
    return answers


@torch.no_grad()
def divergence(trainee: Trainee, reference: Reference, examples: Sequence[Example], *, max_tokens: int = 32,
               seed: int = 0) -> float:
    """KL of the model from its reference in nats per token, by k3 over answers drawn from the model."""
    total = count = 0.0
    for start in range(0, len(examples), 16):
        prompts = [trainee.prompt(example.messages[:-1]) for example in examples[start : start + 16]]
        said = sample_answers(trainee.model, prompts, trainee.end_ids, SamplingSettings(max_tokens, 1.0, seed + start))
        batch = collate([answered_row(row, ids) for row, ids in zip(prompts, said, strict=True)])
        logp, mask = batch_logps(trainee.model.eval(), batch)
        away = (reference.token_logps(batch) - logp) * mask
        total += float(((away.exp() - away - 1) * mask).sum())
        count += float(mask.sum())
    return total / max(1.0, count)
