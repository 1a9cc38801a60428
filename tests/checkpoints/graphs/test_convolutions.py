"""Convolutions of whole numbers as products of matrices: the same numbers, and what does not fit left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from minicpm_o.checkpoints.graphs.convolutions import with_products

IN, OUT, LENGTH = 6, 5, 23


def convolution(taps: int, *, dtype: Any = np.uint8, known: bool = True, zeros: bool = True, **attributes: Any
                ) -> onnx.ModelProto:
    """x (1, IN, L) float32, rounded, and convolved in whole numbers: y (1, OUT, L') int32."""
    rng = np.random.default_rng(taps)
    group = attributes.get("group", 1)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    weight = rng.integers(low, high, (OUT * group, IN // group, taps), endpoint=True).astype(dtype)
    graph = helper.make_graph(
        [helper.make_node("DynamicQuantizeLinear", ["x"], ["levels", "scale", "zero"]),
         helper.make_node("ConvInteger", ["levels", "w" if known else "made", "zero", *(["w_zero"] if zeros else [])],
                          ["y"], name="conv", **attributes),
         *([] if known else [helper.make_node("Identity", ["w"], ["made"])])],
        "convolution", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, IN, "length"])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, "channels", "out"])],
        [numpy_helper.from_array(weight, "w"),
         numpy_helper.from_array(np.array(131 if low == 0 else 3, dtype), "w_zero")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture
def run(open_graph: Any, tmp_path: Path) -> Any:
    """What a model makes of drawn numbers (1, IN, length)."""
    def outputs(model: onnx.ModelProto, length: int = LENGTH) -> np.ndarray:
        onnx.save(model, tmp_path / "convolution.onnx")
        x = np.random.default_rng(1).normal(0.3, 1, (1, IN, length)).astype(np.float32)
        return np.asarray(open_graph(tmp_path / "convolution.onnx")({"x": x})["y"])

    return outputs


@pytest.mark.parametrize("attributes", [
    {}, {"pads": [1, 1]}, {"pads": [3, 0]}, {"dilations": [3], "pads": [3, 3]}, {"dilations": [5]},
    {"strides": [1], "group": 1, "auto_pad": "NOTSET", "pads": [2, 2]}], ids=str)
@pytest.mark.parametrize("taps", [1, 3, 4])
def test_the_same_numbers(taps: int, attributes: dict[str, Any], run: Any) -> None:
    model = convolution(taps, **attributes)
    before = run(model)
    assert with_products(model) == 1
    assert "ConvInteger" not in {node.op_type for node in model.graph.node}
    assert "w" not in {tensor.name for tensor in model.graph.initializer}, "the weights lie in the file twice"
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(run(model), before)
    assert run(model, length=17).shape[2] == 17 + before.shape[2] - LENGTH


@pytest.mark.parametrize("kind", [{"strides": [2]}, {"group": 2}, {"auto_pad": "SAME_UPPER"}, {"known": False},
                                  {"zeros": False}, {"dtype": np.int8}], ids=str)
def test_what_does_not_fit_is_left(kind: dict[str, Any]) -> None:
    model = convolution(3, **kind)
    before = model.SerializeToString(deterministic=True)
    assert with_products(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_two_convolutions_share_their_shapes(run: Any) -> None:
    model = convolution(3, pads=[1, 1])
    twin = helper.make_node("ConvInteger", ["levels", "w", "zero", "w_zero"], ["z"], name="twin", pads=[1, 1])
    model.graph.node.append(twin)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.INT32, [1, "channels", "out"]))
    assert with_products(model) == 2
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(names) == len(set(names)) and sum(name.startswith("products.") for name in names) == 8
    assert run(model).shape == (1, OUT, LENGTH)
