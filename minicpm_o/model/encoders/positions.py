"""Fixed 2-D positions, in numpy so that the networks and their device graphs share them.

Nano's coordinates are the centres of cells in [0, 1], so grids of different sides speak of the same places. Patches of
the official checkpoints stand on a grid of any size: the tower looks them up in a learned square table, spread evenly
over it (NaViT, arXiv:2307.06304), and the resampler takes sines and cosines of row and column.
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


def torch_arange(start: float, stop: float, step: float) -> np.ndarray:
    """`torch.arange(start, stop, step)` in float32, rounded as torch rounds it on x86.

    Torch fills 16 numbers at a time from two vectors of 8, whose first number is rounded before the others are counted
    on from it, and the rest one by one. A place that lies on a border between two rows of the learned table falls on
    the side where those roundings put it; the official weights were trained so.
    """
    count = max(0, int(np.ceil((stop - start) / step)))
    index = np.arange(count)
    values = (start + index * step).astype(np.float32)
    whole = count // 16 * 16
    first = (start + index[:whole] // 8 * 8 * step).astype(np.float32).astype(np.float64)
    values[:whole] = (first + index[:whole] % 8 * step).astype(np.float32)
    return values


def bucket_positions(count: int, side: int) -> np.ndarray:
    """Rows of a learned table of `side` rows at which `count` evenly spread patches stand: (count,) int64."""
    borders = torch_arange(1 / side, 1.0, 1 / side)
    places = torch_arange(0.0, 1 - 1e-6, float(np.float32(1) / np.float32(count)))
    return np.searchsorted(borders, places, side="right").astype(np.int64)


def bucket_ids(rows: int, columns: int, side: int) -> np.ndarray:
    """Entries of a side x side table for a grid of patches, in reading order: (rows * columns,) int64."""
    down, across = bucket_positions(rows, side), bucket_positions(columns, side)
    return (down[:, None] * side + across).ravel()


def grid_places(rows: int, columns: int) -> np.ndarray:
    """(row, column) of every patch of a grid, in reading order: (rows * columns, 2) int64."""
    return np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)


def place_frequencies(width: int) -> np.ndarray:
    """The width/4 frequencies of `place_sincos`: (width/4,) float32."""
    quarter = width // 4
    return (1.0 / np.float32(10_000) ** (np.arange(quarter, dtype=np.float32) / np.float32(quarter))).astype(np.float32)


def place_sincos(places: np.ndarray, width: int) -> np.ndarray:
    """Sine and cosine of the column, then of the row: places (..., 2) of (row, column) -> (..., width) float32."""
    angles = places[..., ::-1, None].astype(np.float32) * place_frequencies(width)  # (..., 2, width/4)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
    return table.reshape(*places.shape[:-1], width)
