"""Tiny random weights, the same for the graph and for its reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from minicpm_o.model.config import LanguageConfig, NanoConfig, tiny

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@pytest.fixture(scope="session")
def open_graph() -> Callable[[Path], Run]:
    """Opens an .onnx file as a function from named inputs to named outputs."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def opened(path: Path) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return opened


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def omni() -> NanoConfig:
    """The tiny model."""
    return tiny()


@pytest.fixture(scope="session")
def llama(omni: NanoConfig):
    """A random LlamaForCausalLM of the tiny language config."""
    pytest.importorskip("torch").manual_seed(0)
    transformers = pytest.importorskip("transformers")
    shape: LanguageConfig = omni.language
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_width,
        intermediate_size=shape.ffn, rms_norm_eps=shape.norm_eps, max_position_embeddings=shape.context_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta}, tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def whisper(omni: NanoConfig):
    """A random WhisperForConditionalGeneration of the tiny hearing config."""
    pytest.importorskip("torch").manual_seed(0)
    transformers = pytest.importorskip("transformers")
    shape = omni.hearing
    config = transformers.WhisperConfig(
        vocab_size=shape.vocab_size, num_mel_bins=shape.mel_bins, d_model=shape.width,
        encoder_layers=shape.encoder_layers, decoder_layers=shape.decoder_layers,
        encoder_attention_heads=shape.heads, decoder_attention_heads=shape.heads, encoder_ffn_dim=shape.ffn,
        decoder_ffn_dim=shape.ffn, max_source_positions=shape.max_encoder_frames,
        max_target_positions=shape.max_text_tokens, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, init_std=0.2, attn_implementation="eager",
    )
    return transformers.WhisperForConditionalGeneration(config).eval()


def state(module) -> dict[str, np.ndarray]:
    """A torch module's tensors as numpy arrays."""
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="session")
def llama_weights(llama) -> dict[str, np.ndarray]:
    return {name: array for name, array in state(llama).items() if name != "lm_head.weight"}


@pytest.fixture(scope="session")
def whisper_weights(whisper) -> dict[str, np.ndarray]:
    return state(whisper)
