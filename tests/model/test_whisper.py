"""The official hearing in torch: Whisper's encoder as published, whole = chunked, alone = in a batch, training."""

from __future__ import annotations

import pytest

from minicpm_o.checkpoints.official_layout import expected_tensors
from minicpm_o.model.config import OfficialConfig, WhisperEncoderConfig

torch = pytest.importorskip("torch")

from minicpm_o.model.encoders.audio_projector import PooledAudioProjector  # noqa: E402
from minicpm_o.model.encoders.whisper import WhisperTower, encode_padded, offline_bias  # noqa: E402

CONFIG = WhisperEncoderConfig(mel_bins=8, width=16, heads=2, layers=2, ffn=64, max_frames=40, pool_step=5, chunk_s=0.2)
"""Blocks of 10 encoder frames."""
BLOCK = 10
TOKEN_WIDTH = 12


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensor.copy_(centre + 0.3 * torch.randn(tensor.shape, generator=generator))
    return module.eval()


@pytest.fixture
def tower() -> WhisperTower:
    return randomise(WhisperTower(CONFIG))


@pytest.fixture
def projector() -> PooledAudioProjector:
    return randomise(PooledAudioProjector(CONFIG.width, TOKEN_WIDTH, CONFIG.pool_step))


def mel(frames: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, CONFIG.mel_bins, frames, generator=torch.Generator().manual_seed(seed))


def assert_close(got: torch.Tensor, expected: torch.Tensor, atol: float, what: str) -> None:
    assert got.shape == expected.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    worst = (got - expected).abs().max().item()
    assert worst <= atol, f"{what}: differs by up to {worst:.2e}, allowed {atol:.0e}"


def test_names_are_the_official_ones() -> None:
    config = OfficialConfig(name="tiny", version="4.5", hearing=CONFIG)
    width = config.language.width
    expected = {name: shape for name, shape in expected_tensors(config).items() if name.startswith(("apm.", "audio_"))}
    parts = {"apm.": WhisperTower(CONFIG),
             "audio_projection_layer.": PooledAudioProjector(CONFIG.width, width, CONFIG.pool_step)}
    found = {prefix + name: tuple(tensor.shape) for prefix, module in parts.items()
             for name, tensor in module.state_dict().items()}
    assert found == expected


def test_without_a_bias_it_is_transformers_whisper(tower: WhisperTower) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    reference = WhisperEncoder(transformers.WhisperConfig(
        num_mel_bins=CONFIG.mel_bins, d_model=CONFIG.width, encoder_layers=CONFIG.layers, encoder_ffn_dim=CONFIG.ffn,
        encoder_attention_heads=CONFIG.heads, max_source_positions=CONFIG.max_frames, pad_token_id=0)).eval()
    reference.load_state_dict(tower.state_dict())
    log_mel = mel(2 * CONFIG.max_frames, batch=2)
    with torch.no_grad():
        assert_close(tower(log_mel)[0], reference(log_mel).last_hidden_state, 1e-5, "encoder")


