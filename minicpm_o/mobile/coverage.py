"""Which operators an exported graph takes, with their types; who has kernels for them on a phone.

The processor's kernels are those that the installed onnxruntime lists, by operator, version and types; that a full
package for phones of the same version registers the same is taken for granted. What NNAPI and Core ML take is told by
onnxruntime's own checker, by the operator alone, so that their shares are the most that can be.

Source: onnxruntime.tools.mobile_helpers.usability_checker; https://onnxruntime.ai/docs/execution-providers.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .ort_format import PROCESSOR, typed_nodes

COREML_OPERATORS = "coreml_supported_mlprogram_ops.md"


@dataclass(frozen=True)
class Operator:
    """An operator in one version with inputs of certain types."""

    domain: str
    """Empty for ONNX's own."""
    name: str
    version: int
    """Of the operator set that it is of."""
    types: tuple[str, ...]
    """Of the inputs in order: tensor(float) and so on, empty for one that is left away."""


@dataclass(frozen=True)
class Share:
    """How much of a graph somebody takes."""

    nodes: int
    partitions: int
    """Pieces that the graph falls into."""


@dataclass(frozen=True)
class Coverage:
    """What one graph takes, and who has it."""

    operators: Mapping[Operator, int]
    """How often each is there."""
    without_kernel: tuple[Operator, ...]
    """Of them, those that the processor has no kernel for."""
    shares: Mapping[str, Share]
    """By whom: NNAPI, Core ML."""
    nodes_offered: int
    """Nodes of the graph that NNAPI and Core ML are offered: nothing of it is fused yet."""

    @property
    def nodes(self) -> int:
        return sum(self.operators.values())


def cover(graph: Path, source: Path) -> Coverage:
    """graph: a file in the format of ORT mobile; source: the ONNX graph that it was made of.

    Raises what onnxruntime raises when the file does not open with the processor's kernels alone.
    """
    from onnxruntime import InferenceSession
    from onnxruntime.tools.mobile_helpers import usability_checker as checker

    InferenceSession(str(graph), providers=[PROCESSOR])
    operators = Counter(operators_of(graph))
    model = _offered(source)
    nnapi = checker.check_nnapi_partitions(model, require_fixed_input_sizes=False)
    coreml = checker.check_coreml_partitions(model, False, COREML_OPERATORS)
    shares = {"NNAPI": Share(nnapi.num_supported_nodes, nnapi.num_partitions),
              "Core ML": Share(coreml.num_supported_nodes, coreml.num_partitions)}
    has_kernel = kernel_finder()
    return Coverage(operators, tuple(operator for operator in operators if not has_kernel(operator)), shares,
                    nnapi.num_nodes)


def _offered(source: Path) -> Any:
    """The graph with its constants worked out, as a provider that compiles gets it."""
    import onnx
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as work:
        options.optimized_model_filepath = str(Path(work) / "offered.onnx")
        InferenceSession(str(source), options, providers=[PROCESSOR])
        return onnx.load(options.optimized_model_filepath, load_external_data=False)


def operators_of(graph: Path) -> Iterator[Operator]:
    """One for each node of a file in the format of ORT mobile."""
    for node, types in typed_nodes(bytearray(graph.read_bytes())):
        inputs = [node.Inputs(place) for place in range(node.InputsLength())]
        yield Operator((node.Domain() or b"").decode(), node.OpType().decode(), node.SinceVersion(),
                       tuple(types.get(name, "") for name in inputs))


def kernel_finder() -> Callable[[Operator], bool]:
    """Tells whether the installed onnxruntime lists a kernel of the processor for an operator."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema, get_all_opkernel_def

    kernels: dict[tuple[str, str], list[Any]] = {}
    for kernel in get_all_opkernel_def():
        if kernel.provider == PROCESSOR:
            kernels.setdefault((kernel.domain, kernel.op_name), []).append(kernel)
    schemas = {(schema.domain, schema.name, schema.since_version): schema for schema in get_all_operator_schema()}

    def has_kernel(operator: Operator) -> bool:
        schema = schemas.get((operator.domain, operator.name, operator.version))
        names = _type_names(schema, len(operator.types)) if schema else []
        return any(_fits(kernel, operator, names) for kernel in kernels.get((operator.domain, operator.name), ()))

    return has_kernel


def _type_names(schema: Any, count: int) -> list[str]:
    """The names that a schema gives the types of the first inputs; its last input may come many times."""
    names = [value.typeStr for value in schema.inputs]
    return (names + names[-1:] * count)[:count]


def _fits(kernel: Any, operator: Operator, names: list[str]) -> bool:
    first, last = kernel.version_range
    given = zip(names, operator.types, strict=False)
    return first <= operator.version <= last and all(
        found in kernel.type_constraints.get(name, [found]) for name, found in given if found)
