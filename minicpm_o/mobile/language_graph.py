"""Nano's language graph for a phone: token ids in, logits out, 4 bits a weight, the word table once.

The published Q4_1 blocks stand in MatMulNBits as they are, so the 4 bits lose nothing of them; the trained change is
two thin matrices beside each (`portable.language_graph`). Ids are looked up inside the graph, in the table that the
head multiplies with, so an app keeps one file and no table. Letters: T tokens of a run, M tokens of media, D width,
V vocabulary, C tokens that the cache has room for.

Inputs   ids (1, T) int64 · media (1, M, D), what pictures and sounds are: its rows stand, in order, where ids has
         placeholders · total_tokens (1,) int32 = tokens after this run · past_key_values.{i}.key|value (1, kv_heads,
         C, head_width)
Outputs  logits (1, V) of the last token · present.{i}.key|value (1, kv_heads, C, head_width)

Give each present the tensor of its past and the cache is written in place. It begins as zeros, with room for the
prompt and the answer: not every interface makes tensors without numbers, so a cache that grows could not begin. A run
without placeholders looks at no media; one row must be given for it all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.graphs.builder import FLOAT, INT8_ACCURACY, INT32, INT64
from ..checkpoints.graphs.language import FILE_NAME
from ..model.config import LanguageConfig
from ..portable.language_graph import HEAD, MIDDLE, GpuGraph, Stored, Updates, build_blocks, store_bits

INPUTS = ("ids", "media", "total_tokens")
"""Beside the cache."""
TWIN_FILE = "language_embeds.onnx"
"""The same numbers with the inputs that Python's runtime gives."""


class BlockGraph(GpuGraph):
    """Products of 4-bit blocks as processors are quick at: what is read is rounded to 8 bits a block, as in Python."""

    accuracy: Mapping[str, Any] = {"accuracy_level": INT8_ACCURACY}


class PhoneGraph(BlockGraph):
    """BlockGraph with the word table, media and lengths inside."""

    def __init__(self, folder: Path, kept: Mapping[str, Sequence[Mapping[str, Stored]]], config: LanguageConfig,
                 placeholder: int) -> None:
        """placeholder: the token that stands where a medium's tokens go."""
        super().__init__(folder, kept)
        self._config, self._placeholder = config, placeholder
        self._table: tuple[str, str] | None = None

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """As the base class, but what a phone does not give is worked out of what it gives."""
        if name == "inputs_embeds":
            return self._embeds()
        if name == "seqlens_k":
            total = super().input("total_tokens", INT32, [1])
            return self.node("Sub", [total, self.constant("one_token", np.array([1], np.int32))], name)
        if name == "total_sequence_length":
            return self.node("Squeeze", ["total_tokens"], name)
        return super().input(name, dtype, shape)

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """As the base class, without what only Python reads."""
        return name if name == "hidden_states" else super().output(name, dtype, shape)

    def _head(self, name: str) -> tuple[str, str]:
        """The word table, which the first node reads too."""
        if self._table is None:
            self._table = super()._head(name)
        return self._table

    def _embeds(self) -> str:
        """ids (1, T) and media (1, M, D) -> (1, T, D)"""
        ids = super().input("ids", INT64, [1, "tokens"])
        media = super().input("media", FLOAT, [1, "media_tokens", self._config.width])
        is_medium = self.node("Equal", [ids, self.constant("placeholder", np.array(self._placeholder, np.int64))],
                              "is_medium")
        heard_or_seen = self._nth_of(media, is_medium)
        apart = self.node("Unsqueeze", [is_medium, self.integers("last_axis", -1)], "is_medium_apart")
        return self.node("Where", [apart, heard_or_seen, self._words(ids)], "inputs_embeds")

    def _nth_of(self, media: str, is_medium: str) -> str:
        """(1, T, D): at the n-th placeholder the n-th row of media; any row elsewhere."""
        ones = self.node("Cast", [is_medium], "medium_ones", to=INT64)
        counted = self.node("CumSum", [ones, self.constant("token_axis", np.array(1, np.int64))], "media_counted")
        place = self.node("Sub", [counted, self.integers("one", 1)], "medium_place_or_before")
        place = self.node("Max", [place, self.integers("first_place", 0)], "medium_place")
        rows = self.node("Squeeze", [media, self.integers("first_axis", 0)], "media_rows")
        return self.node("Gather", [rows, place], "medium_rows", axis=0)

    def _words(self, ids: str) -> str:
        """(1, T, D): columns of the table that the head multiplies with."""
        levels, scales = self._head(HEAD)
        columns = self.node("Gather", [levels, ids], "word_columns", axis=1)                   # (D, 1, T)
        floats = self.node("Cast", [columns], "word_floats", to=FLOAT)
        centred = self.node("Sub", [floats, self.scalar("word_middle", float(MIDDLE))], "words_centred")
        rows = self.node("Transpose", [centred], "word_rows", perm=[1, 2, 0])                  # (1, T, D)
        row_scales = self.node("Gather", [scales, ids], "word_row_scales", axis=0)             # (1, T)
        apart = self.node("Unsqueeze", [row_scales, self.integers("last_axis", -1)], "word_scales_apart")
        return self.node("Mul", [rows, apart], "words")


def build_phone_language(weights: Mapping[str, np.ndarray], updates: Updates, config: LanguageConfig, folder: Path,
                         placeholder: int) -> None:
    """Write language.onnx, and language_embeds.onnx for Python, into `folder`, where the embeddings' file lies already.

    weights: as of `build_language`, without the updates. Raises CheckpointError if a tensor is absent or misshapen.
    """
    kept = store_bits(weights, updates, config, folder).kept
    build_blocks(PhoneGraph(folder, kept, config, placeholder), weights, config, folder / FILE_NAME)
    build_blocks(BlockGraph(folder, kept), weights, config, folder / TWIN_FILE)
