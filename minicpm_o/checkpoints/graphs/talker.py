"""The talker of 4.5 to a graph of its body and head, and a file of its tables.

talker.onnx is a language graph (see `graphs.language`) whose tokens are speech tokens. talker_embeddings.safetensors
holds `emb_text` and `emb_code`, each with `.table` (rows, D) int8 and `.scales` (rows, 1) float16 (float32, and scales
of 1, when nothing is rounded), and the small projector of hidden states, `projector_semantic.linear1|2.weight|bias`,
float16 or float32. What the checkpoint holds but never uses is left out.

Source: names of `model.outputs.talker`; weight norm (arXiv:1602.07868).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from safetensors.numpy import save_file

from ...model.config import TalkerConfig
from .builder import NUMBERS_AT_ONCE, check_bits, take, take_raw
from .language import FILE_NAME as LANGUAGE_FILE
from .language import build_language

FILE_NAME = "talker.onnx"
TABLES_FILE = "talker_embeddings.safetensors"
HEAD = "lm_head.weight"


def build_talker(weights: Mapping[str, np.ndarray], config: TalkerConfig, *, bits: int | None, block_size: int,
                 folder: Path) -> None:
    """Write talker.onnx, talker.onnx.data and talker_embeddings.safetensors into `folder`.

    weights: the official names after `tts.`. bits 8 or 4 round the layers' matrices, and the head and tables to 8.
    Raises CheckpointError if a tensor is absent or misshapen or heads are too narrow, OptionError for bits or blocks
    that cannot be run.
    """
    check_bits(bits, block_size)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".work-") as work:
        build_language(TalkerWeights(weights, config), config.as_language(), layer_bits=bits,
                       head_bits=bits and 8, block_size=block_size, folder=Path(work))
        rename_graph(Path(work) / LANGUAGE_FILE, folder / FILE_NAME)
    save_file(talker_tables(weights, config, rounded=bits is not None), folder / TABLES_FILE)


class TalkerWeights(Mapping[str, np.ndarray]):
    """The talker's weights under the names that a language graph asks for: its head's norm is folded in."""

    def __init__(self, weights: Mapping[str, np.ndarray], config: TalkerConfig) -> None:
        self._weights = weights
        self._config = config

    def __getitem__(self, name: str) -> np.ndarray:
        return folded_head(self._weights, self._config) if name == HEAD else self._weights[name]

    def __contains__(self, name: object) -> bool:
        return name == HEAD or name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter((*self._weights, HEAD))

    def __len__(self) -> int:
        return len(self._weights) + 1


def folded_head(weights: Mapping[str, np.ndarray], config: TalkerConfig) -> np.ndarray:
    """(V, D): directions (V, D), each made as long as its length (V, 1) says."""
    name = "head_code.0.parametrizations.weight.original"
    lengths = take(weights, f"{name}0", [config.num_audio_tokens, 1])
    directions = take(weights, f"{name}1", [config.num_audio_tokens, config.width])
    return directions * (lengths / np.linalg.norm(directions, axis=1, keepdims=True))


def rename_graph(source: Path, target: Path) -> None:
    """Move a graph and its .data file, and tell the graph of its file's new name."""
    model = onnx.load(source, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"{target.name}.data"
    source.with_name(f"{source.name}.data").replace(target.with_name(f"{target.name}.data"))
    target.write_bytes(model.SerializeToString(deterministic=True))


def talker_tables(weights: Mapping[str, np.ndarray], config: TalkerConfig, *, rounded: bool) -> dict[str, np.ndarray]:
    """Tensors of talker_embeddings.safetensors."""
    tables: dict[str, np.ndarray] = {}
    for name, tensor, rows in (("emb_text", "emb_text.weight", config.num_text_tokens),
                               ("emb_code", "emb_code.0.weight", config.num_audio_tokens)):
        table = take_raw(weights, tensor, [rows, config.width])
        tables[f"{name}.table"], tables[f"{name}.scales"] = (
            round_rows(table) if rounded else (table.astype(np.float32), np.ones((rows, 1), np.float32)))
    for layer, columns in (("linear1", config.llm_width), ("linear2", config.width)):
        for part, shape in (("weight", [config.width, columns]), ("bias", [config.width])):
            name = f"projector_semantic.{layer}.{part}"
            tables[name] = take(weights, name, shape).astype(np.float16 if rounded else np.float32)
    return tables


def round_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, D) of any float type to int8 (rows, D) and float16 scales (rows, 1), a few rows at a time."""
    smallest = np.finfo(np.float16).smallest_subnormal  # a row of zeros still needs a scale that is not zero
    levels, scales = np.empty(table.shape, np.int8), np.empty((len(table), 1), np.float16)
    step = max(1, NUMBERS_AT_ONCE // table.shape[1])
    for start in range(0, len(table), step):
        at = slice(start, start + step)
        rows = np.asarray(table[at], np.float32)
        scales[at] = np.maximum(np.abs(rows).max(axis=1, keepdims=True) / 127, smallest)
        levels[at] = np.clip(np.rint(rows / scales[at].astype(np.float32)), -127, 127)
    return levels, scales
