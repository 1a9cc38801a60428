"""A language graph to one whose numbers do not depend on how its tokens are cut into runs.

On a CPU, onnxruntime multiplies one row by a matrix with other code than several rows, which rounds otherwise. In the
language graph that touches the attention alone (scores times values), at 1e-7; the layers after it round what they read
to int8 and make tenths of a logit of it. So in a short run the heads that share a key (grouped-query attention,
arXiv:2305.13245) stand below each other, as rows of one product: then there is never one row, each key and value is
gone through once instead of once per head, and what several tokens give in one run is, bit by bit, what each gives
alone. A long run is attended as the graph was built.

How rows are laid, and what the graph's further inputs mean: `rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..checkpoints.graphs.batched import ATTENTION, LAST, TOTAL
from ..checkpoints.graphs.builder import copied
from .rows import BY_ROWS, GIVEN, LOGIT_ROWS, PLACES, TAKEN

NUM_PACKED = 3
"""An attention's first inputs: queries, keys and values; or all in the first, and two empty names."""
TOTAL_INPUT = 6
"""Which of an attention's inputs says how many tokens there are."""


def with_logit_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """model with the logits of the tokens in `logit_rows` instead of the last one's; changed in place.

    Raises ValueError for a graph that does not choose its last token in one node.
    """
    chosen = [node for node in model.graph.node if node.output[0] == LAST and node.op_type == "Gather"]
    if len(chosen) != 1:
        raise ValueError(f"the graph has {len(chosen)} nodes that choose a token for the logits; expected 1")
    chosen[0].input[1] = LOGIT_ROWS
    model.graph.input.append(helper.make_tensor_value_info(LOGIT_ROWS, TensorProto.INT64, ["rows"]))
    (logits,) = (value for value in model.graph.output if value.name == "logits")
    logits.type.tensor_type.ClearField("shape")  # found out by whoever runs the graph
    del model.graph.value_info[:]
    return model


def with_rows(model: onnx.ModelProto, *, always: bool = False) -> onnx.ModelProto:
    """model whose attentions lay heads that share a key below each other in short runs; changed in place.

    always: in every run, and without `attention_by_rows`. In a graph for several conversations each has its own
    `attention_places`; the other inputs are those of all.
    """
    graph = model.graph
    attentions = [node for node in graph.node if node.op_type == ATTENTION]
    totals = list(dict.fromkeys(node.input[TOTAL_INPUT] for node in attentions))
    nodes = [made for total in totals for made in _mask(total)]
    nodes += [made for node in graph.node for made in _laid(node, always)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(numpy_helper.from_array(array, f"steady.{name}")
                             for name, array in _constants(graph, attentions[0]).items())
    shapes: dict[str, list[str | int | None]] = {TAKEN: [1, "rows", None], GIVEN: [1, "tokens", None]}
    shapes |= {_places(name): [1, "rows"] for name in totals}
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in shapes.items())
    if not always:
        graph.input.append(helper.make_tensor_value_info(BY_ROWS, TensorProto.BOOL, []))
    return model


def _places(total: str) -> str:
    """The input with the places in the conversation whose length is the input `total`."""
    return total.replace(TOTAL, PLACES)


def _constants(graph: onnx.GraphProto, attention: onnx.NodeProto) -> dict[str, np.ndarray]:
    sizes = {attribute.name: attribute.i for attribute in attention.attribute}
    past = next(value for value in graph.input if value.name == attention.input[NUM_PACKED])
    width = past.type.tensor_type.shape.dim[-1].dim_value
    whole = {"zero": 0, "one": 1, "column": [1, 1, -1, 1], "heads": [-1, width],
             "row": [1, -1, NUM_PACKED * sizes["kv_num_heads"] * width], "token": [1, -1, sizes["num_heads"] * width]}
    seen = {"seen": 0.0, "unseen": -np.inf}
    return ({name: np.array(value, np.int64) for name, value in whole.items()}
            | {name: np.array(value, np.float32) for name, value in seen.items()})


def _mask(total: str) -> Iterator[onnx.NodeProto]:
    """(1, 1, R, all tokens) float32: minus infinity where a row must not look."""
    name = _places(total)
    yield _node("Cast", [total], f"{name}.total", to=TensorProto.INT64)
    yield _node("Range", ["steady.zero", f"{name}.total", "steady.one"], f"{name}.keys")
    yield _node("Reshape", [name, "steady.column"], f"{name}.column")
    yield _node("Greater", [f"{name}.keys", f"{name}.column"], f"{name}.later")
    yield _node("Where", [f"{name}.later", "steady.unseen", "steady.seen"], f"{name}.mask")


def _node(operator: str, inputs: list[str], out: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [out], name=out, **attributes)


def _laid(node: onnx.NodeProto, always: bool) -> list[onnx.NodeProto]:
    """A node as the steady graph has it."""
    if node.op_type != ATTENTION:
        return [copied(node)]
    if always:
        return _by_rows(node, list(node.output))
    by_rows, as_built = ([f"{node.name}.{way}.{name}" for name in node.output] for way in ("rows", "built"))
    whole = copied(node)
    whole.output[:] = as_built
    return [helper.make_node("If", [BY_ROWS], list(node.output), name=f"{node.name}.if",
                             then_branch=_branch(_by_rows(node, by_rows), by_rows),
                             else_branch=_branch([whole], as_built))]


def _branch(nodes: list[onnx.NodeProto], outputs: list[str]) -> onnx.GraphProto:
    return helper.make_graph(nodes, outputs[0], [],
                             [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs])


def _by_rows(node: onnx.NodeProto, outputs: list[str]) -> list[onnx.NodeProto]:
    """An attention between heads that are taken apart into rows and put together again."""
    name, places = outputs[0], _places(node.input[TOTAL_INPUT])
    parts = [part for part in node.input[:NUM_PACKED] if part]
    attention = copied(node)
    attention.input[:] = [f"{name}.row", "", "", *node.input[NUM_PACKED:], places, f"{places}.mask"]
    attention.output[:] = [f"{name}.seen", *outputs[1:]]
    attention.name = f"{name}.seen"
    sizes = {attribute.name: attribute for attribute in attention.attribute}
    sizes["num_heads"].i = sizes["kv_num_heads"].i
    packing = [_node("Concat", parts, f"{name}.packed", axis=-1)] if len(parts) > 1 else []
    return [*packing,
            _node("Reshape", [packing[0].output[0] if packing else parts[0], "steady.heads"], f"{name}.heads"),
            _node("Gather", [f"{name}.heads", TAKEN], f"{name}.taken", axis=0),
            _node("Reshape", [f"{name}.taken", "steady.row"], f"{name}.row"),
            attention,
            _node("Reshape", [f"{name}.seen", "steady.heads"], f"{name}.seen_heads"),
            _node("Gather", [f"{name}.seen_heads", GIVEN], f"{name}.given", axis=0),
            _node("Reshape", [f"{name}.given", "steady.token"], outputs[0])]
