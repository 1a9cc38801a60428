"""What was trained to one float16 safetensors file: connectors by their names, LoRA with its scale folded in."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from ..model.omni import OmniModel

_LORA = re.compile(r"layers\.(\d+)\.\w+\.(\w+_proj)\.lora_([AB])\.default\.weight$")


def connector_tensors(model: OmniModel) -> dict[str, Tensor]:
    """Name -> tensor: resampler.*, projector.*, markers.weight, lora.layers.{i}.{module}.{a|b} with W' = W + b @ a."""
    tensors = dict(model.connectors.state_dict())
    scale = 1.0
    if hasattr(model.language, "peft_config"):
        config = model.language.peft_config["default"]
        scale = config.lora_alpha / config.r
    for name, tensor in model.language.state_dict().items():
        match = _LORA.search(name)
        if match:
            layer, module, side = match.groups()
            value = tensor * scale if side == "B" else tensor
            tensors[f"lora.layers.{layer}.{module}.{side.lower()}"] = value
    return tensors


def export_connectors(model: OmniModel, path: Path) -> None:
    """Write the trained tensors as float16."""
    from safetensors.torch import save_file

    save_file({name: t.detach().half().contiguous() for name, t in connector_tensors(model).items()}, str(path))
