"""The concept head: which of a few hundred words fit a picture, by a linear layer over frozen features.

Cheap, and most of what a small set can teach: words of captions, classes of boxes, labels. Each set teaches the columns
that it speaks about; where it is silent, absence is assumed with little weight. Shapes: V' concepts, E encoder width.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import ImageCache
from .labels import spoken_label
from .mixture import Sources
from .warm_start import STOP_WORDS

_SAME = {
    "men": "man", "women": "woman", "children": "child", "kids": "child", "kid": "child", "people": "person",
    "dogs": "dog", "boys": "boy", "girls": "girl", "bike": "bicycle", "bikes": "bicycle", "balls": "ball",
    "mountains": "mountain", "rocks": "rock", "trees": "tree", "horses": "horse", "players": "player",
    "runs": "running", "run": "running", "jumps": "jumping", "jump": "jumping", "jumped": "jumping",
    "plays": "playing", "play": "playing", "sits": "sitting", "stands": "standing", "walks": "walking",
    "rides": "riding", "holds": "holding", "swims": "swimming", "climbs": "climbing", "wears": "wearing",
    "motorbike": "motorcycle", "mobile": "phone", "grassy": "grass", "snowy": "snow", "rocky": "rock",
}  # fmt: skip

_IN_SENTENCES = ("captions", "scenes")
"""Domains whose words come from sentences."""

SILENCE = 0.15
"""How much a column counts on pictures of a set that never uses it: a labelled anchor is probably no playing child."""


@dataclass(frozen=True)
class ConceptTask:
    """One picture: rows of its views, the concepts that fit it and those that the set would have named."""

    rows: tuple[int, ...]
    present: frozenset[str]
    domain: str


def words_of(captions: Iterable[str]) -> set[str]:
    """Content words of captions, forms of one word made one."""
    words = {w.strip(".,'\"!?()").lower() for caption in captions for w in caption.split()}
    return {_SAME.get(word, word) for word in words if len(word) > 2} - STOP_WORDS


def concept_tasks(sources: Sources) -> list[ConceptTask]:
    tasks = [ConceptTask(tuple(v), frozenset(words_of(captions)), "captions") for v, captions in sources.captions]
    tasks += [ConceptTask(tuple(row.views), frozenset(words_of(row.captions)), "scenes") for row in sources.scenes]
    tasks += [ConceptTask(tuple(v), frozenset(names), "boxes") for v, names in sources.boxes]
    tasks += [ConceptTask(tuple(v), frozenset([spoken_label(label)]), name) for v, label, name in sources.labels
              if name != "imagenet1000"]
    return tasks


def choose_vocabulary(tasks: Sequence[ConceptTask], size: int) -> list[str]:
    """Every label and box class, then the commonest words of sentences, up to `size`, padded with empty names."""
    labels = sorted({name for task in tasks if task.domain not in _IN_SENTENCES for name in task.present})
    counts = Counter(name for task in tasks if task.domain in _IN_SENTENCES for name in task.present)
    common = [name for name, count in counts.most_common() if count >= 6 and name not in labels]
    names = (labels + common)[:size]
    return names + [""] * (size - len(names))


def target_tables(tasks: Sequence[ConceptTask], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(tasks, V') of what is present, and of how much each column counts: fully where the domain ever uses it."""
    column = {name: i for i, name in enumerate(names) if name}
    present, counts = torch.zeros(len(tasks), len(names)), torch.zeros(len(tasks), len(names))
    domains: dict[str, Tensor] = {}
    for task in tasks:
        used = domains.setdefault(task.domain, torch.zeros(len(names)))
        used[[column[name] for name in task.present if name in column]] = 1.0
    for index, task in enumerate(tasks):
        present[index, [column[name] for name in task.present if name in column]] = 1.0
        counts[index] = domains[task.domain].clamp(min=SILENCE)
    return present, torch.maximum(counts, present)


