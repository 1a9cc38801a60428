"""The talker's torch module on its own."""

from __future__ import annotations

import numpy as np
import pytest

from minicpm_o.model.config import TalkerConfig

torch = pytest.importorskip("torch")

from minicpm_o.model.outputs.talker import Talker, TorchTalker, TorchTalkerCache  # noqa: E402

CONFIG = TalkerConfig(llm_width=20, width=24, ffn=40, layers=2, heads=2, kv_heads=2, max_positions=64,
                      num_audio_tokens=30, num_text_tokens=32, audio_bos=28, text_eos=29)


@pytest.fixture(scope="module")
def talker():
    torch.manual_seed(0)
    return Talker(CONFIG).eval()


@pytest.fixture(scope="module")
def embeds():
    return torch.randn(1, 11, CONFIG.width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sizes", [[5, 6], [1] * 11, [9, 1, 1]])
def test_steps_with_a_cache_are_the_whole(talker, embeds, sizes):
    with torch.inference_mode():
        whole, _ = talker(embeds, TorchTalkerCache().layers)
        cache, pieces, start = TorchTalkerCache().layers, [], 0
        for size in sizes:
            logits, cache = talker(embeds[:, start : start + size], cache)
            pieces.append(logits)
            start += size
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-5)
    assert cache.get_seq_length() == 11


def test_a_copied_cache_goes_its_own_way(talker, embeds):
    network, rows = TorchTalker(talker), embeds[0].numpy()
    cache = network.new_cache()
    network.run(rows[:4], cache)
    twin = cache.copy()
    network.run(rows[4:9], twin)
    assert (cache.length, twin.length) == (4, 9)
    fresh = network.new_cache()
    network.run(rows[:4], fresh)
    assert (network.run(rows[9:], cache) == network.run(rows[9:], fresh)).all()


def test_half_precision_is_near(talker, embeds):
    """The adapter turns numpy into whatever type the module is in, and logits back into float32."""
    import copy

    half = TorchTalker(copy.deepcopy(talker).to(torch.bfloat16))
    got = half.run(embeds[0].numpy(), half.new_cache())
    whole = TorchTalker(talker)
    expected = whole.run(embeds[0].numpy(), whole.new_cache())
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() < 3e-2 * max(1.0, np.abs(expected).max())


def test_names_are_the_published_ones(talker):
    names = set(talker.state_dict())
    assert {"emb_text.weight", "emb_code.0.weight", "head_code.0.parametrizations.weight.original0",
            "head_code.0.parametrizations.weight.original1", "model.embed_tokens.weight", "model.norm.weight",
            "projector_spk.linear1.weight", "projector_semantic.linear2.bias"} <= names
    assert len(names) == 1 + 1 + 2 + 2 + 4 + 4 + 9 * CONFIG.layers
