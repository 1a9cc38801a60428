"""Operators of a graph, and whether there are kernels for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.builder import FLOAT, MICROSOFT, GraphBuilder
from minicpm_o.mobile.coverage import Operator, cover, kernel_finder, operators_of
from minicpm_o.mobile.ort_format import to_ort

PACKED = Operator(MICROSOFT, "MatMulNBits", 1, ("tensor(float)", "tensor(uint8)", "tensor(float)"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A packed matrix, an ordinary one and a softmax."""
    graph, rng = GraphBuilder("some"), np.random.default_rng(0)
    graph.input("x", FLOAT, ["rows", 64])
    graph.output("y", FLOAT, ["rows", 48])
    packed = graph.linear("x", rng.normal(size=(64, 64)).astype(np.float32), None, "packed", bits=8)
    plain = graph.linear(packed, rng.normal(size=(48, 64)).astype(np.float32), None, "plain", bits=None)
    graph.node("Softmax", [plain], "soft", out="y", axis=-1)
    graph.save(tmp_path / "some.onnx")
    to_ort(tmp_path / "some.onnx", tmp_path / "some.ort")
    return tmp_path / "some.onnx"


def test_operators_come_with_their_types(source: Path) -> None:
    found = list(operators_of(source.with_suffix(".ort")))
    assert found == [PACKED, Operator("", "MatMul", 13, ("tensor(float)",) * 2),
                     Operator("", "Softmax", 13, ("tensor(float)",))]


def test_a_graph_is_covered(source: Path) -> None:
    found = cover(source.with_suffix(".ort"), source)
    assert found.nodes == found.nodes_offered == 3
    assert found.without_kernel == ()
    assert {name: share.nodes for name, share in found.shares.items()} == {"NNAPI": 2, "Core ML": 2}


def test_a_missing_kernel_is_noticed() -> None:
    has_kernel = kernel_finder()
    assert has_kernel(PACKED)
    assert not has_kernel(Operator(MICROSOFT, "MatMulNBits", 1, ("tensor(string)", *PACKED.types[1:])))
    assert not has_kernel(Operator(MICROSOFT, "MatMulNBits", 0, PACKED.types))
    assert not has_kernel(Operator("", "NoSuchOperator", 1, ("tensor(float)",)))
