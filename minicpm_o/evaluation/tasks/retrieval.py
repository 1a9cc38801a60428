"""Which text belongs to which picture or sound: retrieval both ways, and matching against a hard negative.

`retrieval` has the model say how likely every text is as the answer to every medium; what a text scores everywhere,
because it is plain or short, is taken off (its mean over all media), and recall is counted as in `official.retrieval`.
`matching` is a choice between a medium's own text and the most similar text of another; where that fits too, nobody
can tell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from minicpm_o.errors import InputError
from minicpm_o.evaluation.baselines import Baseline, Chance
from minicpm_o.evaluation.intervals import wilson
from minicpm_o.evaluation.metrics import rouge_l
from minicpm_o.evaluation.official.retrieval import retrieval_scores
from minicpm_o.evaluation.scoring import Question, RateScorer, Scores
from minicpm_o.evaluation.tasks.base import Item, Task

MOST_MEDIA = 60
"""Every one is scored with the text of every other."""
LETTERS = ("A", "B")


def pair_tasks(prefix: str, items: Sequence[Item], *, transcript: bool = True, most: int = MOST_MEDIA
               ) -> Iterable[Task]:
    """Tasks PREFIX/retrieval and PREFIX/matching over items whose first expected text is their own.

    At most `most` media, spread over the set; fewer than two give no task."""
    chosen = _spread(items, most)
    if len(chosen) < 2:
        return
    note = f"{len(chosen)} of {len(items)} media, one text each"
    yield Task(f"{prefix}/retrieval", tuple(_with_all(chosen)), RetrievalScorer(), verb="match", transcript=transcript,
               notes=(note,) if len(chosen) < len(items) else ())
    scorer = RateScorer(lambda item, answer: answer in item.expected, "the own text has the smaller mean loss of a "
                        "token than the most similar text of another medium", guess=lambda items: 0.5)
    yield Task(f"{prefix}/matching", tuple(_with_rival(chosen)), scorer, verb="rank", transcript=transcript)


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """The same choice every time, in the order of the set; of media with the same text the first."""
    own: dict[str, Item] = {}
    for item in items:
        own.setdefault(item.expected[0], item)
    kept = sorted(own.values(), key=lambda item: hashlib.sha256(item.id.encode()).digest())[:most]
    return [item for item in own.values() if item in kept]


def _with_all(items: Sequence[Item]) -> Iterator[Item]:
    """Every medium with all texts; its own is expected."""
    texts = {item.id: item.expected[0] for item in items}
    for item in items:
        yield replace(item, expected=(item.id,), choices=texts, group=None, tag="")


def _with_rival(items: Sequence[Item]) -> Iterator[Item]:
    """Every medium with two texts in an order that its name decides."""
    for item in items:
        own = item.expected[0]
        rival = max((other.expected[0] for other in items if other is not item),
                    key=lambda text: rouge_l(text.lower().split(), [own.lower().split()]))
        is_second = hashlib.sha256(item.id.encode()).digest()[0] % 2
        texts = (rival, own) if is_second else (own, rival)
        yield replace(item, expected=(LETTERS[is_second],), choices=dict(zip(LETTERS, texts, strict=True)), group=None,
                      tag="")


@dataclass(frozen=True)
class RetrievalScorer:
    """Recall at 1, 5 and 10 both ways from the losses that answers hold."""

    rule: str = ("BLIP's recall; a text's score is its mean loss of a token with this medium, less its mean over all "
                 "media")

    def judge(self, item: Question, answer: str) -> dict[str, object]:
        """Place of the own text among all, by the loss alone, and whether it is the first."""
        losses = _losses(item, answer)
        own = losses[list(item.choices).index(item.expected[0])]
        place = sum(loss < own for loss in losses)
        return {"correct": place == 0, "place": place}

    def score(self, items: Sequence[Question], answers: Sequence[str]) -> Scores:
        """Recall over the media that there are; texts of others do not enter."""
        names = [item.expected[0] for item in items]
        columns = [list(items[0].choices).index(name) for name in names]
        likely = -np.array([_losses(item, answer) for item, answer in zip(items, answers, strict=True)])[:, columns]
        found = retrieval_scores(likely - likely.mean(axis=0), {place: [place] for place in range(len(items))})
        first = round(found.recall.txt_r1 * len(items) / 100)
        low, high = wilson(first, len(items)) or (0.0, 1.0)
        metrics = {"text_r1": found.recall.txt_r1 / 100, "text_r5": found.recall.txt_r5 / 100,
                   "text_r10": found.recall.txt_r10 / 100, "medium_r1": found.recall.img_r1 / 100,
                   "medium_r5": found.recall.img_r5 / 100, "medium_r10": found.recall.img_r10 / 100,
                   "r_mean": found.recall.r_mean / 100}
        return Scores(metrics, (low, high), {"media": len(items)})

    def chance(self, items: Sequence[Question]) -> Chance:
        """A random order finds the own text first once in as many as there are."""
        return Chance(random=Baseline(1 / len(items), "random order"))


def _losses(item: Question, answer: str) -> list[float]:
    losses: list[float] = json.loads(answer)
    if len(losses) != len(item.choices):
        raise InputError(f"{len(losses)} losses for {len(item.choices)} texts; remove the answers of this task and run "
                         f"it again")
    return losses
