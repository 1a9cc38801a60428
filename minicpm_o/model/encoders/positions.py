"""Fixed 2-D position tables, in numpy so that the network and its device graph share them.

Coordinates are the centres of cells in [0, 1], so grids of different sides speak of the same places.
"""

from __future__ import annotations

import numpy as np


def grid_centres(side: int) -> np.ndarray:
    """Centres of a side x side grid in reading order: (side*side, 2) of (row, column) in [0, 1]."""
    centre = (np.arange(side, dtype=np.float32) + 0.5) / side
    rows, columns = np.meshgrid(centre, centre, indexing="ij")
    return np.stack([rows.ravel(), columns.ravel()], axis=1)


def sincos_2d(side: int, width: int) -> np.ndarray:
    """Sine and cosine of both coordinates at width/4 frequencies: (side*side, width) float32."""
    frequencies = np.pi * np.exp(np.linspace(0.0, np.log(32.0), width // 4, dtype=np.float32))
    angles = grid_centres(side)[:, :, None] * frequencies  # (side*side, 2, width/4)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    return table.reshape(side * side, width).astype(np.float32)


def grid_distances(query_side: int, key_side: int) -> np.ndarray:
    """Squared distance from each query's place to each key's, in query cells: (Q, P) float32."""
    delta = grid_centres(query_side)[:, None, :] - grid_centres(key_side)[None, :, :]
    return ((delta * query_side) ** 2).sum(-1).astype(np.float32)
