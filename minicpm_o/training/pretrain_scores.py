"""What a pre-trained model does on samples that it never saw, beside what can be had without looking or reading at all.

    next token, masked words   loss          always the words' own frequencies (unigram)
    masked words               accuracy      always the most frequent word
    masked patches, frames     square error  always the mean patch or frame of the training samples
    retrieval, both ways       R@1, R@5      drawing lots: 1/n, 5/n
    matching                   accuracy      tossing a coin: one half of what is asked belongs together

Shapes: B pairs, N places, V vocabulary, C numbers of a patch, M numbers of a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .examples import Example
from .objectives.masked_audio import frame_errors, predict_frames
from .objectives.masked_image import patch_errors, predict_patches, target_patches
from .objectives.masked_language import masked_states
from .objectives.next_token import token_losses
from .objectives.pairs import Pairs, last_states, see_pairs, words_of
from .pretrain import PretrainObjective
from .pretrain_feed import PretrainFeed, PretrainMicro
from .rows import NOT_LEARNED, hidden_states

RANKS = (1, 5)
"""R@1 and R@5."""


@dataclass(frozen=True)
class Score:
    """One number of a task over held-out samples, beside its trivial baseline."""

    task: str
    metric: str
    totals: tuple[float, ...]
    """Sums by micro-batch (or hits of all at once), for intervals."""
    counts: tuple[float, ...]
    trivial: float
    is_rate: bool = False
    """Hits of so many, where more is better; else a loss or an error."""

    @property
    def value(self) -> float:
        return sum(self.totals) / max(sum(self.counts), 1e-12)


def evaluate(objective: PretrainObjective, feed: PretrainFeed, held_out: Sequence[Example], known: Sequence[Example],
             *, batch_size: int = 16) -> list[Score]:
    """The scores of every objective that is on. known: training samples, from which the trivial baselines learn."""
    def micros(examples: Sequence[Example]) -> list[PretrainMicro]:
        return [feed.micro(examples[start : start + batch_size], number=start)
                for start in range(0, len(examples), batch_size)]

    config, was_training = objective.config, objective.training
    asked, seen = micros(held_out), micros(known)
    objective.eval()
    with torch.inference_mode():
        scores = [*_next_token_scores(objective, asked, seen)] if config.next_token else []
        scores += _masked_language_scores(objective, asked, seen) if config.masked_language else []
        scores += _masked_image_scores(objective, asked, seen) if config.masked_image else []
        scores += _masked_audio_scores(objective, asked, seen) if config.masked_audio else []
        for kind in config.paired:
            scores += _pair_scores(objective, kind, [micro.pairs[kind] for micro in asked if micro.pairs[kind].count])
    objective.train(was_training)
    return scores


# Words


def _next_token_scores(objective: PretrainObjective, asked: Sequence[PretrainMicro], seen: Sequence[PretrainMicro]
                       ) -> Iterator[Score]:
    model, losses, targets = objective.model, [], []
    for micro in asked:
        batch = micro.next_token
        wanted = batch.labels != NOT_LEARNED
        losses.append(token_losses(model.head, hidden_states(model, batch)[wanted], batch.labels[wanted]))
        targets.append(batch.labels[wanted])
    known = torch.cat([micro.next_token.labels[micro.next_token.labels != NOT_LEARNED] for micro in seen])
    unigram = unigram_losses(known, torch.cat(targets), objective.model.config.language.vocab_size)
    yield _loss("next token", "loss", losses, float(unigram.mean()))


def _masked_language_scores(objective: PretrainObjective, asked: Sequence[PretrainMicro],
                            seen: Sequence[PretrainMicro]) -> Iterator[Score]:
    model, mask = objective.model, objective.heads.masked_language.vector
    losses, hits, targets = [], [], []
    for micro in asked:
        words = micro.masked_language
        wanted = words.targets[words.targets != NOT_LEARNED]
        states = masked_states(model, words, mask)
        losses.append(token_losses(model.head, states, wanted))
        hits.append(model.head(states).argmax(-1) == wanted)
        targets.append(wanted)
    known = torch.cat([micro.masked_language.targets[micro.masked_language.targets != NOT_LEARNED] for micro in seen])
    all_targets = torch.cat(targets)
    unigram = unigram_losses(known, all_targets, model.config.language.vocab_size)
    yield _loss("masked words", "loss", losses, float(unigram.mean()))
    usual = torch.mode(known).values
    yield _rate("masked words", "accuracy", torch.cat(hits), float((all_targets == usual).float().mean()))


def unigram_losses(known: Tensor, targets: Tensor, vocab_size: int) -> Tensor:
    """Losses (N,) of targets (N,) by the frequencies of the known words, each counted once more than it was seen."""
    counts = torch.bincount(known, minlength=vocab_size).double() + 1
    return -(counts / counts.sum()).log()[targets]


# Patches and frames


def _masked_image_scores(objective: PretrainObjective, asked: Sequence[PretrainMicro], seen: Sequence[PretrainMicro]
                         ) -> Iterator[Score]:
    heads, normalise = objective.heads.masked_image, objective.config.masked_image.normalise
    errors, wanted = [], []
    for patches in (micro.masked_image for micro in asked):
        target = target_patches(patches, normalise=normalise)
        predicted = predict_patches(objective.model, patches, heads["mask"].vector, heads["decoder"])
        errors.append(patch_errors(predicted, target)[patches.valid])
        wanted.append(target[patches.valid])
    known = torch.cat([target_patches(micro.masked_image, normalise=normalise)[micro.masked_image.valid]
                       for micro in seen])
    yield _loss("masked patches", "square error", errors, mean_error(known, torch.cat(wanted)))


def _masked_audio_scores(objective: PretrainObjective, asked: Sequence[PretrainMicro], seen: Sequence[PretrainMicro]
                         ) -> Iterator[Score]:
    heads = objective.heads.masked_audio

    def told(micro: PretrainMicro) -> tuple[Tensor, Tensor]:
        predicted, wanted, _ = predict_frames(objective.model, micro.masked_audio, heads["mask"].vector,
                                              heads["decoder"])
        return predicted, wanted

    pairs = [told(micro) for micro in asked]
    known = torch.cat([told(micro)[1] for micro in seen])
    trivial = mean_error(known, torch.cat([wanted for _, wanted in pairs]))
    yield _loss("masked frames", "square error", [frame_errors(*pair) for pair in pairs], trivial)


def mean_error(known: Tensor, wanted: Tensor) -> float:
    """Mean square error over wanted (N, C) of always saying the mean of known (K, C)."""
    return float((wanted.float() - known.float().mean(0)).square().mean())


# Pairs


def _pair_scores(objective: PretrainObjective, kind: str, pairs: Sequence[Pairs]) -> Iterator[Score]:
    contrastive, match = objective.config.contrastive, objective.config.matching
    if contrastive and kind in contrastive.media:
        similarity = _similarities(objective, kind, pairs)
        for way, rows in ((f"{kind} to text", similarity), (f"text to {kind}", similarity.T)):
            places = ranks(rows)
            for rank in RANKS:
                yield _rate(f"retrieval, {way}", f"R@{rank}", places < rank, min(1.0, rank / len(places)))
    if match and kind in match.media:
        hits = [_matched(objective, kind, item) for item in pairs]
        yield _rate(f"matching, {kind} and text", "accuracy", torch.cat(hits), 0.5)


def _similarities(objective: PretrainObjective, kind: str, pairs: Sequence[Pairs]) -> Tensor:
    """(G, G) of media by texts over all pairs, the first of those with equal texts alone: of two right answers either
    could be found."""
    embedded = [objective.embedded(kind, item, see_pairs(objective.model, item)) for item in pairs]
    keys = [key for item in pairs for key in item.keys[:, 1].tolist()]
    first = torch.tensor([index for index, key in enumerate(keys) if key not in keys[:index]])
    media, texts = (torch.cat([getattr(item, name) for item in embedded])[first] for name in ("media", "texts"))
    return media @ texts.T


def ranks(similarity: Tensor) -> Tensor:
    """similarity (G, G) -> how many are nearer to each row than the right one, on the diagonal (G,); equals count as
    nearer."""
    right = similarity.diagonal()[:, None]
    return (similarity >= right).sum(1) - 1


def _matched(objective: PretrainObjective, kind: str, pairs: Pairs) -> Tensor:
    """Whether each pair, and each medium with the next other text of its batch, is judged rightly (2B,)."""
    seen, words = see_pairs(objective.model, pairs), words_of(pairs.texts)
    keys = pairs.keys[:, 1].tolist()
    others = [next((place % len(keys) for place in range(line + 1, line + len(keys))
                    if keys[place % len(keys)] != key), None) for line, key in enumerate(keys)]
    asked = [(line, line, True) for line in range(len(keys))]
    asked += [(line, other, False) for line, other in enumerate(others) if other is not None]
    states = last_states(objective.model, [seen.fused[line] for line, _, _ in asked],
                         [words[text] for _, text, _ in asked])
    is_right = torch.tensor([right for _, _, right in asked], device=states.device)
    return (objective.heads.matching[kind](states) > 0) == is_right


def _loss(task: str, metric: str, losses: Sequence[Tensor], trivial: float) -> Score:
    asked = [item for item in losses if len(item)]  # stand-ins ask nothing, and would blur the intervals
    return Score(task, metric, tuple(float(item.sum()) for item in asked), tuple(float(len(item)) for item in asked),
                 trivial)


def _rate(task: str, metric: str, hits: Tensor, trivial: float) -> Score:
    return Score(task, metric, (float(hits.sum()),), (float(len(hits)),), trivial, is_rate=True)
