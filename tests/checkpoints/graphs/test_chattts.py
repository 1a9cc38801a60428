"""The graph of 2.6's voice against the torch network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chattts_tiny import VOICE, arrays, voice_module

from minicpm_o.checkpoints.graphs.chattts import EMBEDDINGS_NAME, FILE_NAME, build_chattts
from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.runtime.chattts import Segment, VoiceSampling, causal, generate, read_codes, read_text
from minicpm_o.runtime.chattts_sessions import ChatTTSSession
from minicpm_o.runtime.device import plan_device
from oracle import assert_close

SPEAKER = np.random.default_rng(5).standard_normal((1, VOICE.llm_width)).astype(np.float32)
TEXT = [1, VOICE.speaker_token, *range(10, 30)]
BOUND = {8: 0.05, 4: 0.5}
"""Mean difference that 8 and 4 bits may make to log probabilities; of unrelated ones it is 0.9."""


@pytest.fixture(scope="module")
def module():
    return voice_module()


@pytest.fixture(scope="module")
def torch_network(module):
    from minicpm_o.model.outputs.chattts import TorchChatTTS

    return TorchChatTTS(module)


@pytest.fixture(scope="module", params=[None, 8, 4])
def exported(request, module, tmp_path_factory):
    """Bits, and a session over the graph of so many."""
    folder = tmp_path_factory.mktemp(f"voice_{request.param}")
    build_chattts(arrays(module), VOICE, bits=request.param, block_size=16, folder=folder)
    return request.param, ChatTTSSession.from_folder(folder, VOICE, plan_device(threads=1))


def spoken(network, steps: int = 3) -> list[np.ndarray]:
    """Logits of a start in two chunks, of carried-over codes and of steps that follow a fixed script."""
    segment = Segment(network.new_cache(), text=TEXT[2:])
    read_text(network, segment, TEXT[:12], SPEAKER)
    read_codes(network, segment, np.arange(20).reshape(5, 4) % 15)
    read_text(network, segment, TEXT[12:], None)
    seen: list[np.ndarray] = []
    sampling = VoiceSampling(temperatures=(1.0,) * 4, top_p=1.0, top_k=16, steps_per_call=10, min_steps=0)

    def draw(probabilities: np.ndarray) -> int:
        seen.append(np.log(probabilities))
        return len(seen) % 15

    generate(network, segment, sampling, draw)
    return seen[: 4 * steps]


def test_graph_is_the_network(exported, torch_network) -> None:
    bits, session = exported
    expected = np.stack(spoken(torch_network))
    got = np.stack(spoken(session))
    assert np.abs(expected - expected[::-1]).mean() > 0.8, "log probabilities too alike to tell anything"
    if bits is None:
        assert_close(got, expected, 1e-4, "log probabilities")
    else:
        assert np.abs(got - expected).mean() < BOUND[bits], f"log probabilities, bits {bits}"


def test_conditions_are_the_networks(exported, torch_network) -> None:
    bits, session = exported
    atol = 1e-5 if bits is None else 2e-3
    assert_close(session.condition(np.array(TEXT), SPEAKER), torch_network.condition(np.array(TEXT), SPEAKER), atol,
                 "text and speaker")
    codes = np.arange(24).reshape(6, 4) % 16
    assert_close(session.embed_codes(codes), torch_network.embed_codes(codes), atol, "codes")


def test_cache_grows_without_a_trace(exported) -> None:
    _, session = exported
    embeds = np.random.default_rng(6).standard_normal((100, VOICE.width)).astype(np.float32)
    roomy, tight = session.new_cache(), session.new_cache()
    roomy.reserve(400)
    for start in (0, 40, 80):
        visible = causal(start, 20)
        first = session.run(embeds[start : start + 20], visible, roomy)
        second = session.run(embeds[start : start + 20], visible, tight)
    assert roomy.capacity == 400 and tight.capacity == 168
    assert_close(first, second, 1e-5, "logits")


def test_what_cannot_be_built_is_refused(module, tmp_path) -> None:
    weights = arrays(module)
    lacking = {name: array for name, array in weights.items() if not name.endswith("layers.1.mlp.up_proj.weight")}
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        build_chattts(lacking, VOICE, bits=None, block_size=16, folder=tmp_path)
    with pytest.raises(OptionError, match="4 or 8 bits"):
        build_chattts(weights, VOICE, bits=5, block_size=16, folder=tmp_path)
    assert not (tmp_path / FILE_NAME).exists()


def test_tables_of_another_voice_are_refused(module, tmp_path) -> None:
    build_chattts(arrays(module), VOICE, bits=8, block_size=16, folder=tmp_path)
    plan = plan_device(threads=1)
    with pytest.raises(CheckpointError, match="different models"):
        ChatTTSSession.from_folder(tmp_path, replace(VOICE, num_text_tokens=91), plan)
    (tmp_path / EMBEDDINGS_NAME).write_bytes(b"no tables")
    with pytest.raises(CheckpointError, match="export the model again"):
        ChatTTSSession.from_folder(tmp_path, VOICE, plan)
