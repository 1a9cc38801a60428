"""Stand-ins for networks whose files cannot be had: graphs with the inputs and outputs of the published ones.

The speech tokenizer takes every fourth frame of one mel bin for a token, the speaker network a mean over time for a
voice: enough to see what goes in and what comes out, and nothing of a voice.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

FLOAT, INT32, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64


def save(path: Path, nodes, inputs, outputs, constants) -> None:
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    values = [[helper.make_tensor_value_info(*value) for value in group] for group in (inputs, outputs)]
    tensors = [numpy_helper.from_array(np.array(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "stand-in", *values, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def save_tokenizer(path: Path, scale: float = 100) -> None:
    """Tokens are scale (x + 3) of bin 5 at every fourth frame of the stated length, halved lengths rounded up."""
    node = onnx.helper.make_node
    nodes = [
        node("Cast", ["length"], ["end"], to=INT64),
        node("Slice", ["mel", "first", "end", "time", "four"], ["kept"]),
        node("Gather", ["kept", "bin"], ["row"], axis=1),
        node("Add", ["row", "three"], ["raised"]),
        node("Mul", ["raised", "scale"], ["scaled"]),
        node("Cast", ["scaled"], ["tokens"], to=INT32),
    ]
    constants = {"first": np.int64([0]), "time": np.int64([2]), "four": np.int64([4]), "bin": np.int64(5),
                 "three": np.float32(3), "scale": np.float32(scale)}
    save(path, nodes, [("mel", FLOAT, [1, 128, "T"]), ("length", INT32, [1])], [("tokens", INT32, [1, "P"])], constants)


def save_speaker(path: Path) -> None:
    """The vector is the mean square over time of each filter, tiled to 192."""
    node = onnx.helper.make_node
    nodes = [
        node("Mul", ["frames", "frames"], ["squares"]),
        node("ReduceMean", ["squares", "time"], ["mean"], keepdims=0),
        node("Gather", ["mean", "places"], ["vector"], axis=1),
    ]
    constants = {"time": np.int64([1]), "places": np.arange(192, dtype=np.int64) % 80}
    save(path, nodes, [("frames", FLOAT, ["B", "T", 80])], [("vector", FLOAT, ["B", 192])], constants)
