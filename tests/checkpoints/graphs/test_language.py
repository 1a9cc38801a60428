from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from language_steps import BLOCK, Stepper, assert_close, in_pieces, reference

from minicpm_o.checkpoints.graphs.builder import pack_nbits, unpack_nbits
from minicpm_o.checkpoints.graphs.language import FILE_NAME, build_language
from minicpm_o.errors import CheckpointError, OptionError

TOKENS = 23


@pytest.fixture(scope="module")
def folders(tmp_path_factory, llama_weights, omni):
    """The same weights as float32, 8-bit and 4-bit graphs."""
    folders = {}
    for bits in (None, 8, 4):
        folders[bits] = tmp_path_factory.mktemp(f"language_{bits}")
        build_language(llama_weights, omni.language, layer_bits=bits, head_bits=bits, block_size=BLOCK,
                       folder=folders[bits])
    return folders


@pytest.fixture
def embeds(rng, omni):
    return rng.normal(size=(1, TOKENS, omni.language.width)).astype(np.float32)


def test_float32_is_the_reference(folders, open_graph, omni, llama, embeds):
    hidden, logits = in_pieces(Stepper(open_graph(folders[None] / FILE_NAME), omni.language), embeds, [TOKENS])
    expected_hidden, expected_logits = reference(llama, embeds)
    assert_close(hidden, expected_hidden, 2e-5, "hidden states")
    assert_close(logits, expected_logits, 2e-5, "logits")


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_is_the_reference_with_rounded_weights(folders, open_graph, omni, llama, embeds, bits):
    """What is left is the rounding of activations to int8: some hundredths of the logits' spread."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    rounded = transformers.LlamaForCausalLM(llama.config).eval()
    with torch.no_grad():
        for name, tensor in llama.state_dict().items():
            if tensor.dim() == 2:
                matrix = unpack_nbits(*pack_nbits(tensor.numpy(), bits, BLOCK), bits, tensor.shape[1])
                tensor = torch.from_numpy(np.ascontiguousarray(matrix))
            rounded.state_dict()[name].copy_(tensor)
    hidden, logits = in_pieces(Stepper(open_graph(folders[bits] / FILE_NAME), omni.language), embeds, [TOKENS])
    expected_hidden, expected_logits = reference(rounded, embeds)
    assert_close(logits, expected_logits, 0.1 * expected_logits.std(), f"{bits}-bit logits")
    assert np.abs(hidden - expected_hidden).mean() < 0.03 * expected_hidden.std()


def test_8_bits_stay_near_the_unquantised_reference(folders, open_graph, omni, llama, embeds):
    _, logits = in_pieces(Stepper(open_graph(folders[8] / FILE_NAME), omni.language), embeds, [TOKENS])
    expected = reference(llama, embeds)[1]
    assert_close(logits, expected, 0.15 * expected.std(), "8-bit logits")


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("sizes", [[10, 13], [16, 1, 5, 1], [1] * TOKENS])
def test_pieces_are_the_whole(folders, open_graph, omni, embeds, bits, sizes):
    run = open_graph(folders[bits] / FILE_NAME)
    hidden, logits = in_pieces(Stepper(run, omni.language), embeds, [TOKENS])
    hidden_pieces, logits_pieces = in_pieces(Stepper(run, omni.language), embeds, sizes)
    # activations are rounded token by token, so pieces may differ only by the order of sums (or one level of rounding)
    bound = 2e-5 if bits is None else 0.03 * hidden.std()
    assert_close(hidden_pieces, hidden, bound, "hidden states")
    assert_close(logits_pieces, logits, bound * (1 if bits is None else logits.std() / hidden.std()), "logits")


def test_a_truncated_cache_is_as_if_the_rest_had_not_been(folders, open_graph, omni, embeds, rng):
    run = open_graph(folders[8] / FILE_NAME)
    straight, detour = Stepper(run, omni.language), Stepper(run, omni.language)
    straight(embeds[:, :10])
    detour(embeds[:, :10])
    detour(rng.normal(size=(1, 7, omni.language.width)).astype(np.float32))
    detour.truncate(10)
    expected, got = straight(embeds[:, 10:]), detour(embeds[:, 10:])
    assert all((expected[name] == got[name]).all() for name in expected)


def test_the_cache_is_written_in_place(folders, omni, embeds):
    """Past and present bound to one buffer: same answers, and truncation is only a smaller total."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(folders[8] / FILE_NAME), providers=["CPUExecutionProvider"])
    shape = omni.language
    buffers = {f"{i}.{kind}": onnxruntime.OrtValue.ortvalue_from_numpy(
        np.full((1, shape.kv_heads, 64, shape.head_width), 7, dtype=np.float32))  # old rubbish must not be read
        for i in range(shape.layers) for kind in ("key", "value")}

    def step(piece, total):
        binding = session.io_binding()
        binding.bind_cpu_input("inputs_embeds", np.ascontiguousarray(piece))
        binding.bind_cpu_input("seqlens_k", np.array([total - 1], dtype=np.int32))
        binding.bind_cpu_input("total_sequence_length", np.array(total, dtype=np.int32))
        for name, buffer in buffers.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", buffer)
            binding.bind_ortvalue_output(f"present.{name}", buffer)
        binding.bind_output("logits")
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[-1]

    run = Stepper(lambda feeds: dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds),
                                         strict=True)), shape)
    for start, stop in ((0, 9), (9, 10), (10, 14)):
        assert (step(embeds[:, start:stop], stop) == run(embeds[:, start:stop])["logits"]).all()
    run.truncate(5)
    assert (step(embeds[:, 5:8], 8) == run(embeds[:, 5:8])["logits"]).all()


def test_a_head_of_its_own_is_used(tmp_path, llama_weights, omni, open_graph, embeds):
    weights = {**llama_weights, "lm_head.weight": -2 * llama_weights["model.embed_tokens.weight"]}
    tied, own = tmp_path / "tied", tmp_path / "own"
    for folder, source in ((tied, llama_weights), (own, weights)):
        folder.mkdir()
        build_language(source, omni.language, layer_bits=None, head_bits=None, block_size=BLOCK, folder=folder)
    logits = [in_pieces(Stepper(open_graph(folder / FILE_NAME), omni.language), embeds, [TOKENS])[1]
              for folder in (tied, own)]
    assert_close(logits[1], -2 * logits[0], 1e-4, "own head")


def test_what_cannot_be_built_is_refused(tmp_path, llama_weights, omni):
    short = {name: array for name, array in llama_weights.items() if name != "model.layers.1.mlp.up_proj.weight"}
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        build_language(short, omni.language, layer_bits=4, head_bits=8, block_size=32, folder=tmp_path)
    with pytest.raises(OptionError, match="bits"):
        build_language(llama_weights, omni.language, layer_bits=5, head_bits=8, block_size=32, folder=tmp_path)
    with pytest.raises(CheckpointError, match="multiple of 16"):
        build_language(llama_weights, replace(omni.language, head_width=8), layer_bits=4, head_bits=8, block_size=32,
                       folder=tmp_path)
    assert not list(tmp_path.iterdir())
