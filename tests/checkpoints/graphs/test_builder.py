from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.builder import FLOAT, GraphBuilder, pack_nbits, take, unpack_nbits
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
