"""Scenes to tensors: every scene's questions are branches of one sequence, which see the scene and themselves alone.

Words are whole tokens; those that can be answers come first: the closed set of answers is the head's first rows.
Shapes: B scenes, Q questions of a scene, T words of all its questions, S picture side, M mel bins, F mel frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .scenes import ACTIONS, ANSWERS, Scene, Split, make_scene

KINDS_ASKED = tuple(ANSWERS)
"""The kind of each of a scene's Q questions."""
ANSWER_WORDS = tuple(dict.fromkeys(word for words in ANSWERS.values() for word in words))
_QUESTION_WORDS = """who whom what does do to the is there a thing how many things are shape one that beeps another ?
""".split()
WORDS = tuple(dict.fromkeys([*ANSWER_WORDS, *ACTIONS.values(), *_QUESTION_WORDS]))
_IDS = {word: index for index, word in enumerate(WORDS)}


@dataclass(frozen=True)
class Batch:
    """Scenes with their questions, right-padded."""

    pictures: Tensor
    """(B, 3, S, S), 0 to 1."""
    log_mels: Tensor
    """(B, M, F)."""
    ids: Tensor
    """(B, T)."""
    segments: Tensor
    """(B, T): which question, from 1; -1 padding."""
    offsets: Tensor
    """(B, T): place of a word in its question."""
    ends: Tensor
    """(B, Q): where each question ends, which is where it is answered."""
    answers: Tensor
    """(B, Q): rows of ANSWER_WORDS."""


def make_batch(split: Split, seed: int, first: int, size: int) -> Batch:
    """Scenes first ... first + size - 1 of a split. What comes out depends on nothing else."""
    return collate([make_scene(split, seed, first + i) for i in range(size)])


def collate(scenes: Sequence[Scene]) -> Batch:
    """Scenes to tensors."""
    rows = [[[_IDS[word] for word in question.text.split()] for question in scene.questions] for scene in scenes]
    longest = max(sum(len(ids) for ids in row) for row in rows)
    ids, offsets = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(2))
    segments = torch.full((len(rows), longest), -1)
    ends = torch.zeros(len(rows), len(KINDS_ASKED), dtype=torch.long)
    for b, row in enumerate(rows):
        start = 0
        for q, words in enumerate(row):
            stop = start + len(words)
            ids[b, start:stop], offsets[b, start:stop] = torch.tensor(words), torch.arange(len(words))
            segments[b, start:stop], ends[b, q] = q + 1, stop - 1
            start = stop
    log_mels = torch.from_numpy(np.stack([scene.log_mel for scene in scenes]))
    answers = torch.tensor([[_IDS[question.answer] for question in scene.questions] for scene in scenes])
    return Batch(pictures_of(scenes), log_mels, ids, segments, offsets, ends, answers)


def pictures_of(scenes: Sequence[Scene]) -> Tensor:
    """(B, 3, S, S), 0 to 1."""
    return torch.from_numpy(np.stack([scene.picture for scene in scenes])).permute(0, 3, 1, 2) / 255
