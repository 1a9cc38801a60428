"""Graphs made smaller for the way to a browser: floats stored in 16 bits, and what is multiplied in floats says so.

Each large float32 tensor becomes float16 on disk and a Cast, which loading works out once: what runs is float32 again.
Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..checkpoints.graphs.builder import EXTERNAL_MIN_BYTES, DataFile

KEPT = ("cos_cache", "sin_cache")
"""Tables whose last bits count: angles of far positions."""


def shrink(source: Path, target: Path, *, bits: int = 16) -> None:
    """Write the graph `source` to `target` (and `target` + ".data") with its large floats in 16 bits, or in 8 for
    kernels and tables of two and more axes (`bits` 8: a scale for each first index)."""
    model = onnx.load(str(source))
    for graph in _graphs(model.graph):
        _shrink_graph(graph, bits)
    data = DataFile(target)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= EXTERNAL_MIN_BYTES:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(data.add(tensor.name, array))
    if not data.path.stat().st_size:
        data.path.unlink()
    target.write_bytes(model.SerializeToString(deterministic=True))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its branches."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _shrink_graph(graph: onnx.GraphProto, bits: int) -> None:
    """In place."""
    casts = []
    for tensor in list(graph.initializer):  # some are added on the way
        is_large = tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) * 4 >= EXTERNAL_MIN_BYTES
        if is_large and tensor.name not in KEPT:
            casts += _shrunk(graph, tensor, bits)
    nodes = [_in_floats(node) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def _in_floats(node: onnx.NodeProto) -> onnx.NodeProto:
    """Products of packed matrices say that activations stay float32, as a browser computes them anyway."""
    if node.op_type == "MatMulNBits":
        kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return node


def _shrunk(graph: onnx.GraphProto, tensor: TensorProto, bits: int) -> list[onnx.NodeProto]:
    """The tensor becomes smaller; the nodes that give its name the floats again."""
    name, array = tensor.name, numpy_helper.to_array(tensor)
    if bits == 8 and array.ndim > 1:
        return _shrunk_to_8(graph, tensor, name, array)
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
    return [helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.cast", to=TensorProto.FLOAT)]


def _shrunk_to_8(graph: onnx.GraphProto, tensor: TensorProto, name: str, array: np.ndarray) -> list[onnx.NodeProto]:
    axes = tuple(range(1, array.ndim))
    scales = np.abs(array).max(axes, keepdims=True) / 127
    scales = np.where(scales == 0, 1, scales).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(np.rint(array / scales).astype(np.int8), f"{name}.whole"))
    graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scales"))
    return [helper.make_node("Cast", [f"{name}.whole"], [f"{name}.floats"], name=f"{name}.cast", to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}.floats", f"{name}.scales"], [name], name=f"{name}.scale")]
