"""Official weights into torch modules and back out, a tensor at a time: no second copy of a model is ever in memory.

A model is built without memory for its weights; each tensor is then read, cast, moved to its device and put in place.

Source of the trick: the modules' own `register_parameter`, through which every weight passes when a module is built.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from ..errors import CheckpointError, MissingExtraError
from ..model.config import OfficialConfig
from ..model.omni import OmniModel
from .official import INDEX, Checkpoint
from .official_config import official_values
from .official_layout import EMBEDDING, HEAD, OPTIONAL, to_official
from .safetensors_file import Pending, write_shards
from .storage import check_room, writing_to

MAX_SHARD_BYTES = 5_000_000_000
KEPT_WHOLE = ("SiglipTower", "WhisperTower", "QueryResampler", "PooledAudioProjector", "Talker", "ConditionalChatTTS",
              "Qwen2DecoderLayer", "Qwen3DecoderLayer")
"""Modules that are never split over devices: they reach into their own weights."""
FLOATS = (torch.bfloat16, torch.float16, torch.float32)
"""What weights can be while they run."""
DeviceMap: TypeAlias = str | int | torch.device | Mapping[str, Any] | None

_TORCH: Mapping[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}
_WORDS = {dtype: word for word, dtype in _TORCH.items()}


@contextmanager
def empty_weights() -> Iterator[None]:
    """Modules built inside have weights without memory (on torch's meta device) and ordinary buffers."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and parameter.device.type != "meta":
            module._parameters[name] = nn.Parameter(parameter.detach().to("meta"),
                                                    requires_grad=parameter.requires_grad)

    nn.Module.register_parameter = register_empty  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def load_official(checkpoint: Checkpoint, *, dtype: torch.dtype | None = None, device_map: DeviceMap = None,
                  attention: str = "sdpa", check: bool = True) -> OmniModel:
    """The whole network with the checkpoint's weights, in evaluation mode.

    dtype: of all weights; None is what config.json says. device_map: a device for everything (None: the CPU), "auto",
    or a table from parts of the module tree to devices. attention: transformers' name of it.
    Raises CheckpointError, before anything is read, when the weights do not fit on a device.
    """
    with empty_weights():
        model = OmniModel(checkpoint.config, attention=attention)
    dtype = dtype or stored_dtype(checkpoint)
    devices = place(model, device_map, dtype, check=check)
    fill(model, checkpoint, dtype=dtype, device_of=devices)
    return dispatch(model.eval(), devices)


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The type that config.json names for the weights; bfloat16 if it names none."""
    word = str(checkpoint.values.get("dtype") or checkpoint.values.get("torch_dtype") or "bfloat16")
    dtype = getattr(torch, word.removeprefix("torch."), None)
    if dtype not in FLOATS:
        raise CheckpointError(f"{checkpoint.folder / 'config.json'} says that the weights are {word!r}, expected "
                              f"bfloat16, float16 or float32")
    return dtype


# Placement


class Placement:
    """Which device each module of a tree lives on: the longest name in the table that begins its own counts."""

    def __init__(self, table: Mapping[str, torch.device], *, main: torch.device | None = None) -> None:
        self.table = dict(table)
        self.main = main
        """Where modules on the CPU are computed after all, when a model does not fit on its accelerator."""

    def __call__(self, name: str) -> torch.device:
        for prefix in sorted(self.table, key=len, reverse=True):
            if not prefix or name == prefix or name.startswith(f"{prefix}."):
                return self.table[prefix]
        raise CheckpointError(f"the device_map has no device for {name!r}; it has {sorted(self.table)}; add an entry "
                              f"for that part, or \"\" for all that has none")

    @property
    def is_split(self) -> bool:
        return len(set(self.table.values())) > 1


def place(model: nn.Module, device_map: DeviceMap, dtype: torch.dtype, *, check: bool = True) -> Placement:
    """Decide on devices and check that the weights fit. Raises CheckpointError with the plan when they do not.

    check: False trusts the caller on devices that are named; "auto" always looks.
    """
    if device_map == "auto":
        return _place_automatically(model, dtype)
    if isinstance(device_map, Mapping):
        placement = Placement({str(name): _device(device) for name, device in device_map.items()})
    else:
        placement = Placement({"": _device("cpu" if device_map is None else device_map)})
    if check:
        check_fits(model, placement, dtype)
    return placement


def _device(device: Any) -> torch.device:
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"there is no device {device!r}; use \"auto\", \"cpu\", \"cuda\", \"cuda:0\" or "
                              f"\"mps\"") from error
    usable = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(found.type, lambda: True)
    if not usable():
        raise CheckpointError(f"this machine has no {found.type} device that torch can use; use device_map=\"auto\" or "
                              f"\"cpu\"")
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return found


def _place_automatically(model: nn.Module, dtype: torch.dtype) -> Placement:
    """The first accelerator if all fits there; else split over what there is, if accelerate is installed."""
    accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    whole = Placement({"": _device(accelerator)})
    try:
        check_fits(model, whole, dtype)
    except CheckpointError as error:
        if accelerator != "cuda":
            raise
        try:
            from accelerate import infer_auto_device_map  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError:
            raise error from None
        table = infer_auto_device_map(model, dtype=dtype, no_split_module_classes=list(KEPT_WHOLE))
        if "disk" in table.values():
            raise
        return Placement({name: _device(device) for name, device in table.items()}, main=whole.table[""])
    return whole


def check_fits(model: nn.Module, placement: Callable[[str], torch.device], dtype: torch.dtype) -> None:
    """Raises CheckpointError that names the largest parts when a device has less free memory than its weights need."""
    needed: dict[torch.device, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        parts = needed.setdefault(placement(name), {})
        part = name.split(".")[0]
        parts[part] = parts.get(part, 0) + parameter.numel() * dtype.itemsize
    for device, parts in needed.items():
        free = free_bytes(device)
        if free is not None and sum(parts.values()) > free:
            raise CheckpointError(_does_not_fit(device, parts, free, dtype))


def free_bytes(device: torch.device) -> int | None:
    """What is free on a device; None where that cannot be asked."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return int(psutil.virtual_memory().available) if device.type == "cpu" else None


def _does_not_fit(device: torch.device, parts: Mapping[str, int], free: int, dtype: torch.dtype) -> str:
    largest = sorted(parts.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in largest)
    options = ["device_map=\"auto\"" if device.type != "cpu" else "a machine with more memory",
               "init_tts=False and the like for parts that you do not need", "or a bundle: minicpm-o export --bits 4"]
    if dtype == torch.float32:
        options.insert(0, "dtype=torch.bfloat16")
    return (f"the weights do not fit on {device}: {sum(parts.values()) / 1e9:.1f} GB in {str(dtype)[6:]} are needed "
            f"({listed}), {free / 1e9:.1f} GB are free; use {', '.join(options)}")


def dispatch(model: OmniModel, placement: Placement) -> OmniModel:
    """Let a model whose parts are on several devices move what passes between them. Needs accelerate."""
    if not placement.is_split:
        return model
    try:
        from accelerate import dispatch_model
    except ImportError as error:
        raise MissingExtraError("a model on several devices needs the package accelerate; run `pip install "
                                "accelerate`, or name one device") from error
    dispatch_model(model, {name: str(device) for name, device in placement.table.items()}, main_device=placement.main,
                   force_hooks=True)
    return model


# Reading


def fill(model: nn.Module, checkpoint: Checkpoint, *, dtype: torch.dtype,
         device_of: Callable[[str], torch.device]) -> None:
    """Put the checkpoint's tensors into a module tree of ours, and move its buffers. Raises CheckpointError.

    Buffers that no file holds keep their type: rotary frequencies would lose their low bits in bfloat16.
    """
    version = checkpoint.config.version
    own = model.state_dict(keep_vars=True)
    try:
        for name, weight in own.items():
            official = to_official(name, version)
            if official in checkpoint:
                tensor = read_tensor(checkpoint, official, dtype, device_of(name))
            elif official in OPTIONAL:
                tensor = torch.zeros(weight.shape, dtype=dtype, device=device_of(name))
            else:
                raise CheckpointError(f"the network has a tensor {name!r} that no checkpoint of {version} holds")
            _put(model, name, tensor, weight)
        for name, buffer in model.named_buffers():
            if name not in own:
                _put(model, name, buffer.to(device_of(name)), buffer)
    except torch.OutOfMemoryError as error:
        raise CheckpointError(f"the weights do not fit: a device ran out of memory while they were loaded ({error}); "
                              f"use device_map=\"auto\", leave parts out (init_tts=False), or make a bundle: "
                              f"minicpm-o export --bits 4") from error
    _share_head(model, checkpoint)


def read_tensor(checkpoint: Checkpoint, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One official tensor; floating ones in dtype."""
    stored = checkpoint.bits(name)
    if stored is None:
        tensor = torch.from_numpy(checkpoint.read(name))
    else:
        word, bits = stored
        kind = _TORCH.get(word)
        if kind is None:
            raise CheckpointError(f"{name} holds numbers of kind {word}, which torch modules do not take")
        tensor = torch.from_numpy(bits.view(np.int16)).view(kind) if kind is torch.bfloat16 else torch.from_numpy(bits)
    return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)


def _put(model: nn.Module, name: str, tensor: Tensor, old: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if tuple(old.shape) != tuple(tensor.shape):
        raise CheckpointError(f"the network's {name!r} has shape {tuple(old.shape)}, the checkpoint's "
                              f"{tuple(tensor.shape)}")
    if leaf in module._parameters:
        trains = old.requires_grad and tensor.is_floating_point()
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=trains)
    else:
        module._buffers[leaf] = tensor


def _share_head(model: nn.Module, checkpoint: Checkpoint) -> None:
    """One table where the files have one; where they have two, nobody may join them again."""
    language = getattr(model, "language", None)
    if language is None or HEAD not in checkpoint:
        return
    shared = checkpoint.tensors[HEAD].source == checkpoint.tensors[EMBEDDING].source
    language.config.tie_word_embeddings = shared
    if shared:
        language.lm_head.weight = language.model.embed_tokens.weight


# Writing


def save_official(state: Mapping[str, Tensor], config: OfficialConfig, folder: Path, *,
                  values: Mapping[str, Any] | None = None, max_shard_bytes: int = MAX_SHARD_BYTES) -> list[Path]:
    """Our module tree's tensors under their official names, bit by bit as they are, and config.json.

    values: the config.json that the weights came with, written as it was but for quantisation; None makes one.
    Returns the files of tensors. Raises DiskFullError when there is no room.
    """
    pending = [_pending(to_official(name, config.version), tensor) for name, tensor in _stored_once(state)]
    check_room(folder, sum(tensor.num_bytes for tensor in pending))
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = write_shards(folder, pending, max_shard_bytes)
        kept = {path.name for path in files} | ({INDEX} if len(files) > 1 else set())
        for stale in [*folder.glob("model*.safetensors"), folder / INDEX]:
            if stale.name not in kept:
                stale.unlink(missing_ok=True)
        text = {**(official_values(config) if values is None else values), "torch_dtype": _main_dtype(pending)}
        text.pop("quantization_config", None)  # what is saved are ordinary weights
        (folder / "config.json").write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    return files


def _stored_once(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """All tensors but a head that is the table of embeddings under another name."""
    table = state.get("language.model.embed_tokens.weight")
    for name, tensor in state.items():
        is_shared = name == "language.lm_head.weight" and table is not None and (
            tensor.data_ptr() == table.data_ptr() and tensor.device.type != "meta")
        if not is_shared:
            yield name, tensor


def _pending(name: str, tensor: Tensor) -> Pending:
    word = _WORDS.get(tensor.dtype)
    if word is None or tensor.device.type == "meta":
        raise CheckpointError(f"{name} cannot be saved: it is {tensor.dtype} on {tensor.device}; load the whole model "
                              f"into memory first")

    def blocks() -> tuple[np.ndarray]:
        plain = tensor.detach().to("cpu").contiguous()
        return ((plain.view(torch.int16) if plain.dtype is torch.bfloat16 else plain).numpy(),)

    return Pending(name, word, tuple(tensor.shape), blocks)


def _main_dtype(pending: list[Pending]) -> str:
    """The type of most numbers, by torch's name."""
    sizes: dict[str, int] = {}
    for tensor in pending:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + math.prod(tensor.shape)
    return str(_TORCH[max(sizes, key=lambda word: sizes[word], default="BF16")]).removeprefix("torch.")
