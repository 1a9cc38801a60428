"""What was trained to one float16 safetensors file: connectors by their names, LoRA with its scale folded in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..model.omni import OmniModel

_LORA = re.compile(r"layers\.(\d+)\.\w+\.(\w+_proj)\.lora_([AB])\.default\.weight$")


def connector_tensors(model: OmniModel) -> dict[str, Tensor]:
    """Name -> tensor: resampler.*, projector.*, ears.*, markers.weight, lora.layers.{i}.{module}.{a|b}, W' = W + b @ a.
    """
    tensors, scale = dict(model.connectors.state_dict()), _lora_scale(model)
    for name, tensor in model.language.state_dict().items():
        exported = _exported_name(name)
        if exported:
            tensors[exported] = tensor * scale if exported.endswith(".b") else tensor
    return tensors


def _lora_scale(model: OmniModel) -> float:
    if not hasattr(model.language, "peft_config"):
        return 1.0
    config = model.language.peft_config["default"]
    return config.lora_alpha / config.r


def _exported_name(name: str) -> str | None:
    """peft's name of a LoRA tensor as the exported file calls it; None for any other tensor."""
    match = _LORA.search(name)
    return f"lora.layers.{match[1]}.{match[2]}.{match[3].lower()}" if match else None


def read_connectors(path: Path) -> dict[str, Tensor]:
    """Tensors of an exported file. Raises CheckpointError for a file that is not one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as connectors: {error}") from error


def write_connectors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """As float16."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().half().contiguous() for name, tensor in tensors.items()}, str(path))


def import_connectors(model: OmniModel, path: Path) -> list[str]:
    """Take over the tensors of an exported file whose shapes fit, LoRA included; returns the names that were left.

    The model must carry its LoRA already where the file's is wanted. Raises CheckpointError for a file that is not one.
    """
    given = {name: tensor.float() for name, tensor in read_connectors(path).items()}
    own, scale = connector_tensors(model), _lora_scale(model)
    fitting = {name: t for name, t in given.items() if name in own and own[name].shape == t.shape}
    with torch.no_grad():
        for name, tensor in model.connectors.state_dict().items():
            if name in fitting:
                tensor.copy_(fitting[name])
        for name, tensor in model.language.state_dict().items():
            exported = _exported_name(name)
            if exported in fitting:
                tensor.copy_(fitting[exported] / (scale if exported.endswith(".b") else 1.0))
    return sorted(set(given) - set(fitting))


def export_connectors(model: OmniModel, path: Path) -> None:
    """Write the trained tensors."""
    write_connectors(connector_tensors(model), path)
