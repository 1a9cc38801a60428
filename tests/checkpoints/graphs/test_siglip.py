"""The exported eye of the official checkpoints: the graph is the modules, at every number of bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.bundle import Bundle, FileEntry
from minicpm_o.checkpoints.graphs.siglip import FILE_NAME, build_siglip
from minicpm_o.errors import CheckpointError, ImageError, OptionError
from minicpm_o.model.config import LanguageConfig, NanoConfig, OfficialConfig, QueryResamplerConfig, SiglipConfig
from minicpm_o.model.encoders.positions import bucket_ids, grid_places
from minicpm_o.runtime.device import DevicePlan, make_session
from minicpm_o.runtime.navit import VisionSession

PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())
CONFIG = OfficialConfig(
    name="tiny", version="4.5", language=LanguageConfig(width=64),
    vision=SiglipConfig(width=48, ffn=80, layers=2, heads=3, image_px=70, patch_px=14, batch_pieces=2),
    resampler=QueryResamplerConfig(queries=6, head_width=16), hearing=None)
SIZES = np.array([[2, 3], [9, 1], [4, 4], [1, 80]])


@pytest.fixture(scope="module")
def vision():
    """The modules in torch, their weights spread wide enough for every one to matter."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from minicpm_o.model.encoders.query_resampler import QueryResampler
    from minicpm_o.model.encoders.sight import TorchVision
    from minicpm_o.model.encoders.siglip import SiglipTower

    torch.manual_seed(0)
    tower = SiglipTower(CONFIG.vision).eval()
    resampler = QueryResampler(CONFIG.resampler, CONFIG.vision.width, CONFIG.language.width).eval()
    for parameter in (*tower.parameters(), *resampler.parameters()):
        torch.nn.init.normal_(parameter, std=0.2)
    return TorchVision(tower, resampler)


@pytest.fixture
def weights(vision) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return tuple({name: tensor.numpy() for name, tensor in module.state_dict().items()}
                 for module in (vision.tower, vision.resampler))


@pytest.fixture
def pieces() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(rows * columns, 588)).astype(np.float32) for rows, columns in SIZES.tolist()]


def build(folder: Path, weights, bits: int | None = None, block_size: int = 16) -> VisionSession:
    build_siglip(*weights, CONFIG, bits=bits, block_size=block_size, folder=folder)
    return VisionSession(make_session(folder / FILE_NAME, PLAN, kind="vision"), CONFIG.vision)


@pytest.mark.parametrize(("bits", "most", "mean"), [(None, 1e-4, 1e-5), (8, 0.1, 0.015), (4, 0.6, 0.12)])
def test_the_graph_is_the_modules(tmp_path, vision, weights, pieces, bits, most, mean) -> None:
    """Bounds in units of the tokens' spread; blocks of 16 numbers."""
    got, expected = build(tmp_path, weights, bits).encode(pieces, SIZES), vision.encode(pieces, SIZES)
    assert got.shape == (len(SIZES), CONFIG.resampler.queries, CONFIG.language.width) and got.dtype == np.float32
    error = np.abs(got - expected) / expected.std()
    assert error.max() <= most and error.mean() <= mean, f"{bits} bits: max {error.max():.2e}, mean {error.mean():.2e}"


def test_a_width_that_is_no_multiple_of_the_block(tmp_path, vision, weights, pieces) -> None:
    got, expected = build(tmp_path, weights, 8, 64).encode(pieces, SIZES), vision.encode(pieces, SIZES)
    error = np.abs(got - expected) / expected.std()
    assert error.mean() <= 0.02, f"mean {error.mean():.2e}"


def test_alone_as_in_a_batch_of_one_size(tmp_path, open_graph, weights, pieces) -> None:
    session = build(tmp_path, weights)
    run = open_graph(tmp_path / FILE_NAME)
    both = np.stack([pieces[2], pieces[2][::-1]])
    sizes = np.array([[4, 4], [2, 8]])
    together = run({"patches": both, "position_ids": np.stack([bucket_ids(*size, 5) for size in sizes.tolist()]),
                    "places": np.stack([grid_places(*size) for size in sizes.tolist()])})["tokens"]
    alone = session.encode(list(both), sizes)
    assert np.abs(together - alone).max() <= 1e-5
    assert np.abs(alone[0] - alone[1]).max() > 1e-2


def test_quantised_files_are_smaller(tmp_path, weights) -> None:
    sizes = []
    for bits in (None, 8, 4):
        folder = tmp_path / str(bits)
        folder.mkdir()
        build(folder, weights, bits)
        sizes.append((folder / f"{FILE_NAME}.data").stat().st_size)
    assert sizes[0] > sizes[1] > sizes[2]


def test_wrong_pieces(tmp_path, weights, pieces) -> None:
    session = build(tmp_path, weights)
    with pytest.raises(ImageError, match=r"piece 1 has shape \(9, 588\), but a grid of 3 rows and 2 columns"):
        session.encode(pieces[:2], np.array([[2, 3], [3, 2]]))
    with pytest.raises(ImageError, match="0 pieces of pictures"):
        session.encode([], np.zeros((0, 2), np.int64))


def test_absent_and_misshapen_tensors_are_named(tmp_path, weights) -> None:
    tower, resampler = weights
    absent = "encoder.layers.1.mlp.fc2.bias"
    with pytest.raises(CheckpointError, match=f"no tensor '{absent}'"):
        build_siglip({name: array for name, array in tower.items() if name != absent}, resampler, CONFIG, bits=None,
                     block_size=32, folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"'proj' has shape \(64, 32\), the config says \(64, 64\)"):
        build_siglip(tower, resampler | {"proj": resampler["proj"][:, :32]}, CONFIG, bits=8, block_size=32,
                     folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrong_options(tmp_path, weights) -> None:
    with pytest.raises(OptionError, match="4 or 8 bits"):
        build_siglip(*weights, CONFIG, bits=3, block_size=32, folder=tmp_path)
    with pytest.raises(CheckpointError, match="the config of tiny has no vision"):
        build_siglip(*weights, replace(CONFIG, vision=None), bits=None, block_size=32, folder=tmp_path)


def test_from_a_bundle(tmp_path, weights, pieces) -> None:
    expected = build(tmp_path, weights).encode(pieces, SIZES)
    bundle = Bundle(tmp_path, "tiny", CONFIG, {}, {FILE_NAME: FileEntry("", 0)}, {})
    np.testing.assert_array_equal(VisionSession.from_bundle(bundle, PLAN).encode(pieces, SIZES), expected)


def test_a_bundle_without_the_tower_is_refused(tmp_path) -> None:
    bundle = Bundle(tmp_path, "nano", NanoConfig(), {}, {}, {})
    with pytest.raises(CheckpointError, match=r"\(nano\) has no SigLIP tower"):
        VisionSession.from_bundle(bundle, PLAN)
