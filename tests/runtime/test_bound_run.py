"""A run over memory of ours: read and written in place, and free to be bound anew."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minicpm_o.checkpoints.graphs.builder import FLOAT, GraphBuilder
from minicpm_o.runtime.bound_run import BoundRun
from minicpm_o.runtime.device import DevicePlan, make_session

PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())


def test_what_lies_in_the_memory_counts(tmp_path: Path) -> None:
    graph = GraphBuilder("sum")
    one, other = (graph.input(name, FLOAT, ["n"]) for name in ("one", "other"))
    graph.output("sum", FLOAT, ["n"])
    graph.node("Add", [one, other], "add", out="sum")
    graph.save(tmp_path / "sum.onnx")
    run = BoundRun(make_session(tmp_path / "sum.onnx", PLAN, kind="language"))
    first, second = np.ones(3, np.float32), np.arange(3, dtype=np.float32)
    run.bind(first, "one", "sum")  # the sum takes the first one's place
    run.bind(second, "other")
    run()
    np.testing.assert_array_equal(first, [1, 2, 3])
    second[:] = 10
    run()
    np.testing.assert_array_equal(first, [11, 12, 13])
    run.bind(np.full(3, -1, np.float32), "other")  # nobody else holds it
    run()
    np.testing.assert_array_equal(first, [10, 11, 12])
