"""The table of word embeddings as a bundle keeps it: one byte per number and one scale per row.

Letters: V vocabulary, D width. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from .safetensors_file import Pending, write_file

FILE_NAME = "embeddings.safetensors"


def quantise_rows(embeddings: np.ndarray) -> dict[str, np.ndarray]:
    """(V, D) float32 -> `embed_tokens` int8 (V, D) and `scales` float16 (V, 1): row = int8 * scale."""
    smallest = np.finfo(np.float16).smallest_subnormal  # a row of zeros still needs a scale that is not zero
    scales = np.maximum(np.abs(embeddings).max(axis=1, keepdims=True) / 127, smallest).astype(np.float16)
    rounded = np.rint(embeddings / scales.astype(np.float32))  # by the stored scale, so its own rounding is undone
    return {"embed_tokens": np.clip(rounded, -127, 127).astype(np.int8), "scales": scales}


def write_embeddings(weights: Mapping[str, np.ndarray], name: str, shape: Sequence[int], path: Path) -> None:
    """Write the named table (V, D) as `quantise_rows` makes it, a few rows at a time.

    Raises CheckpointError if the tensor is absent or misshapen.
    """
    from .graphs.builder import row_pieces, take_matrix

    table, scales = take_matrix(weights, name, shape), []

    def rounded() -> Iterator[np.ndarray]:
        for _, rows in row_pieces(table):
            found = quantise_rows(rows)
            scales.append(found["scales"])
            yield found["embed_tokens"]

    num_rows, width = shape
    write_file(path, [Pending("embed_tokens", "I8", (num_rows, width), rounded),
                      Pending("scales", "F16", (num_rows, 1), lambda: scales)])  # all are there once the rows are
