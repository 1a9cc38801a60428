"""The torch twin of 2.6's voice: its names, its cache, its arithmetic against transformers' Llama."""

from __future__ import annotations

import re

import numpy as np
import pytest
from chattts_tiny import VOCOS, VOICE, arrays, vocos_module, voice_module

from minicpm_o.model.config import ChatTTSConfig
from minicpm_o.runtime.chattts import causal
from oracle import assert_close

torch = pytest.importorskip("torch")

from minicpm_o.model.outputs.chattts import ConditionalChatTTS, TorchChatTTS  # noqa: E402
from minicpm_o.model.outputs.vocos import TorchVocos, Vocos  # noqa: E402

OFFICIAL_TENSORS = 439
NAMES = (
    r"projector\.linear[12]\.(weight|bias)", r"emb_text\.weight", r"emb_code\.[0-3]\.weight",
    r"head_code\.[0-3]\.parametrizations\.weight\.original[01]", r"model\.(embed_tokens|norm)\.weight",
    r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|(input|post_attention)_layernorm)\.weight",
    r"dvae\.(coef|out_conv\.weight)", r"dvae\.downsample_conv\.[02]\.(weight|bias)",
    r"dvae\.(encoder|decoder)\.(conv_in\.[02]\.(weight|bias)|conv_out\.weight)",
    r"dvae\.(encoder|decoder)\.decoder_block\.\d+\.(coef|(dwconv|norm|pwconv[12])\.(weight|bias))",
    r"dvae\.vq_layer\.quantizer\.rvqs\.[01]\.project_(in|out)\.(weight|bias)",
)


@pytest.fixture(scope="module")
def module():
    return voice_module()


def test_full_size_has_the_official_names() -> None:
    with torch.device("meta"):
        names = list(ConditionalChatTTS(ChatTTSConfig()).state_dict())
    assert len(names) == OFFICIAL_TENSORS
    assert not [name for name in names if not re.fullmatch("|".join(NAMES), name)]


def test_saved_is_loaded(module) -> None:
    twin = ConditionalChatTTS(VOICE)
    twin.load_state_dict(module.state_dict())
    for name, array in arrays(twin).items():
        assert (array == arrays(module)[name]).all(), name


def test_only_the_unread_word_table_may_be_absent(module) -> None:
    state = module.state_dict()
    del state["model.embed_tokens.weight"]
    ConditionalChatTTS(VOICE).load_state_dict(state)
    del state["model.norm.weight"]
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight"):
        ConditionalChatTTS(VOICE).load_state_dict(state)


def test_cached_is_uncached(module) -> None:
    network, rng = TorchChatTTS(module), np.random.default_rng(0)
    embeds = rng.standard_normal((60, VOICE.width)).astype(np.float32)
    visible = causal(0, 60)
    visible[50:, 3:9] = False
    whole = network.run(embeds, visible, network.new_cache())
    cache = network.new_cache()
    network.run(embeds[:7], visible[:7, :7], cache)
    network.run(embeds[7:50], visible[7:50, :50], cache)
    for place in range(50, 60):  # past the reserved slots, so that the cache grows
        last = network.run(embeds[place : place + 1], visible[place : place + 1, : place + 1], cache)
    assert_close(last, whole, 1e-5, "logits of the last position")


def test_text_filled_in_late_leaves_the_sound_behind_it_alone(module) -> None:
    network, rng = TorchChatTTS(module), np.random.default_rng(1)
    slots = VOICE.text_reserved_tokens + 2
    sound, text = (rng.standard_normal((n, VOICE.width)).astype(np.float32) for n in (3, 5))
    cache = network.new_cache()
    network.run(sound, causal(slots, 3), cache)
    kept = cache.keys[:, :, slots : slots + 3].clone()
    network.run(text, causal(10, 5), cache)
    assert (cache.keys[:, :, slots : slots + 3] == kept).all()
    assert cache.keys[:, :, 10:15].abs().min() > 0 and not cache.keys[:, :, 15:slots].any()


def test_body_is_llama(module) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=VOICE.width, intermediate_size=VOICE.ffn, num_hidden_layers=VOICE.layers,
        num_attention_heads=VOICE.heads, num_key_value_heads=VOICE.heads, rms_norm_eps=VOICE.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": VOICE.rope_theta})
    llama = transformers.LlamaModel(config).eval()
    weights = {name: tensor for name, tensor in module.model.state_dict().items() if "embed_tokens" not in name}
    missing, unexpected = llama.load_state_dict(weights, strict=False)
    assert missing == ["embed_tokens.weight"] and not unexpected
    embeds = torch.randn(30, VOICE.width)
    with torch.inference_mode():
        mine = module.model(embeds, torch.from_numpy(causal(0, 30)), module.new_cache())
        theirs = llama(inputs_embeds=embeds[None], use_cache=False).last_hidden_state[0]
    assert_close(mine, theirs, 1e-5, "hidden states")


def test_speaker_replaces_its_token_at_length_one(module) -> None:
    network = TorchChatTTS(module)
    hidden = np.random.default_rng(2).standard_normal((1, VOICE.llm_width)).astype(np.float32)
    ids = np.array([1, VOICE.speaker_token, 30])
    plain, spoken = network.condition(ids, None), network.condition(ids, hidden)
    assert (plain[[0, 2]] == spoken[[0, 2]]).all()
    assert np.linalg.norm(spoken[1]) == pytest.approx(1, abs=1e-6)


def test_half_precision_stays_near(module) -> None:
    half = voice_module().to(torch.bfloat16)
    codes = np.random.default_rng(3).integers(0, VOICE.audio_eos, (9, VOICE.num_codebooks))
    exact, rounded = (TorchChatTTS(network).mel(codes) for network in (module, half))
    assert rounded.dtype == np.float32
    assert np.abs(exact - rounded).max() <= 3e-2 * np.abs(exact).max()


def test_one_frame_is_one_hop() -> None:
    module = vocos_module()
    twin = Vocos(VOCOS)
    twin.load_state_dict(module.state_dict())
    mel = np.random.default_rng(4).standard_normal((VOCOS.mel_bins, 9)).astype(np.float32)
    waveform = TorchVocos(module)(mel)
    assert waveform.shape == (9 * VOCOS.hop_samples,) and waveform.dtype == np.float32
    assert (TorchVocos(twin)(mel) == waveform).all()
