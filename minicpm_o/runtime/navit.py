"""Pieces of sliced pictures to tokens of the language model's width, for the official checkpoints.

Knows no prompt and no slicing. Letters: n pieces, C channels times pixels of a patch, Q tokens of a piece, D language
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import CheckpointError
from ..model.config import OfficialConfig, SiglipConfig
from ..model.encoders.packing import check_pieces
from ..model.encoders.positions import bucket_ids, grid_places
from .device import DevicePlan, make_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ..checkpoints.bundle import Bundle


class VisionNetwork(Protocol):
    """Tower and resampler, whatever runs them: `VisionSession` here, `model.encoders.sight.TorchVision`."""

    def encode(self, pieces: Sequence[np.ndarray], grid_sizes: np.ndarray) -> np.ndarray:
        """pieces: n arrays (rows * columns, C) float32; grid_sizes (n, 2) of (rows, columns) -> (n, Q, D) float32.

        Raises ImageError if there is no piece or one does not fit its grid.
        """


class VisionSession:
    """The exported graph."""

    def __init__(self, session: InferenceSession, config: SiglipConfig) -> None:
        self.session = session
        self.config = config

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan) -> VisionSession:
        """Raises CheckpointError if the bundle is not of an official checkpoint with vision."""
        config = bundle.config
        if not isinstance(config, OfficialConfig) or config.vision is None:
            raise CheckpointError(f"the model in {bundle.folder} ({config.version}) has no SigLIP tower; export an "
                                  f"official checkpoint with its vision")
        return cls(make_session(bundle.path("vision.onnx"), plan, kind="vision"), config.vision)

    def encode(self, pieces: Sequence[np.ndarray], grid_sizes: np.ndarray) -> np.ndarray:
        """As `VisionNetwork.encode`; one by one, so that memory does not grow with n and nothing is padded."""
        check_pieces(pieces, grid_sizes)
        return np.concatenate([self._tokens(piece, rows, columns)
                               for piece, (rows, columns) in zip(pieces, grid_sizes.tolist(), strict=True)])

    def _tokens(self, piece: np.ndarray, rows: int, columns: int) -> np.ndarray:
        feeds = {"patches": piece[None], "position_ids": bucket_ids(rows, columns, self.config.grid)[None],
                 "places": grid_places(rows, columns)[None]}
        return np.asarray(self.session.run(["tokens"], feeds)[0])
