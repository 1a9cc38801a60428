"""Pieces of pictures, each a list of patches of its own length, to one padded batch for the SigLIP tower.

In numpy. Letters: B pieces, P patches of the longest, C channels times pixels of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import ImageError
from .positions import bucket_ids, grid_places


@dataclass(frozen=True)
class PackedPieces:
    """A padded batch: what is padding is zero everywhere and not valid."""

    patches: np.ndarray
    """(B, P, C) float32"""
    position_ids: np.ndarray
    """(B, P) int64, entries of the tower's table"""
    places: np.ndarray
    """(B, P, 2) int64, row and column"""
    valid: np.ndarray
    """(B, P) bool"""


def pack_pieces(pieces: Sequence[np.ndarray], grid_sizes: np.ndarray, *, side: int) -> PackedPieces:
    """pieces: B arrays (rows * columns, C) float32; grid_sizes (B, 2) of (rows, columns); side of the tower's table.

    Raises ImageError if there is no piece or one does not fit its grid.
    """
    check_pieces(pieces, grid_sizes)
    longest = max(len(piece) for piece in pieces)
    patches = np.zeros((len(pieces), longest, pieces[0].shape[1]), dtype=np.float32)
    position_ids = np.zeros((len(pieces), longest), dtype=np.int64)
    places = np.zeros((len(pieces), longest, 2), dtype=np.int64)
    valid = np.zeros((len(pieces), longest), dtype=bool)
    for row, (piece, (rows, columns)) in enumerate(zip(pieces, grid_sizes.tolist(), strict=True)):
        count = len(piece)
        patches[row, :count] = piece
        position_ids[row, :count] = bucket_ids(rows, columns, side)
        places[row, :count] = grid_places(rows, columns)
        valid[row, :count] = True
    return PackedPieces(patches, position_ids, places, valid)


def check_pieces(pieces: Sequence[np.ndarray], grid_sizes: np.ndarray) -> None:
    """Raises ImageError if there is no piece or one does not fit its grid: patches would stand in wrong places."""
    if grid_sizes.shape != (len(pieces), 2) or not len(pieces):
        raise ImageError(f"{len(pieces)} pieces of pictures come with grid sizes of shape {grid_sizes.shape}; expected "
                         f"at least one piece, and a row of (rows, columns) for each")
    for index, (piece, (rows, columns)) in enumerate(zip(pieces, grid_sizes.tolist(), strict=True)):
        if piece.ndim != 2 or len(piece) != rows * columns or not len(piece):
            raise ImageError(f"piece {index} has shape {piece.shape}, but a grid of {rows} rows and {columns} columns "
                             f"of patches takes ({rows * columns}, channels * height * width of a patch)")
        if piece.shape[1] != pieces[0].shape[1]:
            raise ImageError(f"patches of piece {index} hold {piece.shape[1]} numbers, those of piece 0 "
                             f"{pieces[0].shape[1]}; cut all pictures with the same patch size")
