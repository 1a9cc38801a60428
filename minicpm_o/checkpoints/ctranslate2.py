"""A CTranslate2 Whisper `model.bin` to named tensors.

Knows no tokens and no graphs. Tensor names become those of Hugging Face's Whisper checkpoints; the projections that
CTranslate2 stacks into one matrix (q+k+v, or k+v over the encoder's output) are split again. Source: the binary
format of CTranslate2's model reader (little-endian: version, specification, revision, variables, aliases).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..model.config import HearingConfig

_DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
}
_LOWEST_VERSION, _HIGHEST_VERSION = 4, 6

_TOP_NAMES = {
    "decoder/embeddings/weight": "model.decoder.embed_tokens.weight",
    "decoder/position_encodings/encodings": "model.decoder.embed_positions.weight",
    "encoder/position_encodings/encodings": "model.encoder.embed_positions.weight",
    "encoder/conv1/weight": "model.encoder.conv1.weight",
    "encoder/conv1/bias": "model.encoder.conv1.bias",
    "encoder/conv2/weight": "model.encoder.conv2.weight",
    "encoder/conv2/bias": "model.encoder.conv2.bias",
}
_LAYER_PATTERN = re.compile(r"(encoder|decoder)/layer_(\d+)/(\w+)/(\w+)/(\w+)")
_FINAL_NORM_PATTERN = re.compile(r"(encoder|decoder)/layer_norm/(\w+)")
_NORM_LEAVES = {"gamma": "weight", "beta": "bias"}
_PROJECTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("self_attention", "linear_0"): ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attention", "linear_1"): ("self_attn.out_proj",),
    ("attention", "linear_0"): ("encoder_attn.q_proj",),
    ("attention", "linear_1"): ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    ("attention", "linear_2"): ("encoder_attn.out_proj",),
    ("ffn", "linear_0"): ("fc1",),
    ("ffn", "linear_1"): ("fc2",),
}
_NORMS = {
    "self_attention": "self_attn_layer_norm",
    "attention": "encoder_attn_layer_norm",
    "ffn": "final_layer_norm",
}


@dataclass
class _Cursor:
    """Reads numbers, strings and bytes one after the other; never past the end."""

    data: memoryview
    source: Path
    position: int = 0

    def take(self, size: int) -> memoryview:
        if self.position + size > len(self.data):
            raise CheckpointError(f"{self.source} ends at byte {len(self.data)}, inside a record; fetch it again")
        chunk = self.data[self.position : self.position + size]
        self.position += size
        return chunk

    def number(self, kind: str) -> int:
        layout = f"<{kind}"
        return int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])

    def text(self) -> str:
        raw = bytes(self.take(self.number("H")))
        try:
            return raw.rstrip(b"\0").decode("ascii")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.source} is not a CTranslate2 model: a name is not text") from error


def read_variables(path: str | Path) -> dict[str, np.ndarray]:
    """Every variable of a CTranslate2 model under its own name; arrays are views of one read-only memory map.

    Raises CheckpointError when the file is missing, cut short or of another format.
    """
    path = Path(path)
    cursor = _Cursor(_map_file(path), path)
    version, specification = cursor.number("I"), cursor.text()
    if not _LOWEST_VERSION <= version <= _HIGHEST_VERSION or not specification.endswith("Spec"):
        raise CheckpointError(f"{path} is not a CTranslate2 model of version {_LOWEST_VERSION} to {_HIGHEST_VERSION}")
    cursor.number("I")  # revision of the specification: the variables' names tell what is there
    variables = dict(_read_variable(cursor) for _ in range(cursor.number("I")))
    for _ in range(cursor.number("I")):
        alias, name = cursor.text(), cursor.text()
        if name not in variables:
            raise CheckpointError(f"{path}: alias {alias!r} points to {name!r}, which is not in the file")
        variables[alias] = variables[name]
    return variables


def whisper_config(variables: dict[str, np.ndarray]) -> HearingConfig:
    """Shape of the Whisper whose variables these are; the projector keeps its default width."""
    embeddings = _need(variables, "decoder/embeddings/weight")
    return HearingConfig(
        mel_bins=_need(variables, "encoder/conv1/weight").shape[1],
        width=embeddings.shape[1],
        heads=int(_need(variables, "encoder/num_heads")),
        encoder_layers=_count_layers(variables, "encoder"),
        decoder_layers=_count_layers(variables, "decoder"),
        ffn=_need(variables, "encoder/layer_0/ffn/linear_0/weight").shape[0],
        vocab_size=embeddings.shape[0],
        max_encoder_frames=_need(variables, "encoder/position_encodings/encodings").shape[0],
        max_text_tokens=_need(variables, "decoder/position_encodings/encodings").shape[0],
    )


def whisper_tensors(variables: dict[str, np.ndarray], dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """CTranslate2's variables under Hugging Face's names, as `dtype`; scalars and flags are left out.

    Keys have no bias in Whisper: the bias that stacking gave them must be zero, else CheckpointError.
    """
    weights: dict[str, np.ndarray] = {}
    for name, values in variables.items():
        if values.ndim and not name.endswith(("alignment_heads", "projection/weight")):
            for hf_name, part in _rename(name, values):
                weights[hf_name] = np.array(part, dtype=dtype)
    return weights


def _map_file(path: Path) -> memoryview:
    try:
        return memoryview(np.memmap(path, dtype=np.uint8, mode="r"))  # type: ignore[arg-type]
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; give the path of a CTranslate2 model.bin") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is empty; fetch it again") from error


def _read_variable(cursor: _Cursor) -> tuple[str, np.ndarray]:
    name = cursor.text()
    shape = tuple(cursor.number("I") for _ in range(cursor.number("B")))
    kind, num_bytes = cursor.number("B"), cursor.number("I")
    if kind not in _DTYPES:
        raise CheckpointError(f"{cursor.source}: {name!r} has data type {kind}; known are {sorted(_DTYPES)}")
    dtype = _DTYPES[kind]
    if num_bytes != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise CheckpointError(f"{cursor.source}: {name!r} of shape {shape} cannot have {num_bytes} bytes")
    return name, np.frombuffer(cursor.take(num_bytes), dtype=dtype).reshape(shape)


def _rename(name: str, values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if name in _TOP_NAMES:
        return [(_TOP_NAMES[name], values)]
    if match := _FINAL_NORM_PATTERN.fullmatch(name):
        return [(f"model.{match[1]}.layer_norm.{_NORM_LEAVES[match[2]]}", values)]
    match = _LAYER_PATTERN.fullmatch(name)
    if match is None:
        raise CheckpointError(f"a CTranslate2 Whisper has no variable {name!r}; is it quantised or another model?")
    half, layer, block, module, leaf = match.groups()
    prefix = f"model.{half}.layers.{layer}"
    if module == "layer_norm" and block in _NORMS:
        return [(f"{prefix}.{_NORMS[block]}.{_NORM_LEAVES[leaf]}", values)]
    if (block, module) not in _PROJECTIONS or leaf not in ("weight", "bias"):
        raise CheckpointError(f"a CTranslate2 Whisper has no variable {name!r}; is it quantised or another model?")
    targets = _PROJECTIONS[block, module]
    named = [(f"{prefix}.{t}.{leaf}", part) for t, part in zip(targets, np.split(values, len(targets)), strict=True)]
    return [(target, part) for target, part in named if not _is_key_bias(target, part)]


def _is_key_bias(name: str, values: np.ndarray) -> bool:
    """Whether this is the zero bias that stacking gave the keys. Raises CheckpointError when it is not zero."""
    if not name.endswith("k_proj.bias"):
        return False
    if np.any(values):
        raise CheckpointError(f"{name} is not zero, but Whisper's keys have no bias; the file is not a Whisper")
    return True


def _need(variables: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in variables:
        raise CheckpointError(f"the CTranslate2 file has no {name!r}; it is not a Whisper")
    return variables[name]


def _count_layers(variables: dict[str, np.ndarray], half: str) -> int:
    pattern = re.compile(rf"{half}/layer_(\d+)/")
    return len({match[1] for match in map(pattern.match, variables) if match})
