"""The voice files beside a checkpoint, opened: each network's shape, read off its tensors, and the tensors by name.

    assets/token2wav/flow.pt, hift.pt    4.5: speech tokens to mel, mel to sound
    assets/Vocos.pt                      2.6: mel to sound

Knows no network and needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import CheckpointError
from ..model.config import FlowConfig, HiftConfig, OfficialConfig, VocosConfig
from .hift_config import FOLDER, find_hift, open_hift
from .token2wav_config import flow_config_from_shapes
from .torch_legacy import StateDict, open_state_dict
from .vocos_file import USED_PREFIXES, VOCOS_NAME, read_vocos
from .voice_layout import flow_tensors, hift_tensors, vocos_tensors

FLOW_FILE = "flow.pt"
FLOW_SETTINGS = "flow.yaml"
Weights = Mapping[str, np.ndarray]


def with_voice_shapes(config: OfficialConfig, folder: Path) -> OfficialConfig:
    """The config with the shapes that the voice files have, where it has a voice.

    Raises CheckpointError when a file is missing, damaged or of another network.
    """
    if config.flow:
        config = replace(config, flow=open_flow(folder)[0])
    if config.hift:
        config = replace(config, hift=open_vocoder(folder)[0])
    if config.vocos:
        config = replace(config, vocos=open_vocos(folder)[0])
    return config


def open_flow(folder: Path) -> tuple[FlowConfig, Weights]:
    """token2wav's flow of a checkpoint's folder."""
    path = folder / FOLDER / FLOW_FILE
    if not path.is_file():
        raise CheckpointError(f"the checkpoint has no {FOLDER}/{FLOW_FILE}; speech needs it: download the whole "
                              f"checkpoint, assets included, or leave speech out")
    weights = open_state_dict(path)
    settings = path.with_name(FLOW_SETTINGS)
    text = settings.read_text(encoding="utf-8", errors="replace") if settings.is_file() else ""
    config = flow_config_from_shapes(weights.shapes(), text)
    _check(path, weights.shapes(), flow_tensors(config))
    return config, weights


def open_vocoder(folder: Path) -> tuple[HiftConfig, Weights]:
    """token2wav's vocoder of a checkpoint's folder."""
    path = find_hift(folder / FOLDER)
    config, weights = open_hift(path)
    _check(path, _shapes(weights), hift_tensors(config))
    return config, weights


def open_vocos(folder: Path) -> tuple[VocosConfig, Weights]:
    """The vocoder of 2.6 of a checkpoint's folder."""
    weights = read_vocos(folder)
    config = vocos_config(_shapes(weights))
    used = {name: shape for name, shape in vocos_tensors(config).items() if name.startswith(USED_PREFIXES)}
    _check(folder / VOCOS_NAME, _shapes(weights), used)
    return config, weights


def vocos_config(shapes: Mapping[str, tuple[int, ...]]) -> VocosConfig:
    """The shape of a Vocos by its tensors; a hop is a quarter of the transform, as in all that are published.

    Raises CheckpointError for the tensors of something else.
    """
    try:
        width, mel_bins, _ = shapes["backbone.embed.weight"]
        ffn, _ = shapes["backbone.convnext.0.pwconv1.weight"]
        bands, _ = shapes["head.out.weight"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{VOCOS_NAME} is not a Vocos vocoder ({error}); download it again") from error
    layers = len({name.split(".")[2] for name in shapes if name.startswith("backbone.convnext.")})
    return VocosConfig(mel_bins=mel_bins, width=width, ffn=ffn, layers=layers, fft_samples=bands - 2,
                       hop_samples=(bands - 2) // 4)


def _check(path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises CheckpointError that names the first tensor that a network of this shape needs and the file has not."""
    for name, shape in expected.items():
        if found.get(name) != shape:
            came = f"has {name!r} of shape {found[name]}" if name in found else f"lacks the tensor {name!r}"
            raise CheckpointError(f"{path} {came}, expected {shape}; it is damaged or of another network, download it "
                                  f"again")


def _shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    if isinstance(weights, StateDict):
        return weights.shapes()
    return {name: tensor.shape for name, tensor in weights.items()}
