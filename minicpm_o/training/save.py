"""What was trained, to disk and back: a whole checkpoint with LoRA merged in, or the changes alone over their base.

    merged     every submodule under its official name (eyes, ears, connectors, language model, talker, voice files,
               tokenizer): a checkpoint like the one that was begun with, for any program that reads those
    unmerged   adapter/ in peft's format, parts.safetensors with the parts that learned whole, base.json that says over
               which model they go; small, and refused over any other

Nano has one form, its connectors, which hold its LoRA.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.official import copy_companions
from ..checkpoints.official_config import read_values
from ..checkpoints.storage import write_atomic, writing_to
from ..checkpoints.torch_loader import save_official
from ..errors import CheckpointError
from ..model.omni import OmniModel
from .export import export_connectors
from .trainee import NanoTrainee, OfficialTrainee, Trainee

ADAPTER, PARTS_FILE, BASE_FILE = "adapter", "parts.safetensors", "base.json"
_SAMPLED = 64
"""Numbers of a tensor that its fingerprint looks at."""


def export_merged(trainee: Trainee, folder: Path) -> Path:
    """Write a checkpoint that needs nothing else; returns the folder, or nano's connectors file."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(trainee, NanoTrainee):
        export_connectors(trainee.model, folder / "connectors.safetensors")
        return folder / "connectors.safetensors"
    assert isinstance(trainee, OfficialTrainee)
    save_official(MergedState(trainee.model), trainee.config, folder, values=read_values(trainee.folder))
    copy_companions(trainee.folder, folder)
    return folder


class MergedState(Mapping[str, Tensor]):
    """A model's tensors under the names that they had before its LoRA, which is added at each look."""

    def __init__(self, model: OmniModel) -> None:
        self._tensors = dict(model.state_dict())
        self._held = {plain: name for name in self._tensors if (plain := _plain(name)) is not None}
        self._layers = {_plain(f"{name}.base_layer.weight"): module for name, module in model.named_modules()
                        if hasattr(module, "get_delta_weight")}

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._tensors[self._held[name]]
        layer = self._layers.get(name)
        if layer is None:
            return tensor
        with torch.no_grad():
            change = sum(layer.get_delta_weight(adapter) for adapter in layer.active_adapters)
            return (tensor.float() + change.float()).to(tensor.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)


def _plain(name: str) -> str | None:
    """A tensor's name without peft's wrapping; None for the adapter's own tensors."""
    if ".lora_" in name:
        return None
    return name.replace("language.base_model.model.", "language.", 1).replace(".base_layer.", ".")


def export_unmerged(trainee: Trainee, folder: Path) -> Path:
    """Write the adapter and the parts that learned whole. Raises CheckpointError when nothing learned."""
    from safetensors.torch import save_file

    model = trainee.model
    learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not learned:
        raise CheckpointError("no part of the model learned; there is nothing to export")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: tensor.detach().contiguous() for name, tensor in learned.items() if ".lora_" not in name}
    with writing_to(folder):
        if hasattr(model.language, "peft_config"):
            model.language.save_pretrained(str(folder / ADAPTER))
        if parts:
            save_file(parts, str(folder / PARTS_FILE))
        base = {"model": trainee.name, "version": trainee.model.config.version, "parts": sorted(parts),
                "fingerprint": base_fingerprint(model, parts)}
        write_atomic(folder / BASE_FILE, [json.dumps(base, indent=2).encode()])
    return folder


def load_unmerged(trainee: Trainee, folder: Path) -> None:
    """Lay an exported change over the model that it was made from, in place.

    Raises CheckpointError when the folder is none, or was made over another model.
    """
    from peft import PeftModel
    from safetensors.torch import load_file

    try:
        base = json.loads((folder / BASE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no exported change: {error}") from error
    found = base_fingerprint(trainee.model, base["parts"])
    if found != base["fingerprint"]:
        raise CheckpointError(f"{folder} was made over {base['model']!r} ({base['fingerprint']}), and these are other "
                              f"weights ({found}); open that model, or merge before exporting")
    if base["parts"]:
        own, given = dict(trainee.model.named_parameters()), load_file(str(folder / PARTS_FILE))
        with torch.no_grad():
            for name, tensor in given.items():
                own[name].copy_(tensor)
    if (folder / ADAPTER).is_dir():
        trainee.model.language = PeftModel.from_pretrained(trainee.model.language, str(folder / ADAPTER),
                                                           is_trainable=True)


def base_fingerprint(model: nn.Module, learned: Any) -> str:
    """Digest of what rested: names, shapes and some numbers of every tensor that is not among `learned`."""
    digest, learned = hashlib.sha256(), set(learned)
    tensors = {plain: tensor for name, tensor in model.state_dict().items() if (plain := _plain(name)) is not None}
    for name, tensor in sorted(tensors.items()):
        if name not in learned:
            flat = tensor.detach().flatten()
            some = flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED].float().cpu()
            digest.update(f"{name} {tuple(tensor.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


