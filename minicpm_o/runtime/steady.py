"""A language graph to one whose numbers do not depend on how its tokens are cut into runs.

On a CPU, onnxruntime multiplies one row by a matrix with other code than several rows, which rounds otherwise. In the
language graph that touches the attention alone (scores times values), at 1e-7; the layers after it round what they read
to int8 and make tenths of a logit of it. So a run of one token is made one of two rows inside every attention: a row of
zeros behind the token, whose keys and values fall on the place of the next token, which is written anew when that is
read. What several tokens give in one run is then, bit by bit, what each gives alone.

The graph's further inputs: `attention_pads` (6,) int64 = (0, 0, 0, 0, P, 0) for P rows of zeros; `attention_tokens`
(1,) int64 = tokens of the run (of a slot, in a graph for several conversations); `logit_rows` (R,) int64 = the tokens
whose logits are wanted, so that `logits` is (1, R, V). The caller counts the P rows in the lengths that it gives.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..checkpoints.graphs.batched import ATTENTION, LAST
from ..checkpoints.graphs.builder import copied

PADS, TOKENS, ROWS = "attention_pads", "attention_tokens", "logit_rows"
NUM_PACKED = 3
"""An attention's first inputs: queries, keys and values; or all in the first, and two empty names."""


def with_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """model with the logits of the tokens in `logit_rows` instead of the last one's; changed in place.

    Raises ValueError for a graph that does not choose its last token in one node.
    """
    chosen = [node for node in model.graph.node if node.output[0] == LAST and node.op_type == "Gather"]
    if len(chosen) != 1:
        raise ValueError(f"the graph has {len(chosen)} nodes that choose a token for the logits; expected 1")
    chosen[0].input[1] = ROWS
    model.graph.input.append(helper.make_tensor_value_info(ROWS, TensorProto.INT64, ["rows"]))
    (logits,) = (value for value in model.graph.output if value.name == "logits")
    logits.type.tensor_type.ClearField("shape")  # found out by whoever runs the graph
    del model.graph.value_info[:]
    return model


def with_pads(model: onnx.ModelProto) -> onnx.ModelProto:
    """model with `attention_pads` rows of zeros behind the tokens of every attention; changed in place."""
    graph = model.graph
    nodes = [made for node in graph.node for made in (_padded(node) if node.op_type == ATTENTION else [copied(node)])]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for name, values in (("steady.zero", 0), ("steady.one", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array([values], np.int64), name))
    graph.input.append(helper.make_tensor_value_info(PADS, TensorProto.INT64, [6]))
    graph.input.append(helper.make_tensor_value_info(TOKENS, TensorProto.INT64, [1]))
    return model


def _padded(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Rows behind what goes into an attention, and off what comes out."""
    attention = copied(node)
    for place, name in enumerate(node.input[:NUM_PACKED]):
        if name:
            attention.input[place] = f"{node.name}.padded{place}"
            yield helper.make_node("Pad", [name, PADS], [attention.input[place]], name=attention.input[place])
    attention.output[0] = f"{node.name}.long"
    yield attention
    yield helper.make_node("Slice", [attention.output[0], "steady.zero", TOKENS, "steady.one"], [node.output[0]],
                           name=f"{node.name}.cut")
