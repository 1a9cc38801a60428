"""The backbones of the official checkpoints: biased queries (Qwen2), normed heads (Qwen3), a head of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from language_steps import BLOCK, Stepper, assert_close, in_pieces, reference

from minicpm_o.checkpoints.graphs.builder import pack_nbits, unpack_nbits
from minicpm_o.checkpoints.graphs.language import FILE_NAME, build_language
from minicpm_o.errors import CheckpointError
from minicpm_o.model.config import LanguageConfig

TOKENS = 23
SHAPES = {
    "qwen2": LanguageConfig(kind="qwen2", vocab_size=96, width=48, layers=2, heads=3, kv_heads=1, head_width=16,
                            ffn=80, norm_eps=1e-6, rope_theta=1e6, context_tokens=256, tied_head=False),
    # heads * head_width is wider than the stream
    "qwen3": LanguageConfig(kind="qwen3", vocab_size=96, width=48, layers=2, heads=4, kv_heads=2, head_width=32,
                            ffn=80, norm_eps=1e-6, rope_theta=1e6, context_tokens=256, tied_head=False),
}


@pytest.fixture(scope="module", params=sorted(SHAPES))
def shape(request):
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def qwen(shape):
    """A random causal model of transformers; biases and gains are not what they are by default, so they count."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    kind = {"qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config}[shape.kind]
    config = kind(
        vocab_size=shape.vocab_size, hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_width,
        intermediate_size=shape.ffn, rms_norm_eps=shape.norm_eps, max_position_embeddings=shape.context_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta}, tie_word_embeddings=False,
        initializer_range=0.2,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() == 1:
                tensor.add_(torch.randn_like(tensor) * 0.3)
    return model


@pytest.fixture(scope="module")
def weights(qwen):
    return {name: tensor.detach().numpy() for name, tensor in qwen.state_dict().items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, weights, shape):
    folders = {}
    for bits in (None, 8, 4):
        folders[bits] = tmp_path_factory.mktemp(f"{shape.kind}_{bits}")
        build_language(weights, shape, layer_bits=bits, head_bits=bits, block_size=BLOCK, folder=folders[bits])
    return folders


@pytest.fixture
def embeds(rng, shape):
    return rng.normal(size=(1, TOKENS, shape.width)).astype(np.float32)


def test_float32_is_the_reference(folders, open_graph, shape, qwen, embeds):
    hidden, logits = in_pieces(Stepper(open_graph(folders[None] / FILE_NAME), shape), embeds, [TOKENS])
    expected_hidden, expected_logits = reference(qwen, embeds)
    assert_close(hidden, expected_hidden, 1e-4, "hidden states")
    assert_close(logits, expected_logits, 1e-4, "logits")


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_is_the_reference_with_rounded_weights(folders, open_graph, shape, qwen, weights, embeds, bits):
    """What is left is the rounding of activations to int8: some hundredths of the logits' spread."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rounded = transformers.AutoModelForCausalLM.from_config(qwen.config).eval()
    matrices = {name: np.ascontiguousarray(unpack_nbits(*pack_nbits(array, bits, BLOCK), bits, array.shape[1]))
                for name, array in weights.items() if array.ndim == 2 and "embed_tokens" not in name}
    rounded.load_state_dict({name: torch.from_numpy(matrices.get(name, array)) for name, array in weights.items()})
    hidden, logits = in_pieces(Stepper(open_graph(folders[bits] / FILE_NAME), shape), embeds, [TOKENS])
    expected_hidden, expected_logits = reference(rounded, embeds)
    assert_close(logits, expected_logits, 0.1 * expected_logits.std(), f"{bits}-bit logits")
    assert np.abs(hidden - expected_hidden).mean() < 0.03 * expected_hidden.std()


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("sizes", [[10, 13], [16, 1, 5, 1], [1] * TOKENS])
def test_pieces_are_the_whole(folders, open_graph, shape, embeds, bits, sizes):
    run = open_graph(folders[bits] / FILE_NAME)
    hidden, logits = in_pieces(Stepper(run, shape), embeds, [TOKENS])
    hidden_pieces, logits_pieces = in_pieces(Stepper(run, shape), embeds, sizes)
    bound = 2e-5 if bits is None else 0.03 * hidden.std()
    assert_close(hidden_pieces, hidden, bound, "hidden states")
    assert_close(logits_pieces, logits, bound * (1 if bits is None else logits.std() / hidden.std()), "logits")


def test_what_tells_the_kinds_apart_is_asked_for(tmp_path, weights, shape):
    needed = {"qwen2": "self_attn.k_proj.bias", "qwen3": "self_attn.q_norm.weight"}[shape.kind]
    without = {name: array for name, array in weights.items() if not name.endswith(needed)}
    with pytest.raises(CheckpointError, match=needed.replace(".", r"\.")):
        build_language(without, shape, layer_bits=8, head_bits=8, block_size=BLOCK, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_untied_head_must_be_there(tmp_path, weights, shape):
    without = {name: array for name, array in weights.items() if name != "lm_head.weight"}
    with pytest.raises(CheckpointError, match=r"no tensor 'lm_head\.weight'"):
        build_language(without, shape, layer_bits=8, head_bits=8, block_size=BLOCK, folder=tmp_path)
    build_language(without, replace(shape, tied_head=True), layer_bits=8, head_bits=8, block_size=BLOCK,
                   folder=tmp_path)
    assert (tmp_path / FILE_NAME).is_file()
