from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs import builder
from minicpm_o.checkpoints.graphs.builder import (
    FLOAT,
    GraphBuilder,
    hearing_errors,
    pack_nbits,
    take,
    unpack_nbits,
)
from minicpm_o.errors import CheckpointError, OptionError


@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (8, False), (4, True), (4, False)])
def test_rounding_is_at_most_half_a_step(rng, bits, symmetric, block_size):
    weight = rng.normal(size=(7, 100)).astype(np.float32)  # 100 fills no block size: the last block is short
    packed, scales, zeros = pack_nbits(weight, bits, block_size, symmetric=symmetric)
    blocks = -(-100 // block_size)
    assert packed.shape == (7, blocks, block_size * bits // 8)
    assert packed.dtype == np.uint8
    assert scales.shape == (7, blocks)
    assert scales.dtype == np.float32
    assert (zeros is None) == symmetric
    error = np.abs(unpack_nbits(packed, scales, zeros, bits, 100) - weight)
    step = np.abs(scales).repeat(block_size, axis=1)[:, :100]
    # 4 bits symmetric: the end opposite to the largest value lacks one level. Lopsided: the zero point rounds as well.
    assert (error <= step * (1.0 if bits == 4 or not symmetric else 0.5) + 1e-6).all()
    assert (error <= 0.5 * step + 1e-6).mean() > 0.95


def test_default_is_lopsided_at_4_bits_only(rng):
    weight = rng.normal(size=(4, 64)).astype(np.float32)
    assert pack_nbits(weight, 4, 32)[2] is not None
    assert pack_nbits(weight, 8, 32)[2] is None


def test_weights_of_int8_origin_survive_8_bits_exactly(rng):
    levels = rng.integers(-127, 128, size=(5, 64)).astype(np.float32)
    levels[:, ::32] = 127
    weight = levels * np.float32(2**-7)
    assert (unpack_nbits(*pack_nbits(weight, 8, 32), 8, 64) == weight).all()


def test_a_block_of_zeros_stays_zero():
    for bits in (4, 8):
        packed, scales, zeros = pack_nbits(np.zeros((3, 64), dtype=np.float32), bits, 32)
        assert (unpack_nbits(packed, scales, zeros, bits, 64) == 0).all()
        assert np.isfinite(scales).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [64, 100])
def test_the_runtime_multiplies_what_unpack_reads(rng, tmp_path, open_graph, bits, columns):
    weight = rng.normal(size=(24, columns)).astype(np.float32)
    bias = rng.normal(size=24).astype(np.float32)
    x = rng.normal(size=(3, columns)).astype(np.float32)
    graph = GraphBuilder("one_matrix")
    graph.input("x", FLOAT, ["rows", columns])
    graph.output("y", FLOAT, ["rows", 24])
    graph.linear("x", weight, bias, "matrix", bits=bits, block_size=32, out="y")
    graph.save(tmp_path / "one.onnx")
    got = open_graph(tmp_path / "one.onnx")({"x": x})["y"]
    expected = x @ unpack_nbits(*pack_nbits(weight, bits, 32), bits, columns).T + bias
    error = np.abs(got - expected)
    # the activations are rounded to 127 steps a block: some hundredths of a sum of a hundred terms of size one
    assert error.max() < 0.02 * np.abs(expected).max(), f"max {error.max():.4f}, mean {error.mean():.4f}"


def test_external_tensors_are_the_same_graph(rng, tmp_path, open_graph):
    weight = rng.normal(size=(64, 64)).astype(np.float32)
    x = rng.normal(size=(2, 64)).astype(np.float32)
    outputs = []
    for external in (False, True):
        graph = GraphBuilder("one_matrix")
        graph.input("x", FLOAT, ["rows", 64])
        graph.output("y", FLOAT, ["rows", 64])
        graph.linear("x", weight, None, "matrix", bits=None, out="y")
        path = tmp_path / f"{external}.onnx"
        graph.save(path, external=external)
        assert (tmp_path / f"{external}.onnx.data").exists() == external
        outputs.append(open_graph(path)({"x": x})["y"])
    assert (outputs[0] == outputs[1]).all()
    assert (tmp_path / "True.onnx").stat().st_size < 1000


def test_writing_twice_gives_the_same_bytes(rng, tmp_path):
    weight = rng.normal(size=(64, 64)).astype(np.float32)
    for name in ("a", "b"):
        graph = GraphBuilder("one_matrix")
        graph.input("x", FLOAT, ["rows", 64])
        graph.output("y", FLOAT, ["rows", 64])
        graph.linear("x", weight, None, "matrix", bits=8, out="y")
        graph.save(tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_two_tensors_of_one_name_are_refused(rng):
    graph = GraphBuilder("twice")
    graph.constant("w", np.zeros(3, dtype=np.float32))
    graph.constant("w", np.zeros(3, dtype=np.float32))
    with pytest.raises(ValueError, match="two tensors are named 'w'"):
        graph.constant("w", np.ones(3, dtype=np.float32))


def test_absent_and_misshapen_tensors_are_named():
    with pytest.raises(CheckpointError, match=r"no tensor 'model\.norm\.weight'"):
        take({}, "model.norm.weight", [4])
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight' has shape \(3,\), the config says \(4,\)"):
        take({"model.norm.weight": np.zeros(3)}, "model.norm.weight", [4])


@pytest.mark.parametrize(("bits", "block_size", "words"), [(3, 32, "4 or 8 bits"), (4, 48, "power of two"),
                                                           (8, 8, "power of two")])
def test_bits_and_blocks_that_do_not_run_are_refused(bits, block_size, words):
    with pytest.raises(OptionError, match=words):
        pack_nbits(np.zeros((2, 64), dtype=np.float32), bits, block_size)


@pytest.mark.parametrize("bits", [4, 8])
def test_parts_of_a_matrix_a_few_rows_at_a_time_are_the_matrix(rng, monkeypatch, bits):
    weight = rng.normal(size=(50, 70)).astype(np.float16)
    whole = pack_nbits(weight.astype(np.float32), bits, 16)
    monkeypatch.setattr(builder, "NUMBERS_AT_ONCE", 7 * 70)  # 7 rows, which divide neither part
    for got, expected in zip(pack_nbits([weight[:31], weight[31:]], bits, 16), whole, strict=True):
        assert (got is None and expected is None) or (got == expected).all()


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_a_streamed_graph_is_the_same_file(rng, tmp_path, bits):
    weight, bias = rng.normal(size=(64, 64)).astype(np.float32), rng.normal(size=64).astype(np.float32)

    def fill(graph):
        graph.input("x", FLOAT, ["rows", 64])
        graph.output("y", FLOAT, ["rows", 64])
        graph.linear("x", weight, bias, "first", bits=bits, out="h")
        graph.linear("h", weight, bias, "second", bits=bits, out="y")

    for folder in ("held", "streamed"):
        (tmp_path / folder).mkdir()
    held = GraphBuilder("two")
    fill(held)
    held.save(tmp_path / "held" / "two.onnx", external=True)
    with GraphBuilder.streaming("two", tmp_path / "streamed" / "two.onnx") as streamed:
        fill(streamed)
        assert (tmp_path / "streamed" / "two.onnx.data").stat().st_size > 4000, "nothing was written yet"
    for name in ("two.onnx", "two.onnx.data"):
        assert (tmp_path / "held" / name).read_bytes() == (tmp_path / "streamed" / name).read_bytes()


def test_a_stream_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), GraphBuilder.streaming("half", tmp_path / "half.onnx") as graph:
        graph.constant("w", np.zeros(1000, dtype=np.float32))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_streamed_tensor_cannot_come_twice(tmp_path):
    large = np.zeros(1000, dtype=np.float32)
    with (pytest.raises(ValueError, match="two tensors are named 'w'"),
          GraphBuilder.streaming("twice", tmp_path / "twice.onnx") as graph):
        graph.constant("w", large)
        graph.constant("w", large)


@pytest.mark.parametrize("bits", [4, 8])
def test_errors_of_rounding_are_told(rng, bits):
    weight = rng.normal(size=(24, 100)).astype(np.float32)
    heard = []
    with hearing_errors(heard.append):
        GraphBuilder("g").linear("x", weight, None, "m", bits=bits)
        GraphBuilder("g").linear("x", weight, None, "m", bits=None)
    GraphBuilder("g").linear("x", weight, None, "m", bits=bits)
    rounded = unpack_nbits(*pack_nbits(weight, bits, 32), bits, 100)
    expected = np.linalg.norm(rounded - weight) / np.linalg.norm(weight)
    (error,) = heard
    assert (error.graph, error.matrix, error.bits, error.shape) == ("g", "m", bits, (24, 100))
    assert error.relative_error == pytest.approx(expected, rel=1e-3)
    assert 0 < error.relative_error < (0.2 if bits == 4 else 0.01)
