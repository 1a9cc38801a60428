"""Where media sit in a token sequence: runs of the placeholder token.

Pure functions on token ids; knows neither media nor text. Shapes: T fused tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Span(NamedTuple):
    """Half-open range of positions in the fused sequence."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def find_spans(ids: np.ndarray, placeholder_id: int) -> list[Span]:
    """Every run of placeholder_id in ids (T,), in order of appearance."""
    is_placeholder = np.concatenate([[False], np.asarray(ids) == placeholder_id, [False]])
    edges = np.flatnonzero(is_placeholder[1:] != is_placeholder[:-1])
    return [Span(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
