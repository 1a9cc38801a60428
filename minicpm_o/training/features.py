"""Outputs of the frozen encoders, cached on disk and read by row: training then costs the language model alone.

A cache is a folder of .npy files with an index; rows are read through memory maps, so any size fits.
Shapes: P grid cells, E encoder width, F2 encoder frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..model.omni import EncodedMedia
from ..rates import UNIT_ENCODER_FRAMES
from .samples import Sample


@dataclass(frozen=True)
class ImageCache:
    """features (rows, P, E) and class_logits (rows, 1000) float16; index says which picture and view a row is."""

    features: np.ndarray
    class_logits: np.ndarray
    index: list[dict[str, Any]]
    concept_logits: np.ndarray | None = None
    """(rows, vocabulary) by heads that were trained without the row's picture; None before they are."""

    @classmethod
    def open(cls, folder: Path) -> ImageCache:
        concepts = folder / "concepts.npy"
        return cls(
            np.load(folder / "features.npy", mmap_mode="r"),
            np.load(folder / "logits.npy", mmap_mode="r"),
            json.loads((folder / "index.json").read_text()),
            np.load(concepts, mmap_mode="r") if concepts.exists() else None,
        )

    def rows_by_picture(self) -> dict[tuple[str, str], list[int]]:
        """(set, image) -> rows of all its views."""
        rows: dict[tuple[str, str], list[int]] = {}
        for row, entry in enumerate(self.index):
            rows.setdefault((entry["set"], entry["image"]), []).append(row)
        return rows


@dataclass(frozen=True)
class AudioCache:
    """frames (all encoder frames, E) float16 end to end; index entries say where each sound starts, and what own ears
    wrote down of it (None: nobody asked them)."""

    frames: Sequence[np.ndarray]
    index: list[dict[str, Any]]

    @classmethod
    def open(cls, stems: Sequence[Path]) -> AudioCache:
        arrays, index = [], []
        for source, stem in enumerate(stems):
            arrays.append(np.load(f"{stem}_frames.npy", mmap_mode="r"))
            heard = json.loads(heard_path(stem).read_text()) if heard_path(stem).is_file() else {}
            entries = json.loads(Path(f"{stem}_frames.json").read_text())
            index += [{**entry, "source": source, "heard": heard.get(str(row))} for row, entry in enumerate(entries)]
        return cls(arrays, index)

    def read(self, row: int) -> np.ndarray:
        """Encoder frames (F2, E) of one sound."""
        entry = self.index[row]
        start = entry["frame"]
        return self.frames[entry["source"]][start : start + entry["units"] * UNIT_ENCODER_FRAMES]

    def tensor(self, row: int) -> torch.Tensor:
        """The same as (F2, E) float32, apart from the cache."""
        return torch.from_numpy(np.array(self.read(row))).float()


def heard_path(stem: Path) -> Path:
    """Where `heard` writes what own ears understood of a voice's sounds."""
    return Path(f"{stem}_heard.json")


@dataclass(frozen=True)
class FeatureStore:
    """Both caches behind one question: what did the encoders say to this sample's media?"""

    images: ImageCache
    audio: AudioCache

    def media(self, sample: Sample) -> EncodedMedia:
        rows = list(sample.image_rows)
        return EncodedMedia(
            features=torch.from_numpy(np.stack([self.images.features[r] for r in rows])).float()
            if rows
            else torch.empty(0),
            class_logits=torch.from_numpy(np.stack([self.images.class_logits[r] for r in rows])).float()
            if rows
            else torch.empty(0),
            image_spans=sample.image_spans,
            frames=[self.audio.tensor(r) for r in sample.audio_rows],
            audio_spans=sample.audio_spans,
            concept_logits=self._concepts(rows),
        )

    def _concepts(self, rows: list[int]) -> torch.Tensor | None:
        table = self.images.concept_logits
        return torch.from_numpy(np.stack([table[r] for r in rows])).float() if rows and table is not None else None
