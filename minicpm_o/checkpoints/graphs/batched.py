"""A language graph for one conversation to one for several, a token of each at a time.

All that is done token by token is done for a run of B tokens as it is; attention alone is done apart, each token with
the keys and values of its own conversation. Inputs: `inputs_embeds` (1, B, D), and for every slot b `sb.seqlens_k`,
`sb.total_sequence_length` and `sb.past_key_values.*` as the one-conversation graph has them. Outputs: `logits`
(1, B, V), `hidden_states` (1, B, D) and `sb.present.*`.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

ATTENTION = "GroupQueryAttention"
LAST = "last_hidden_state"
TOTAL = "total_sequence_length"
PER_SLOT = ("seqlens_k", TOTAL)


def batched(model: onnx.ModelProto, slots: int) -> onnx.ModelProto:
    """The graph of `model` for so many conversations. model is left as it is, its weights are not copied apart."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    graph = twin.graph
    ones = f"batched.ones{slots}"
    graph.initializer.append(numpy_helper.from_array(np.ones(slots, np.int64), ones))
    nodes = [made for node in model.graph.node for made in _laid(node, slots, ones)]
    del graph.node[:]
    graph.node.extend(nodes)
    inputs, outputs = list(model.graph.input), list(model.graph.output)
    del graph.input[:], graph.output[:], graph.value_info[:]
    for value in inputs:
        graph.input.extend(_per_slot(value, slots) if _is_per_slot(value.name) else [value])
    for value in outputs:
        graph.output.extend(_per_slot(value, slots) if value.name.startswith("present.") else [_any_shape(value)])
    return twin


def _laid(node: onnx.NodeProto, slots: int, ones: str) -> list[onnx.NodeProto]:
    """A node as the batched graph has it."""
    if node.output[0] == LAST:  # every token's is wanted
        return [helper.make_node("Identity", [node.input[0]], [LAST], name=node.name)]
    return _apart(node, slots, ones) if node.op_type == ATTENTION else [node]


def _apart(node: onnx.NodeProto, slots: int, ones: str) -> list[onnx.NodeProto]:
    """Attention of every slot with its own past."""
    queries = [f"{node.name}.q{slot}" for slot in range(slots)]
    seen = [f"{node.name}.o{slot}" for slot in range(slots)]
    made = [helper.make_node("Split", [node.input[0], ones], queries, name=f"{node.name}.split", axis=1)]
    for slot in range(slots):
        names = [f"s{slot}.{name}" if _is_per_slot(name) else name for name in node.input[1:]]
        presents = [f"s{slot}.{name}" for name in node.output[1:]]
        one = helper.make_node(ATTENTION, [queries[slot], *names], [seen[slot], *presents],
                               name=f"{node.name}.s{slot}", domain=node.domain)
        one.attribute.extend(node.attribute)
        made.append(one)
    return [*made, helper.make_node("Concat", seen, [node.output[0]], name=f"{node.name}.concat", axis=1)]


def _is_per_slot(name: str) -> bool:
    return name in PER_SLOT or name.startswith("past_key_values.")


def _per_slot(value: onnx.ValueInfoProto, slots: int) -> list[onnx.ValueInfoProto]:
    made = []
    for slot in range(slots):
        twin = onnx.ValueInfoProto()
        twin.CopyFrom(value)
        twin.name = f"s{slot}.{value.name}"
        made.append(twin)
    return made


def _any_shape(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """The same value; its shape is found out by whoever runs the graph."""
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None)
