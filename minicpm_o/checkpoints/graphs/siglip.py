"""SigLIP tower and query resampler of the official checkpoints to one graph: patches in, image tokens out.

Letters: B pieces of pictures, P patches of each, C channels times pixels of a patch, E tower width, Q queries,
D language width. Knows no slices. The pieces of one run have the same number of patches: nothing is padded, so no mask
is needed and the attention runs without writing its scores down.

Inputs   patches (B, P, C) · position_ids (B, P) int64, entries of the learned table · places (B, P, 2) int64, row and
         column
Outputs  tokens (B, Q, D)

The arithmetic is that of `model.encoders.siglip` and `model.encoders.query_resampler`; the queries, which no picture
changes, are projected beforehand.
Source: MultiHeadAttention and MatMulNBits as onnxruntime's ContribOperators.md defines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...errors import CheckpointError
from ...model.config import OfficialConfig, QueryResamplerConfig, SiglipConfig
from ...model.encoders.positions import place_frequencies
from .builder import FLOAT, INT64, MICROSOFT, GraphBuilder, Matrix, check_bits, take, take_matrix

FILE_NAME = "vision.onnx"


def build_siglip(tower: Mapping[str, np.ndarray], resampler: Mapping[str, np.ndarray], config: OfficialConfig, *,
                 bits: int | None, block_size: int, folder: Path) -> None:
    """Write vision.onnx and vision.onnx.data into `folder`.

    tower, resampler: official names after `vpm.` and `resampler.`. bits 4 or 8 quantise the matrices (not the patches'
    and the positions'), None keeps float32. Raises CheckpointError if a tensor is absent or misshapen or the config has
    no vision, OptionError for bits that cannot be run.
    """
    check_bits(bits, block_size)
    if config.vision is None or config.resampler is None:
        raise CheckpointError(f"the config of {config.name} has no vision; load the model with it before exporting")
    vision, reading = config.vision, config.resampler
    with GraphBuilder.streaming("vision", folder / FILE_NAME) as graph:
        graph.input("patches", FLOAT, ["pieces", "patches_of_each", vision.channels * vision.patch_px**2])
        graph.input("position_ids", INT64, ["pieces", "patches_of_each"])
        graph.input("places", INT64, ["pieces", "patches_of_each", 2])
        graph.output("tokens", FLOAT, ["pieces", reading.queries, config.language.width])
        features = _Tower(graph, tower, vision, bits, block_size).features()
        _Resampler(graph, resampler, reading, vision.width, config.language.width, bits, block_size).tokens(features)


class _Part:
    """Weights of one part into a graph under its prefix."""

    def __init__(self, graph: GraphBuilder, weights: Mapping[str, np.ndarray], prefix: str, norm_eps: float,
                 bits: int | None, block_size: int) -> None:
        self.graph, self.weights, self.prefix, self.norm_eps = graph, weights, prefix, norm_eps
        self.bits, self.block_size = bits, block_size

    def take(self, name: str, *shape: int) -> np.ndarray:
        return take(self.weights, name, shape)

    def dense(self, x: str, name: str, weight: Matrix, bias: np.ndarray | None) -> str:
        return self.graph.linear(x, weight, bias, f"{self.prefix}.{name}", bits=self.bits, block_size=self.block_size)

    def linear(self, x: str, name: str, columns: int, rows: int) -> str:
        matrix = take_matrix(self.weights, f"{name}.weight", [rows, columns])
        return self.dense(x, name, matrix, self.take(f"{name}.bias", rows))

    def norm(self, x: str, name: str, width: int) -> str:
        return self.graph.layer_norm(x, self.take(f"{name}.weight", width), self.take(f"{name}.bias", width),
                                     f"{self.prefix}.{name}", eps=self.norm_eps)

    def attend(self, queries: str, keys: str, values: str, name: str, heads: int) -> str:
        """(B, ., width) each, heads side by side; scores are divided by the root of the head width."""
        return self.graph.node("MultiHeadAttention", [queries, keys, values], f"{self.prefix}.{name}",
                               domain=MICROSOFT, num_heads=heads)

    def add(self, x: str, y: str, name: str) -> str:
        return self.graph.node("Add", [x, y], f"{self.prefix}.{name}")


class _Tower(_Part):
    """patches -> features (B, P, E)"""

    def __init__(self, graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: SiglipConfig, bits: int | None,
                 block_size: int) -> None:
        super().__init__(graph, weights, "vpm", config.norm_eps, bits, block_size)
        self.config = config

    def features(self) -> str:
        x = self.embeddings()
        for layer in range(self.config.layers):
            x = self.layer(x, f"encoder.layers.{layer}")
        return self.norm(x, "post_layernorm", self.config.width)

    def embeddings(self) -> str:
        """Pixels through the patch layer, plus their place's row of the table; both stay float32."""
        shape, name = self.config, "embeddings.patch_embedding"
        weight = self.take(f"{name}.weight", shape.width, shape.channels, shape.patch_px, shape.patch_px)
        x = self.graph.linear("patches", weight.reshape(shape.width, -1), self.take(f"{name}.bias", shape.width),
                              f"vpm.{name}", bits=None)
        table = self.take("embeddings.position_embedding.weight", shape.grid**2, shape.width)
        rows = self.graph.node("Gather", [self.graph.constant("vpm.position_table", table), "position_ids"],
                               "vpm.positions")
        return self.add(x, rows, "embeddings")

    def layer(self, x: str, name: str) -> str:
        width = self.config.width
        x = self.add(x, self.attention(self.norm(x, f"{name}.layer_norm1", width), f"{name}.self_attn"), f"{name}.seen")
        h = self.linear(self.norm(x, f"{name}.layer_norm2", width), f"{name}.mlp.fc1", width, self.config.ffn)
        h = self.graph.node("Gelu", [h], f"vpm.{name}.gelu", approximate="tanh")
        return self.add(x, self.linear(h, f"{name}.mlp.fc2", self.config.ffn, width), name)

    def attention(self, x: str, name: str) -> str:
        """Queries, keys and values come from one matrix, so that the input is rounded once."""
        width, parts = self.config.width, [f"{name}.{part}_proj" for part in "qkv"]
        matrices = [take_matrix(self.weights, f"{part}.weight", [width, width]) for part in parts]
        bias = np.concatenate([self.take(f"{part}.bias", width) for part in parts])
        packed = self.dense(x, f"{name}.qkv_proj", matrices, bias)
        queries, keys, values = self.graph.nodes("Split", [packed], f"vpm.{name}.split", axis=-1, num_outputs=3,
                                                 outs=[f"vpm.{part}" for part in parts])
        seen = self.attend(queries, keys, values, f"{name}.attend", self.config.heads)
        return self.linear(seen, f"{name}.out_proj", width, width)


class _Resampler(_Part):
    """features (B, P, E) -> tokens (B, Q, D)"""

    def __init__(self, graph: GraphBuilder, weights: Mapping[str, np.ndarray], config: QueryResamplerConfig,
                 feature_width: int, width: int, bits: int | None, block_size: int) -> None:
        super().__init__(graph, weights, "resampler", config.norm_eps, bits, block_size)
        self.config, self.feature_width, self.width = config, feature_width, width

    def tokens(self, features: str) -> None:
        width = self.width
        h = self.dense(features, "kv_proj", take_matrix(self.weights, "kv_proj.weight", [width, self.feature_width]),
                       None)
        seen = self.norm(h, "ln_kv", width)
        keys = self.part_of_in_proj(self.add(seen, self.positions(), "placed"), "keys", 1)
        values = self.part_of_in_proj(seen, "values", 2)
        x = self.attend(self.queries(), keys, values, "attend", width // self.config.head_width)
        x = self.norm(self.linear(x, "attn.out_proj", width, width), "ln_post", width)
        matrix = self.take("proj", width, width).T                          # multiplied from the right, as it is stored
        self.graph.linear(x, matrix, None, "resampler.proj", bits=self.bits, block_size=self.block_size, out="tokens")

    def in_proj(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Matrix and bias of queries (0), keys (1) or values (2)."""
        width = self.width
        rows = slice(part * width, (part + 1) * width)
        matrix = take_matrix(self.weights, "attn.in_proj_weight", [3 * width, width])[rows]
        return np.asarray(matrix, dtype=np.float32), self.take("attn.in_proj_bias", 3 * width)[rows]

    def part_of_in_proj(self, x: str, name: str, part: int) -> str:
        return self.dense(x, name, *self.in_proj(part))

    def queries(self) -> str:
        """The projected queries, the same for every piece: (B, Q, D)."""
        graph, (weight, bias) = self.graph, self.in_proj(0)
        table = self.normed_queries() @ weight.T + bias
        count = graph.node("Shape", ["position_ids"], "resampler.num_pieces", start=0, end=1)
        shape = graph.node("Concat", [count, graph.integers("resampler.query_shape", *table.shape)],
                           "resampler.queries_shape", axis=0)
        return graph.node("Expand", [graph.constant("resampler.query_table", table[None].astype(np.float32)), shape],
                          "resampler.queries")

    def normed_queries(self) -> np.ndarray:
        query = self.take("query", self.config.queries, self.width)
        centred = query - query.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.norm_eps)
        return normed * self.take("ln_q.weight", self.width) + self.take("ln_q.bias", self.width)

    def positions(self) -> str:
        """Sine and cosine of the column, then of the row: (B, P, D), as `positions.place_sincos`."""
        graph = self.graph
        turned = graph.node("Gather", ["places", graph.integers("resampler.column_row", 1, 0)], "resampler.turned",
                            axis=-1)
        numbers = graph.node("Cast", [turned], "resampler.numbers", to=FLOAT)
        columns = graph.node("Unsqueeze", [numbers, graph.integers("resampler.last_axis", -1)], "resampler.columns")
        frequencies = graph.constant("resampler.frequencies", place_frequencies(self.width))
        angles = graph.node("Mul", [columns, frequencies], "resampler.angles")  # (B, P, 2, D/4)
        waves = [graph.node(op, [angles], f"resampler.{op.lower()}") for op in ("Sin", "Cos")]
        both = graph.node("Concat", waves, "resampler.waves", axis=-1)
        return graph.node("Reshape", [both, graph.integers("resampler.merged", 0, 0, self.width)],
                          "resampler.positions")
