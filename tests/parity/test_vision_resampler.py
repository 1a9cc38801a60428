"""Tower and resampler against the reference classes: padded batch, each piece alone, and the exported graph."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.siglip import FILE_NAME, build_siglip
from minicpm_o.inputs.slices import from_strip, normalise
from minicpm_o.model.config import OfficialConfig
from minicpm_o.model.encoders.packing import pack_pieces
from minicpm_o.runtime.device import DevicePlan, make_session
from minicpm_o.runtime.navit import VisionSession
from oracle import assert_close, load_inputs, load_outputs, load_weights, oracle_cases, read_config, torch_weights

ATOL = 1e-4
PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())
CASES = pytest.mark.parametrize("case", oracle_cases("_01_vision_resampler"))


@dataclass(frozen=True)
class Pictures:
    """All prompts' pieces in a row, as the reference packs them, and what it made of them."""

    pieces: list[np.ndarray]
    grid_sizes: np.ndarray
    features: list[np.ndarray]
    tokens: np.ndarray


def read_case(case: Path, config: OfficialConfig) -> Pictures:
    inputs, outputs = load_inputs(case), load_outputs(case)
    prompts = sorted(int(name.split(".")[1]) for name in inputs if name.startswith("tgt_sizes."))
    sizes = [inputs[f"tgt_sizes.{prompt}"] for prompt in prompts]
    names = [f"pixel_u8.{prompt}.{piece}" for prompt, rows in zip(prompts, sizes, strict=True)
             for piece in range(len(rows))]
    pieces = [from_strip(normalise(inputs[name]), config.vision.patch_px) for name in names]
    return Pictures(pieces, np.concatenate(sizes), [outputs[f"vpm_last_hidden.{i}"] for i in range(len(pieces))],
                    np.concatenate([outputs[f"vision_embedding.{prompt}"] for prompt in prompts]))


def modules(case: Path, config: OfficialConfig, attention: str = "sdpa"):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from minicpm_o.model.encoders.query_resampler import QueryResampler
    from minicpm_o.model.encoders.siglip import SiglipTower

    tower = SiglipTower(config.vision, attention).eval()
    tower.load_state_dict(torch_weights(case, "vpm."))
    resampler = QueryResampler(config.resampler, config.vision.width, config.language.width).eval()
    resampler.load_state_dict(torch_weights(case, "resampler."))
    return tower, resampler


@CASES
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_tower_sees_what_the_reference_sees(case: Path, attention: str) -> None:
    config = read_config(case)
    tower, _ = modules(case, config, attention)
    import torch

    pictures = read_case(case, config)
    packed = pack_pieces(pictures.pieces, pictures.grid_sizes, side=config.vision.grid)
    with torch.no_grad():
        features = tower(*map(torch.from_numpy, (packed.patches, packed.position_ids, packed.valid))).numpy()
    for index, expected in enumerate(pictures.features):
        assert_close(features[index, : len(expected)], expected, ATOL, f"features of piece {index}")


@CASES
@pytest.mark.parametrize("batch_pieces", [1, 2, 16])
def test_tokens_in_groups_of_any_size(case: Path, batch_pieces: int) -> None:
    from minicpm_o.model.encoders.sight import TorchVision

    config = read_config(case)
    config = replace(config, vision=replace(config.vision, batch_pieces=batch_pieces))
    pictures = read_case(case, config)
    tokens = TorchVision(*modules(case, config)).encode(pictures.pieces, pictures.grid_sizes)
    assert_close(tokens, pictures.tokens, ATOL, f"tokens in groups of {batch_pieces}")


@CASES
def test_the_graph_sees_what_the_reference_sees(case: Path, tmp_path: Path) -> None:
    config = read_config(case)
    weights = load_weights(case, "vpm."), load_weights(case, "resampler.")
    build_siglip(*weights, config, bits=None, block_size=32, folder=tmp_path)
    session = VisionSession(make_session(tmp_path / FILE_NAME, PLAN, kind="vision"), config.vision)
    pictures = read_case(case, config)
    assert_close(session.encode(pictures.pieces, pictures.grid_sizes), pictures.tokens, ATOL, "tokens of the graph")
