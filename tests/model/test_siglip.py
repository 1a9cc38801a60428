"""Tower and resampler in torch: pieces do not see each other or padding, and what is wrong is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from minicpm_o.errors import ImageError  # noqa: E402
from minicpm_o.model.config import QueryResamplerConfig, SiglipConfig  # noqa: E402
from minicpm_o.model.encoders.packing import pack_pieces  # noqa: E402
from minicpm_o.model.encoders.positions import grid_places, place_sincos  # noqa: E402
from minicpm_o.model.encoders.query_resampler import QueryResampler  # noqa: E402
from minicpm_o.model.encoders.sight import TorchVision, piece_tokens  # noqa: E402
from minicpm_o.model.encoders.siglip import SiglipTower  # noqa: E402

TINY = SiglipConfig(width=24, ffn=40, layers=2, heads=3, image_px=70, patch_px=14, batch_pieces=2)
READING = QueryResamplerConfig(queries=5, head_width=8)
WIDTH = 32
SIZES = np.array([[2, 3], [9, 1], [1, 1], [4, 4], [3, 2]])


def sight(config: SiglipConfig = TINY, attention: str = "sdpa") -> TorchVision:
    """Weights far enough from their first values that every one of them matters."""
    torch.manual_seed(0)
    tower = SiglipTower(config, attention).eval()
    resampler = QueryResampler(READING, config.width, WIDTH).eval()
    for parameter in (*tower.parameters(), *resampler.parameters()):
        torch.nn.init.normal_(parameter, std=0.3)
    return TorchVision(tower, resampler)


def pieces(sizes: np.ndarray = SIZES) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(rows * columns, 588)).astype(np.float32) for rows, columns in sizes.tolist()]


def assert_close(got: np.ndarray, expected: np.ndarray, atol: float, what: str) -> None:
    error = np.abs(got - expected)
    assert error.max() <= atol, f"{what}: max {error.max():.2e}, mean {error.mean():.2e}, allowed {atol:g}"


def test_names_of_the_weights_are_the_official_ones() -> None:
    vision = sight()
    parts = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2", "self_attn.k_proj", "self_attn.out_proj",
             "self_attn.q_proj", "self_attn.v_proj")
    layer = [f"{name}.{kind}" for name in parts for kind in ("bias", "weight")]
    around = ["embeddings.patch_embedding.bias", "embeddings.patch_embedding.weight",
              "embeddings.position_embedding.weight", "post_layernorm.bias", "post_layernorm.weight"]
    expected = {*around, *(f"encoder.layers.{index}.{name}" for index in range(TINY.layers) for name in layer)}
    assert set(vision.tower.state_dict()) == expected
    norms = {f"{name}.{kind}" for name in ("ln_q", "ln_kv", "ln_post") for kind in ("bias", "weight")}
    assert set(vision.resampler.state_dict()) == norms | {
        "query", "proj", "kv_proj.weight", "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight",
        "attn.out_proj.bias"}


def test_alone_as_in_a_batch() -> None:
    vision, given = sight(), pieces()
    together = vision.encode(given, SIZES)
    assert together.shape == (5, READING.queries, WIDTH) and together.dtype == np.float32
    for index, piece in enumerate(given):
        assert_close(vision.encode([piece], SIZES[index : index + 1])[0], together[index], 1e-5, f"piece {index}")
    assert np.abs(together[0] - together[4]).max() > 1e-2


def test_the_size_of_the_groups_does_not_matter() -> None:
    given = pieces()
    expected = sight().encode(given, SIZES)
    for size in (1, 3, 16):
        assert_close(sight(replace(TINY, batch_pieces=size)).encode(given, SIZES), expected, 1e-5, f"groups of {size}")


def test_the_tower_splits_a_batch_into_groups() -> None:
    vision = sight()
    packed = pack_pieces(pieces(), SIZES, side=TINY.grid)
    with torch.no_grad():
        tokens = piece_tokens(vision.tower, vision.resampler, packed).numpy()
    assert_close(tokens, vision.encode(pieces(), SIZES), 1e-5, "one batch of five, two at a time")


def test_what_stands_in_padding_does_not_matter() -> None:
    vision = sight()
    packed = pack_pieces(pieces(), SIZES, side=TINY.grid)
    dirty = replace(packed, patches=np.where(packed.valid[..., None], packed.patches, 7).astype(np.float32),
                    places=np.where(packed.valid[..., None], packed.places, 3))
    with torch.no_grad():
        clean, noisy = (piece_tokens(vision.tower, vision.resampler, batch).numpy() for batch in (packed, dirty))
    assert_close(noisy, clean, 1e-5, "tokens with rubbish in the padding")


def test_attention_of_every_kind_agrees() -> None:
    assert_close(sight(attention="eager").encode(pieces(), SIZES), sight().encode(pieces(), SIZES), 1e-5, "eager")


def test_places_matter_and_grids_beyond_the_table_work() -> None:
    vision, (piece,) = sight(), pieces(np.array([[6, 4]]))
    tall, wide = (vision.encode([piece], np.array([size])) for size in ((6, 4), (4, 6)))
    assert np.abs(tall - wide).max() > 1e-2
    (long,) = pieces(np.array([[1, 90]]))
    assert np.isfinite(vision.encode([long], np.array([[1, 90]]))).all()


def test_positions_are_those_of_the_table() -> None:
    places = grid_places(11, 101)
    got = QueryResampler(READING, TINY.width, WIDTH).positions(torch.from_numpy(places)).numpy()
    assert_close(got, place_sincos(places, WIDTH), 1e-6, "sines and cosines")


def test_recomputing_changes_no_gradient() -> None:
    packed = pack_pieces(pieces(SIZES[:2]), SIZES[:2], side=TINY.grid)      # one group
    gradients, passes = [], []
    for recompute in (False, True):
        vision = sight()
        vision.tower.train().recompute = recompute
        calls: list[int] = []
        vision.tower.encoder["layers"][0].self_attn.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        piece_tokens(vision.tower, vision.resampler, packed).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in vision.tower.named_parameters()})
        passes.append(len(calls))
    assert passes == [1, 2], "a layer is run again on the way back"
    for name, kept in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], kept, rtol=1e-4, atol=1e-4)
        # What is added to all keys alike changes no attention.
        assert name.endswith("k_proj.bias") or kept.abs().max() > 0, name


def test_half_precision() -> None:
    vision = sight()
    expected = vision.encode(pieces(), SIZES)
    half = TorchVision(vision.tower.to(torch.bfloat16), vision.resampler.to(torch.bfloat16))
    got = half.encode(pieces(), SIZES)
    assert got.dtype == np.float32
    error = np.abs(got - expected).mean() / np.abs(expected).mean()
    assert error < 3e-2, f"bfloat16 differs by {error:.3f} of the mean value"


def test_wrong_pieces() -> None:
    vision, given = sight(), pieces()
    with pytest.raises(ImageError, match=r"piece 1 has shape \(9, 588\), but a grid of 2 rows and 4 columns"):
        vision.encode(given[:2], np.array([[2, 3], [2, 4]]))
    with pytest.raises(ImageError, match=r"0 pieces of pictures come with grid sizes of shape \(0, 2\)"):
        vision.encode([], np.zeros((0, 2), np.int64))
    with pytest.raises(ImageError, match=r"2 pieces of pictures come with grid sizes of shape \(5, 2\)"):
        vision.encode(given[:2], SIZES)
    with pytest.raises(ImageError, match="piece 1 hold 147 numbers, those of piece 0 588"):
        vision.encode([given[0], given[1][:, :147]], SIZES[:2])
    with pytest.raises(ImageError, match="a grid of 0 rows"):
        vision.encode([np.zeros((0, 588), np.float32)], np.array([[0, 3]]))