@torch.no_grad()
def test_whole_is_chunked(tower: WhisperTower) -> None:
    """Blocks with two frames of context each side, and a cache, are the clip at once under the block-causal bias."""
    log_mel = mel(6 * BLOCK + 2)
    whole, _ = tower(log_mel, offline_bias([log_mel.shape[2]], 3 * BLOCK + 1, CONFIG.chunk_s))
    past, parts = None, []
    for block in range(3):
        before = 2 if block else 0
        chunk = log_mel[:, :, 2 * BLOCK * block - before:2 * BLOCK * (block + 1) + 2]
        kept = torch.arange(BLOCK) + before // 2
        hidden, past = tower(chunk, past=past, kept=kept)
        parts.append(hidden)
    assert past[0][0].shape == (1, CONFIG.heads, 3 * BLOCK, CONFIG.width // CONFIG.heads)
    assert_close(torch.cat(parts, 1), whole[:, :3 * BLOCK], 1e-5, "chunked encoder")


@torch.no_grad()
def test_a_cache_is_a_value(tower: WhisperTower) -> None:
    _, past = tower(mel(20))
    first, _ = tower(mel(20, seed=2), past=past)
    tower(mel(20, seed=3), past=past)
    again, _ = tower(mel(20, seed=2), past=past)
    assert torch.equal(first, again)


@torch.no_grad()
def test_the_last_place_is_repeated_when_they_run_out(tower: WhisperTower) -> None:
    places = torch.tensor([38, 39, 39, 39])
    _, past = tower(mel(76))
    assert past[0][0].shape[2] == 38
    got, _ = tower(mel(8, seed=2), past=past)
    expected, _ = tower(mel(8, seed=2), past=past, positions=places)
    assert torch.equal(got, expected)


def test_offline_bias() -> None:
    """Rows see their block and earlier ones; columns from the number of mel frames on are padding."""
    shown = offline_bias([3, 6], 6, 0.04)[:, 0] == 0
    assert shown.shape == (2, 6, 6)
    assert shown[1].tolist() == [[True] * 2 + [False] * 4] * 2 + [[True] * 4 + [False] * 2] * 2 + [[True] * 6] * 2
    assert shown[0, 5].tolist() == [True] * 3 + [False] * 3
    assert (offline_bias([3, 6], 6, 0.04, fix_padding=True)[0, 0, 5] == 0).tolist() == [True] * 2 + [False] * 4
    assert (offline_bias([9], 6, -1.0) == 0).all()


@torch.no_grad()
def test_alone_is_in_a_batch_when_padding_is_hidden(tower: WhisperTower, projector: PooledAudioProjector) -> None:
    short, long = mel(30), mel(58, seed=2)
    batch = torch.cat([torch.nn.functional.pad(short, (0, 28)), long])
    together = encode_padded(tower, projector, batch, [30, 58], fix_padding=True)
    assert [len(tokens) for tokens in together] == [3, 5]
    for clip, tokens in zip((short, long), together, strict=True):
        assert_close(tokens, encode_padded(tower, projector, clip, [clip.shape[2]])[0], 1e-5, "clip in a batch")


@torch.no_grad()
def test_the_official_padding_is_heard(tower: WhisperTower, projector: PooledAudioProjector) -> None:
    """The quirk that is kept: within its last block a shorter clip hears the zeros behind it."""
    batch = torch.cat([torch.nn.functional.pad(mel(30), (0, 28)), mel(58, seed=2)])
    official, fixed = (encode_padded(tower, projector, batch, [30, 58], fix_padding=fix)[0] for fix in (False, True))
    assert_close(official[:2], fixed[:2], 1e-6, "first block")
    assert (official[2] - fixed[2]).abs().max() > 1e-3


def test_pooling_drops_the_tail(projector: PooledAudioProjector) -> None:
    frames = torch.randn(2, 13, CONFIG.width, generator=torch.Generator().manual_seed(0))
    tokens = projector(frames)
    assert tokens.shape == (2, 2, TOKEN_WIDTH)
    projected = projector.linear2(projector.linear1(frames).relu())
    expected = torch.nn.AvgPool1d(5)(projected.transpose(1, 2)).transpose(1, 2)
    assert_close(tokens, expected, 1e-6, "pooled tokens")
    assert projector(frames[:, :4]).shape == (2, 0, TOKEN_WIDTH)


def test_checkpointed_gradients_are_the_same(tower: WhisperTower) -> None:
    gradients = []
    for checkpointed in (False, True):
        tower.zero_grad()
        tower.train()
        tower.gradient_checkpointing = checkpointed
        hidden, presents = tower(mel(20), offline_bias([20], 10, CONFIG.chunk_s))
        assert len(presents) == (0 if checkpointed else CONFIG.layers)
        hidden.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in tower.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert_close(checkpointed, plain, 1e-5, "gradient")


@torch.no_grad()
def test_float16_is_cut_to_what_it_can_hold(tower: WhisperTower) -> None:
    tower = tower.half()
    tower.layers[0].fc2.bias.fill_(65_000)
    hidden, _ = tower(mel(20).half())
    assert torch.isfinite(hidden).all()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(tower: WhisperTower, dtype: torch.dtype) -> None:
    bias = offline_bias([40, 30], 20, CONFIG.chunk_s)
    expected, _ = tower(mel(40, batch=2), bias)
    got, _ = tower.to(dtype)(mel(40, batch=2).to(dtype), bias)
    bound = {torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    assert_close(got.float(), expected, bound * expected.std().item() * 3, f"encoder in {dtype}")
