"""Graphs stored smaller compute nearly the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from minicpm_o.checkpoints.graphs.builder import FLOAT, GraphBuilder
from minicpm_o.web.small import shrink

X = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)


def saved(path: Path, bits: int | None) -> Path:
    """A graph of one matrix of 64 x 48 and a bias."""
    graph, rng = GraphBuilder("one"), np.random.default_rng(1)
    graph.input("x", FLOAT, ["rows", 64])
    graph.output("y", FLOAT, ["rows", 48])
    weight, bias = rng.normal(size=(48, 64)).astype(np.float32), rng.normal(size=48).astype(np.float32)
    graph.linear("x", weight, bias, "layer", bits=bits, out="y")
    graph.save(path, external=True)
    return path


def run(path: Path) -> np.ndarray:
    return np.asarray(ort.InferenceSession(str(path)).run(["y"], {"x": X})[0])


@pytest.mark.parametrize(("bits", "share", "error"), [(16, 0.55, 2e-3), (8, 0.32, 2e-2)])
def test_floats_take_less_room(tmp_path: Path, bits: int, share: float, error: float) -> None:
    whole, small = saved(tmp_path / "whole.onnx", None), tmp_path / "small.onnx"
    shrink(whole, small, bits=bits)
    sizes = [path.with_name(path.name + ".data").stat().st_size for path in (small, whole)]
    assert sizes[0] <= share * sizes[1]
    assert np.abs(run(small) - run(whole)).max() <= error * np.abs(run(whole)).max()


def test_packed_matrices_are_multiplied_in_floats(tmp_path: Path) -> None:
    whole, small = saved(tmp_path / "whole.onnx", 8), tmp_path / "small.onnx"
    shrink(whole, small)
    nodes = [node for node in onnx.load(str(small), load_external_data=False).graph.node
             if node.op_type == "MatMulNBits"]
    assert nodes and all(attribute.name != "accuracy_level" for node in nodes for attribute in node.attribute)
    assert np.abs(run(small) - run(whole)).max() <= 2e-2 * np.abs(run(whole)).max()
