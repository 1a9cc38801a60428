"""Which vocoder lies in assets/token2wav: its file, its weights, and its shape read off them.

Source: hift_original.pt and hift.pt of the token2wav package; the constructor's arguments where a case of golden
tensors states them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..model.config import HiftConfig
from .torch_legacy import open_state_dict

ORIGINAL_FILE = "hift_original.pt"
FILE = "hift.pt"
FOLDER = "assets/token2wav"

_PREFIX = "generator."
"""Some releases save the vocoder as a part of its training, under this name."""

_ORIGINAL = "parametrizations.weight.original1"


def find_hift(folder: Path) -> Path:
    """The vocoder's file in assets/token2wav. A package with two vocoders calls the one meant here the original.

    Raises CheckpointError when there is none.
    """
    for name in (ORIGINAL_FILE, FILE):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"the checkpoint has no {FOLDER}/{FILE}; speech needs it: download the whole checkpoint, "
                          f"assets included, or load it without speech")


def open_hift(path: Path) -> tuple[HiftConfig, Mapping[str, np.ndarray]]:
    """The vocoder's shape, and its tensors by the names that the network has.

    Raises CheckpointError when the file is damaged, or of another vocoder.
    """
    weights: Mapping[str, np.ndarray] = open_state_dict(path)
    if any(name.startswith(_PREFIX) for name in weights):
        weights = {name.removeprefix(_PREFIX): weights[name] for name in weights}
    return hift_config_from_weights(weights, where=path.name), weights


def hift_config(fields: Mapping[str, Any], *, where: str = "config.json") -> HiftConfig:
    """The constructor's arguments, by the reference's names, as a config. Raises CheckpointError for a bad value."""
    base = HiftConfig()
    transform = fields.get("istft_params", {})
    pitch = fields.get("f0_predictor", {})
    try:
        return HiftConfig(
            mel_bins=int(fields.get("in_channels", base.mel_bins)),
            width=int(fields.get("base_channels", base.width)),
            harmonics=int(fields.get("nb_harmonics", base.harmonics)),
            rate_hz=int(fields.get("sampling_rate", base.rate_hz)),
            source_gain=float(fields.get("nsf_alpha", base.source_gain)),
            source_sigma=float(fields.get("nsf_sigma", base.source_sigma)),
            voiced_hz=float(fields.get("nsf_voiced_threshold", base.voiced_hz)),
            up_rates=_integers(fields.get("upsample_rates", base.up_rates)),
            up_kernels=_integers(fields.get("upsample_kernel_sizes", base.up_kernels)),
            fft_samples=int(transform.get("n_fft", base.fft_samples)),
            hop_samples=int(transform.get("hop_len", base.hop_samples)),
            block_kernels=_integers(fields.get("resblock_kernel_sizes", base.block_kernels)),
            block_dilations=_nested(fields.get("resblock_dilation_sizes", base.block_dilations)),
            source_kernels=_integers(fields.get("source_resblock_kernel_sizes", base.source_kernels)),
            source_dilations=_nested(fields.get("source_resblock_dilation_sizes", base.source_dilations)),
            leak=float(fields.get("lrelu_slope", base.leak)),
            limit=float(fields.get("audio_limit", base.limit)),
            pitch_width=int(pitch.get("cond_channels", base.pitch_width)),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{where} does not describe a vocoder: {error}") from error


def hift_config_from_weights(weights: Mapping[str, np.ndarray], *, where: str = "hift.pt") -> HiftConfig:
    """What the tensors' shapes tell, and the released values for what they do not (rates, dilations, gains).

    Raises CheckpointError for another vocoder; the causal one of newer packages has a pre-convolution of 5 samples.
    """
    try:
        width, mel_bins, kernel = weights[f"conv_pre.{_ORIGINAL}"].shape
        pitch_width = weights["f0_predictor.classifier.weight"].shape[1]
        harmonics = weights["m_source.l_linear.weight"].shape[1] - 1
        channels = weights["conv_post.bias"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{where} is not a HiFT vocoder ({error}); expected the hift.pt of a MiniCPM-o 4.5 "
                              f"checkpoint") from error
    if kernel != 7:
        raise CheckpointError(f"{where} is the causal vocoder of a newer token2wav package, which this release does "
                              f"not run; put the {ORIGINAL_FILE} of the same package beside it")
    return HiftConfig(mel_bins=mel_bins, width=width, harmonics=harmonics, fft_samples=channels - 2,
                      pitch_width=pitch_width)


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _nested(values: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(_integers(value) for value in values)