def pooled(images: ImageCache, rows: Sequence[int]) -> Tensor:
    """Mean and maximum of the features of rows: (rows, 2E)."""
    chunks = []
    for start in range(0, len(rows), 64):
        block = np.stack([images.features[row] for row in rows[start : start + 64]]).astype(np.float32)
        chunks.append(np.concatenate([block.mean(1), block.max(1)], axis=1))
    return torch.from_numpy(np.concatenate(chunks))


def train_concept_head(
    head: nn.Linear, images: ImageCache, tasks: Sequence[ConceptTask], names: Sequence[str], *, steps: int = 700,
    batch_size: int = 256, ridge: float = 0.02, report: Callable[[str], None] = print,
) -> None:
    """Binary cross-entropy over the columns that count; trains in place."""
    rows = [row for task in tasks for row in task.rows]
    owner = torch.tensor([index for index, task in enumerate(tasks) for _ in task.rows])
    x = pooled(images, rows)
    centre, spread = x.mean(0), x.std(0) + 1e-2
    x = (x - centre) / spread
    present, counts = target_tables(tasks, names)
    weights = torch.zeros_like(head.weight, requires_grad=True)
    bias = torch.full((len(names),), -4.0, requires_grad=True)
    optimizer = torch.optim.Adam([weights, bias], lr=1.5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    few = torch.tensor([4.0 if task.domain in ("captions", "boxes") else 1.0 for task in tasks])[owner]
    for step in range(steps):
        chosen = torch.multinomial(few, batch_size, replacement=True)
        noisy = x[chosen] + 0.3 * torch.randn(batch_size, x.shape[1])
        target, mask = present[owner[chosen]], counts[owner[chosen]]
        loss = F.binary_cross_entropy_with_logits(noisy @ weights.T + bias, target, mask, reduction="sum") / batch_size
        loss = loss + ridge * weights.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 0:
            report(f"concept head: step {step}, loss {float(loss.detach()):.3f}")
    with torch.no_grad():  # fold the standardisation into the layer
        head.weight.copy_(weights / spread)
        head.bias.copy_(bias - (weights / spread) @ centre)


def cross_fitted_logits(
    images: ImageCache, tasks: Sequence[ConceptTask], names: Sequence[str], folds: int = 3,
    report: Callable[[str], None] = print,
) -> np.ndarray:
    """Concept logits (rows, V') of every cached view, each by a head that was trained without its picture.

    The language model then learns how far the head is to be trusted on pictures that it has never seen.
    """
    table = np.zeros((len(images.index), len(names)), dtype=np.float16)
    fold_of = [_fold(entry["set"], entry["image"], folds) for entry in images.index]
    for fold in range(folds):
        head = nn.Linear(2 * images.features.shape[-1], len(names))
        train_concept_head(head, images, [t for t in tasks if fold_of[t.rows[0]] != fold], names, report=report)
        rows = [row for row, own in enumerate(fold_of) if own == fold]
        with torch.inference_mode():
            table[rows] = head(pooled(images, rows)).numpy().astype(np.float16)
    return table


def _fold(set_name: str, image: str, folds: int) -> int:
    return int(hashlib.sha256(f"fold/{set_name}/{image}".encode()).hexdigest(), 16) % folds


def recall_at(
    head: nn.Linear, images: ImageCache, tasks: Sequence[ConceptTask], names: Sequence[str], k: int
) -> dict[str, float]:
    """Share of the known concepts of each domain's pictures that are among the k likeliest."""
    known = set(names)
    found: dict[str, list[float]] = {}
    with torch.inference_mode():
        logits = head(pooled(images, [task.rows[0] for task in tasks]))
    for task, row in zip(tasks, logits, strict=True):
        wanted = task.present & known
        best = {names[i] for i in row.topk(k).indices.tolist()}
        if wanted:
            found.setdefault(task.domain, []).append(len(wanted & best) / min(k, len(wanted)))
    return {domain: sum(values) / len(values) for domain, values in found.items()}
