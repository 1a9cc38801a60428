"""ONNX graphs to the format of ORT mobile, readable by older runtimes too, with the operators that they take.

Options are those of onnxruntime's own converter (onnxruntime.tools.convert_onnx_models_to_ort, style "Fixed", platform
"arm"): optimised as far as every processor allows. The layout of convolutions that x86 alone has is left out.

A runtime writes down every attribute that its own schema knows, and an older one refuses those that it does not know.
Packages for phones come later than Python's. Attributes of onnxruntime's own operators that say what the schema says
anyway are therefore taken out of the file again; whoever reads it takes its own schema's word for them.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.graphs.builder import MICROSOFT

SUFFIX = ".ort"
PROCESSOR = "CPUExecutionProvider"
OPERATORS_FILE = "required_operators_and_types.config"
_X86_ALONE = ["NchwcTransformer"]
_ATTRIBUTES_SLOT = 24
"""Of a node's table in the file: onnxruntime/core/flatbuffers/schema/ort.fbs."""

Defaults = Mapping[str, Mapping[str, Any]]
"""Operator to attribute to what it is when nothing is said."""


def to_ort(source: Path, target: Path) -> None:
    """Write the graph `source`, with all its tensors, to `target`."""
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    InferenceSession(str(source), options, providers=[PROCESSOR], disabled_optimizers=_X86_ALONE)
    content = bytearray(target.read_bytes())
    drop_defaults(content)
    target.write_bytes(content)


def write_operators(graphs: Iterable[Path], target: Path) -> None:
    """Write what onnxruntime's build.py takes as --include_ops_by_config for these graphs."""
    from onnxruntime.tools.ort_format_model import create_config_from_models

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)  # it tells of every file that it writes
    create_config_from_models(list(graphs), target, enable_type_reduction=True)
    words = re.sub(r"^# - .*/", "# - ", target.read_text(encoding="utf-8"), flags=re.MULTILINE)  # no folder of ours
    target.write_text(words, encoding="utf-8")


def typed_nodes(content: bytearray) -> Iterator[tuple[Any, Mapping[bytes, str]]]:
    """Nodes of a file's graph and of the graphs inside them, as onnxruntime's reader shows them, each with the types of
    the values that it can see: tensor(float) and so on."""
    from onnxruntime.tools.ort_format_model import ort_model_processor

    reader = ort_model_processor.fbs.InferenceSession.InferenceSession
    yield from _typed_nodes(reader.GetRootAsInferenceSession(content, 0).Model().Graph(), {})


def _typed_nodes(graph: Any, outer: Mapping[bytes, str]) -> Iterator[tuple[Any, Mapping[bytes, str]]]:
    from onnxruntime.tools.ort_format_model.types import FbsTypeInfo

    values = [graph.NodeArgs(place) for place in range(graph.NodeArgsLength())]
    types = {**outer, **{value.Name(): _type(FbsTypeInfo.typeinfo_to_str(value.Type()))
                         for value in values if value.Type() is not None}}
    for number in range(graph.NodesLength()):
        node = graph.Nodes(number)
        yield node, types
        for place in range(node.AttributesLength()):
            if (inner := node.Attributes(place).G()) is not None:
                yield from _typed_nodes(inner, types)


def _type(name: str) -> str:
    """C++'s name of a type to ONNX's of a tensor of it."""
    plain = {"MLFloat16": "float16", "BFloat16": "bfloat16", "std::string": "string"}.get(name, name)
    return f"tensor({plain.removesuffix('_t')})"


def drop_defaults(content: bytearray) -> None:
    """Take what the schema says anyway out of the nodes of onnxruntime's own operators, in place."""
    defaults = own_defaults()
    for node, _ in typed_nodes(content):
        if (node.Domain() or b"").decode() == MICROSOFT:
            _drop(content, node, defaults.get(node.OpType().decode(), {}))


def _drop(content: bytearray, node: Any, defaults: Mapping[str, Any]) -> None:
    """Shorten a node's list of attributes; what they were stays in the file, and nothing points at it."""
    found = [node.Attributes(place) for place in range(node.AttributesLength())]
    kept = [attribute for attribute in found if defaults.get(attribute.Name().decode()) != _value(attribute)]
    if len(kept) == len(found):
        return
    start = node._tab.Vector(node._tab.Offset(_ATTRIBUTES_SLOT))
    struct.pack_into("<I", content, start - 4, len(kept))
    for place, attribute in enumerate(kept):
        here = start + 4 * place  # what stands here is how far it is from here to the attribute
        struct.pack_into("<I", content, here, attribute._tab.Pos - here)


def _value(attribute: Any) -> Any:
    """A number or a string with its type, None for what has no such default: (AttributeProto's number, value)."""
    from onnx import AttributeProto

    read = {AttributeProto.FLOAT: attribute.F, AttributeProto.INT: attribute.I, AttributeProto.STRING: attribute.S}
    kind = attribute.Type()
    return (kind, read[kind]()) if kind in read else (kind, object())


def own_defaults() -> Defaults:
    """Of onnxruntime's own operators, as the installed one has them."""
    from onnx import AttributeProto, helper
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    found: dict[str, dict[str, Any]] = {}
    for schema in get_all_operator_schema():
        if schema.domain == MICROSOFT:
            stated = {name: AttributeProto.FromString(attribute._default_value)
                      for name, attribute in schema.attributes.items() if attribute._default_value}
            found[schema.name] = {name: (proto.type, helper.get_attribute_value(proto))
                                  for name, proto in stated.items()}
    return found
