"""The graph that reads prompts is the 4-bit model, rounded once more by rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from language_steps import BLOCK, Stepper, assert_close, in_pieces, reference

from minicpm_o.checkpoints.bundle import PROMPTS_FILE
from minicpm_o.checkpoints.graphs.builder import pack_nbits, unpack_nbits
from minicpm_o.checkpoints.graphs.prompts import LEVELS, build_prompts, rows_of
from minicpm_o.checkpoints.sizes import MOST_PROMPT_BYTES, has_prompt_graph, prompt_graph_bytes
from minicpm_o.errors import OptionError
from minicpm_o.model.config import NanoConfig
from minicpm_o.runtime.memory import MemoryRequest

TOKENS = 23


def hidden_of(run, config, embeds, sizes):
    """Hidden states of a graph without a head."""
    class Headless(Stepper):
        def __call__(self, embeds):
            return {"logits": None, **super().__call__(embeds)}

    return in_pieces(Headless(run, config), embeds, sizes)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, llama_weights, omni):
    folder = tmp_path_factory.mktemp("prompts")
    build_prompts(llama_weights, omni.language, bits=4, block_size=BLOCK, folder=folder)
    return folder


@pytest.fixture
def embeds(rng, omni):
    return rng.normal(size=(1, TOKENS, omni.language.width)).astype(np.float32)


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_are_the_blocks_rounded_once_more(rng, bits):
    parts = [rng.normal(size=(rows, 40)).astype(np.float32) for rows in (5, 3)]
    parts[1][1] = 0
    levels, scales = rows_of(parts, bits, 16)
    whole = np.concatenate(parts)
    blocks = unpack_nbits(*pack_nbits(whole, bits, 16), bits, 40)
    assert levels.shape == (40, 8) and levels.dtype == np.int8 and np.abs(levels).max() == LEVELS
    assert (np.abs(levels.T * scales[:, None] - blocks) <= 0.501 * scales[:, None]).all()
    assert not levels[:, 6].any() and scales[6] > 0, "a row of zeros"


def test_the_graph_is_the_model_with_rounded_rows(folder, open_graph, omni, llama, embeds):
    """What is left is the rounding of tokens to 8 bits."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rounded = transformers.LlamaForCausalLM(llama.config).eval()
    with torch.no_grad():
        for name, tensor in llama.state_dict().items():
            if tensor.dim() == 2 and ".layers." in name:
                levels, scales = rows_of(tensor.numpy(), 4, BLOCK)
                tensor = torch.from_numpy(levels.T * scales[:, None])
            rounded.state_dict()[name].copy_(tensor)
    hidden = hidden_of(open_graph(folder / PROMPTS_FILE), omni.language, embeds, [TOKENS])
    expected = reference(rounded, embeds)[0]
    assert np.abs(hidden - expected).mean() < 0.03 * expected.std()
    plain = reference(llama, embeds)[0]
    assert np.abs(plain - expected).mean() > 0.1 * expected.std(), "4 bits show"


@pytest.mark.parametrize("sizes", [[10, 13], [16, 1, 5, 1]])
def test_pieces_are_the_whole(folder, open_graph, omni, embeds, sizes):
    run = open_graph(folder / PROMPTS_FILE)
    whole, pieces = (hidden_of(run, omni.language, embeds, cut) for cut in ([TOKENS], sizes))
    assert_close(pieces, whole, 0.03 * whole.std(), "hidden states")


def test_a_token_of_zeros_divides_by_nothing(folder, open_graph, omni, embeds):
    embeds[0, 3] = 0
    hidden = hidden_of(open_graph(folder / PROMPTS_FILE), omni.language, embeds, [TOKENS])
    assert np.isfinite(hidden).all()


def test_bits_that_cannot_be_run(llama_weights, omni, tmp_path):
    with pytest.raises(OptionError, match="not 5"):
        build_prompts(llama_weights, omni.language, bits=5, block_size=16, folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_its_size_is_foreseen(kind, llama_weights, omni, tmp_path, rng):
    config = replace(omni.language, kind=kind)
    biases = {f"model.layers.{layer}.self_attn.{part}_proj.bias": rng.normal(size=heads * config.head_width)
              for layer in range(config.layers)
              for part, heads in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads))}
    build_prompts({**llama_weights, **biases}, config, bits=4, block_size=BLOCK, folder=tmp_path)
    tensors = onnx.load(tmp_path / PROMPTS_FILE).graph.initializer
    built = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in tensors)
    assert prompt_graph_bytes(config) == pytest.approx(built, rel=0.03)


def test_who_gets_one():
    nano = NanoConfig().language
    large = replace(nano, width=4096, ffn=12288, layers=36, heads=32, kv_heads=8, head_width=128)
    assert prompt_graph_bytes(nano) < 120e6 < MOST_PROMPT_BYTES < prompt_graph_bytes(large)
    assert has_prompt_graph(nano, 4) and not has_prompt_graph(nano, 8) and not has_prompt_graph(nano, None)
    assert not has_prompt_graph(large, 4) and has_prompt_graph(large, 4, True) and has_prompt_graph(large, 8, True)
    assert not has_prompt_graph(nano, 4, False) and not has_prompt_graph(nano, None, True)


def test_a_request_says_that_there_is_one():
    assert "4 bits and a graph for prompts, 10 tokens" in MemoryRequest(prompts=True, context_tokens=10).words()
