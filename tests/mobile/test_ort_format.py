"""Files in the format of ORT mobile: the same numbers, and nothing that an older runtime need not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from minicpm_o.checkpoints.graphs.builder import FLOAT, MICROSOFT, GraphBuilder
from minicpm_o.mobile.ort_format import drop_defaults, own_defaults, to_ort, typed_nodes, write_operators

X = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """One packed matrix of 64 x 48."""
    builder = GraphBuilder("one")
    builder.input("x", FLOAT, ["rows", 64])
    builder.output("y", FLOAT, ["rows", 48])
    builder.linear("x", np.random.default_rng(1).normal(size=(48, 64)).astype(np.float32), None, "layer", bits=4,
                   out="y")
    path = tmp_path / "one.onnx"
    builder.save(path)
    return path


def attributes(path: Path) -> dict[str, set[str]]:
    """By operator: the attributes that its nodes have in the file."""
    found: dict[str, set[str]] = {}
    for node, _ in typed_nodes(bytearray(path.read_bytes())):
        names = {node.Attributes(place).Name().decode() for place in range(node.AttributesLength())}
        found.setdefault(node.OpType().decode(), set()).update(names)
    return found


def test_the_numbers_are_the_same(graph: Path) -> None:
    target = graph.with_suffix(".ort")
    to_ort(graph, target)
    found, expected = (ort.InferenceSession(str(path)).run(["y"], {"x": X})[0] for path in (target, graph))
    np.testing.assert_array_equal(found, expected)


def test_what_the_schema_says_anyway_is_not_in_the_file(graph: Path) -> None:
    target = graph.with_suffix(".ort")
    to_ort(graph, target)
    (node,) = (node for node in onnx.load(str(graph)).graph.node if node.domain == MICROSOFT)
    (found,) = attributes(target).values()
    assert found == {attribute.name for attribute in node.attribute} - {"bits"}, "4 bits are what the schema says"
    before = target.read_bytes()
    content = bytearray(before)
    drop_defaults(content)
    assert content == before, "a second time there is nothing to drop"


def test_what_differs_from_the_schema_stays(tmp_path: Path) -> None:
    builder = GraphBuilder("one")
    builder.input("x", FLOAT, ["rows", 64])
    builder.output("y", FLOAT, ["rows", 48])
    builder.linear("x", np.ones((48, 64), np.float32), None, "layer", bits=8, out="y")
    builder.save(tmp_path / "one.onnx")
    to_ort(tmp_path / "one.onnx", tmp_path / "one.ort")
    assert {"bits", "accuracy_level"} <= attributes(tmp_path / "one.ort")["MatMulNBits"]


def test_defaults_are_the_installed_schemas() -> None:
    defaults = own_defaults()["MatMulNBits"]
    assert defaults["bits"] == (onnx.AttributeProto.INT, 4)
    assert "K" not in defaults, "there is no default for what must be said"


def test_operators_are_listed_without_a_folder(graph: Path, tmp_path: Path) -> None:
    target = graph.with_suffix(".ort")
    to_ort(graph, target)
    write_operators([target], tmp_path / "operators.config")
    words = (tmp_path / "operators.config").read_text()
    assert "com.microsoft;1;MatMulNBits" in words and "# - one.ort" in words
    assert str(tmp_path) not in words
