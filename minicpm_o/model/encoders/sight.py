"""Tower and resampler as one: pieces of pictures to tokens, for the network and, in numpy, for the runtime.

Letters: B pieces, P patches of the longest, C channels times pixels of a patch, Q tokens of a piece, D language width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .packing import PackedPieces, check_pieces, pack_pieces
from .query_resampler import QueryResampler
from .siglip import SiglipTower


def piece_tokens(tower: SiglipTower, resampler: QueryResampler, packed: PackedPieces,
                 hide: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """A padded batch to tokens (B, Q, D) on the weights' device and in their precision; gradients flow.

    hide: patches (B, P, C) to those that are looked at, as masked modelling wants.
    """
    device = resampler.query.device
    patches, position_ids, places, valid = (torch.from_numpy(array).to(device) for array in (
        packed.patches, packed.position_ids, packed.places, packed.valid))
    patches = patches if hide is None else hide(patches)
    return resampler(tower(patches, position_ids, valid), places, valid)


class TorchVision:
    """numpy in and out around the two modules, as `runtime.navit.VisionNetwork` asks."""

    def __init__(self, tower: SiglipTower, resampler: QueryResampler) -> None:
        self.tower = tower
        self.resampler = resampler

    @torch.inference_mode()
    def encode(self, pieces: Sequence[np.ndarray], grid_sizes: np.ndarray) -> np.ndarray:
        """pieces: B arrays (rows * columns, C) float32; grid_sizes (B, 2) of (rows, columns) -> (B, Q, D) float32.

        At most `batch_pieces` at once, each group padded to its own longest. Raises ImageError if there is no piece or
        one does not fit its grid.
        """
        check_pieces(pieces, grid_sizes)
        size, side = self.tower.config.batch_pieces, self.tower.config.grid
        groups = [pack_pieces(pieces[start : start + size], grid_sizes[start : start + size], side=side)
                  for start in range(0, len(pieces), size)]
        tokens = [piece_tokens(self.tower, self.resampler, group).float().cpu() for group in groups]
        return torch.cat(tokens).numpy()
