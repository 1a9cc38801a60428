"""The talker's graph and tables against its torch module, through the calls that the sampling loops make."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.talker import FILE_NAME, TABLES_FILE, build_talker, folded_head, round_rows
from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.model.config import TalkerConfig
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.talker import TalkerSession, TalkerTables, conditions, generate

CONFIG = TalkerConfig(llm_width=24, width=64, ffn=96, layers=2, heads=4, kv_heads=4, max_positions=128,
                      num_audio_tokens=50, num_text_tokens=60, audio_bos=41, text_eos=43)
BLOCK = 16
WORDS = 7


@pytest.fixture(scope="module")
def module():
    torch = pytest.importorskip("torch")
    from minicpm_o.model.outputs.talker import Talker

    torch.manual_seed(0)
    module = Talker(CONFIG).eval()
    for name, parameter in module.named_parameters():
        if "norm" not in name and not name.endswith("original0"):
            torch.nn.init.normal_(parameter, std=0.15)
        else:
            torch.nn.init.uniform_(parameter, 0.8, 1.2)
    return module


@pytest.fixture(scope="module")
def weights(module):
    from minicpm_o.model.outputs.talker import UNUSED

    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items() if name not in UNUSED}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory, weights):
    found = {}
    for bits in (None, 8, 4):
        folder = tmp_path_factory.mktemp(f"talker_{bits}")
        build_talker(weights, CONFIG, bits=bits, block_size=BLOCK, folder=folder)
        assert sorted(path.name for path in folder.iterdir()) == [FILE_NAME, f"{FILE_NAME}.data", TABLES_FILE]
        found[bits] = TalkerSession.from_folder(folder, CONFIG, plan_device(threads=1))
    return found


@pytest.fixture(scope="module")
def twin(module):
    from minicpm_o.model.outputs.talker import TorchTalker

    return TorchTalker(module)


@pytest.fixture
def thoughts(rng):
    return rng.integers(0, 40, WORDS), rng.normal(size=(WORDS, CONFIG.llm_width)).astype(np.float32)


def logits_of(network, thoughts, codes):
    """Logits after the conditions and after each speech token."""
    cache = network.new_cache()
    rows = [network.run(conditions(network, *thoughts, text_finished=True), cache)]
    rows += [network.run(network.embed_codes(np.array([code])), cache) for code in codes]
    assert cache.length == WORDS + 2 + len(codes)
    return np.stack(rows)


# Rounding moves logits by some hundredths (8 bits) or tenths (4 bits) of their spread; stated: mean and worst.
@pytest.mark.parametrize(("bits", "mean", "worst"), [(None, 5e-6, 2e-5), (8, 0.04, 0.2), (4, 0.35, 1.5)])
def test_the_graph_is_the_module(sessions, twin, thoughts, bits, mean, worst):
    codes = [3, 17, 17, 48, 0]
    expected, got = logits_of(twin, thoughts, codes), logits_of(sessions[bits], thoughts, codes)
    error = np.abs(got - expected) / expected.std()
    assert error.mean() <= mean and error.max() <= worst, f"{bits} bits: max {error.max():.2e}, mean {error.mean():.2e}"


def test_the_same_draws_say_the_same(sessions, twin, thoughts):
    def greedy(probabilities):
        return int(probabilities.argmax())

    said = [generate(network, conditions(network, *thoughts, text_finished=True), greedy, min_codes=5, max_codes=40)
            for network in (twin, sessions[None])]
    assert said[0] == said[1] and len(said[0].codes) >= 5


def test_the_heads_norm_is_folded_in(module, weights):
    expected = module.head_code[0].weight.detach().numpy()
    assert np.abs(folded_head(weights, CONFIG) - expected).max() < 1e-6


def test_rounded_rows_are_within_half_a_step(rng):
    table = rng.normal(size=(5, 8)).astype(np.float32)
    table[2] = 0
    levels, scales = round_rows(table)
    assert (np.abs(levels * scales.astype(np.float32) - table) <= 0.51 * scales.astype(np.float32)).all()


def test_what_cannot_be_built_is_refused(tmp_path, weights):
    for name in ("model.layers.1.mlp.up_proj.weight", "head_code.0.parametrizations.weight.original0",
                 "emb_text.weight", "projector_semantic.linear2.bias"):
        folder = tmp_path / name
        folder.mkdir()
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            build_talker({key: array for key, array in weights.items() if key != name}, CONFIG, bits=None,
                         block_size=BLOCK, folder=folder)
    with pytest.raises(OptionError, match="bits"):
        build_talker(weights, CONFIG, bits=3, block_size=BLOCK, folder=tmp_path)
    with pytest.raises(CheckpointError, match="multiple of 16"):
        build_talker(weights, replace(CONFIG, heads=8, kv_heads=8), bits=None, block_size=BLOCK, folder=tmp_path)


def test_damaged_files_are_named(tmp_path):
    (tmp_path / TABLES_FILE).write_bytes(b"nothing of use")
    with pytest.raises(CheckpointError, match=r"talker_embeddings\.safetensors cannot be read"):
        TalkerTables.from_file(tmp_path / TABLES_FILE)
