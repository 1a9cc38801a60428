"""Convolutions of whole numbers in somebody else's graph to products of matrices, with the same numbers.

onnxruntime's ConvInteger copies what each output sees on one thread, and multiplies on processors with instructions for
8-bit products (VNNI) without them. So a convolution over time becomes: numbers (1, C, L) uint8 with time first, padded
with their own zero, K shifted copies side by side (1, L, K C), times a matrix (K C, N) int8, and back to (1, N, L).
Sums of whole numbers do not depend on their order, so what comes out is the same, bit by bit. Signed weights are what
the quick instructions take; processors without them need the session option `session.x64quantprecision`, or pairs of
products would overflow.

Letters: C channels in, N channels out, K taps, L length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .builder import copied

MIDDLE = 128
"""What an unsigned level is more than the signed one."""
LAST = np.iinfo(np.int64).max


def with_products(model: onnx.ModelProto) -> int:
    """Rewrite every convolution over time of stride 1 without groups, in place; how many there were."""
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    fitting = [node.op_type == "ConvInteger" and _fits(node, tensors) for node in graph.node]
    if not any(fitting):
        return 0
    constants: dict[str, np.ndarray] = {}
    nodes = [made for node, fits in zip(graph.node, fitting, strict=True)
             for made in (_product(node, tensors, constants) if fits else [copied(node)])]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [numpy_helper.from_array(array, name) for name, array in constants.items()]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    return sum(fitting)


def _fits(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto]) -> bool:
    """Whether weights and their zero are known, unsigned, and the convolution is a plain one over one axis."""
    known = [tensors.get(name) for name in (node.input[1], node.input[3] if len(node.input) > 3 else "")]
    told = _attributes(node)
    plain = list(told.get("strides", [1])) == [1] and told.get("group", 1) == 1
    return plain and told.get("auto_pad", b"NOTSET") in (b"", b"NOTSET") and all(
        tensor is not None and tensor.data_type == onnx.TensorProto.UINT8 for tensor in known) and (
        len(tensors[node.input[1]].dims) == 3)


def _product(node: onnx.NodeProto, tensors: dict[str, onnx.TensorProto], constants: dict[str, np.ndarray]
             ) -> Iterator[onnx.NodeProto]:
    numbers, weight, zero, weight_zero = node.input
    stem, told = node.output[0], _attributes(node)
    levels = numpy_helper.to_array(tensors[weight]).astype(np.int16) - MIDDLE  # (N, C, K)
    taps = levels.shape[2]
    matrix = levels.transpose(2, 1, 0).reshape(-1, levels.shape[0])
    constants[f"{stem}.matrix"] = np.ascontiguousarray(matrix.astype(np.int8))
    constants[f"{stem}.zero"] = np.array(int(numpy_helper.to_array(tensors[weight_zero])) - MIDDLE, np.int8)
    yield helper.make_node("Transpose", [numbers], [f"{stem}.turned"], name=f"{stem}.turn", perm=[0, 2, 1])
    columns = f"{stem}.turned"
    before, after = told.get("pads", [0, 0])
    if before or after:
        pads = _known(constants, "pads", 0, before, 0, 0, after, 0)
        yield helper.make_node("Pad", [columns, pads, zero], [f"{stem}.padded"], name=f"{stem}.pad")
        columns = f"{stem}.padded"
    if taps > 1:
        yield from _side_by_side(columns, stem, taps, told.get("dilations", [1])[0], constants)
        columns = f"{stem}.columns"
    yield helper.make_node("MatMulInteger", [columns, f"{stem}.matrix", zero, f"{stem}.zero"], [f"{stem}.product"],
                           name=f"{stem}.multiply")
    yield helper.make_node("Transpose", [f"{stem}.product"], [stem], name=node.name, perm=[0, 2, 1])


def _side_by_side(x: str, stem: str, taps: int, dilation: int, constants: dict[str, np.ndarray]
                  ) -> Iterator[onnx.NodeProto]:
    """(1, L + (K - 1) dilation, C) -> (1, L, K C)"""
    shifted = [f"{stem}.tap{tap}" for tap in range(taps)]
    for tap, name in enumerate(shifted):
        start = _known(constants, "from", tap * dilation)
        stop = _known(constants, "to", (tap + 1 - taps) * dilation or LAST)
        yield helper.make_node("Slice", [x, start, stop, _known(constants, "axis", 1)], [name], name=name)
    yield helper.make_node("Concat", shifted, [f"{stem}.columns"], name=f"{stem}.join", axis=2)


def _known(constants: dict[str, np.ndarray], what: str, *values: int) -> str:
    """A vector of whole numbers, kept once."""
    name = f"products.{what}{','.join(map(str, values))}"
    constants[name] = np.array(values, np.int64)
    return name


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}
