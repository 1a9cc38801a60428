"""The engine over a tiny random graph: cached = uncached, chunked = whole, rolled back = never said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicpm_o.checkpoints.graphs.language import build_language
from minicpm_o.errors import CheckpointError, ContextFullError, OptionError
from minicpm_o.model.config import LanguageConfig, tiny
from minicpm_o.runtime.device import DevicePlan, make_session
from minicpm_o.runtime.engine import Embeddings, Engine
from minicpm_o.runtime.generate import generate

CONFIG = tiny().language
PLAN = DevicePlan(threads=1, provider="CPUExecutionProvider", memory_mb={}, reasons=())


def random_weights(config: LanguageConfig) -> dict[str, np.ndarray]:
    """Names and shapes of transformers' LlamaForCausalLM."""
    rng = np.random.default_rng(0)
    heads, kv_heads = config.heads * config.head_width, config.kv_heads * config.head_width
    layer = {"self_attn.q_proj": (heads, config.width), "self_attn.k_proj": (kv_heads, config.width),
             "self_attn.v_proj": (kv_heads, config.width), "self_attn.o_proj": (config.width, heads),
             "mlp.gate_proj": (config.ffn, config.width), "mlp.up_proj": (config.ffn, config.width),
             "mlp.down_proj": (config.width, config.ffn), "input_layernorm": (config.width,),
             "post_attention_layernorm": (config.width,)}
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(config.layers) for name, shape in layer.items()}
    shapes |= {"model.norm.weight": (config.width,), "model.embed_tokens.weight": (config.vocab_size, config.width)}
    return {name: (rng.normal(1.0 if "norm" in name else 0.0, 0.3, shape)).astype(np.float32)
            for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder, weights = tmp_path_factory.mktemp("tiny"), random_weights(CONFIG)
    build_language(weights, CONFIG, layer_bits=None, head_bits=None, block_size=32, folder=folder)
    table = weights["model.embed_tokens.weight"]
    scales = (np.abs(table).max(1, keepdims=True) / 127).astype(np.float16)
    embeddings = Embeddings(np.rint(table / scales.astype(np.float32)).clip(-127, 127).astype(np.int8), scales)
    return Engine(make_session(folder / "language.onnx", PLAN, kind="language"), CONFIG, embeddings)


def random_ids(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, count)


def assert_close(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    difference = np.abs(got - expected)
    assert difference.max() < 1e-4, f"{what}: max difference {difference.max():.2e}, mean {difference.mean():.2e}"


def test_embed_is_table_times_scale(engine: Engine) -> None:
    table = engine.embeddings
    expected = table.table[[3, 1]].astype(np.float32) * table.scales[[3, 1]].astype(np.float32)
    np.testing.assert_array_equal(engine.embed([3, 1]), expected)


@pytest.mark.parametrize("ids", [[-1], [CONFIG.vocab_size]])
def test_ids_outside_the_vocabulary(engine: Engine, ids: list[int]) -> None:
    with pytest.raises(OptionError, match=f"{CONFIG.vocab_size - 1}"):
        engine.embed(ids)


def test_shapes(engine: Engine) -> None:
    cache = engine.new_cache()
    step = engine.prefill(engine.embed(random_ids(7)), cache)
    assert step.logits.shape == (CONFIG.vocab_size,)
    assert step.hidden.shape == (7, CONFIG.width)
    assert cache.length == 7


def test_cached_is_uncached(engine: Engine) -> None:
    ids = random_ids(12)
    cache = engine.new_cache(16)
    engine.prefill(engine.embed(ids[:4]), cache)
    for position in range(4, 12):
        step = engine.decode(int(ids[position]), cache)
        whole = engine.prefill(engine.embed(ids[: position + 1]), engine.new_cache())
        assert_close(step.logits, whole.logits, f"logits at {position}")
        assert_close(step.hidden, whole.hidden[-1:], f"hidden state at {position}")


@pytest.mark.parametrize("chunk", [1, 3, 8, 20])
def test_chunked_prefill_is_whole_prefill(engine: Engine, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    embeds = engine.embed(random_ids(20))
    whole = engine.prefill(embeds, engine.new_cache())
    monkeypatch.setattr(engine, "chunk_tokens", chunk)
    chunked = engine.prefill(embeds, engine.new_cache())
    assert_close(chunked.logits, whole.logits, "logits")
    assert_close(chunked.hidden, whole.hidden, "hidden states")


def test_turn_after_turn_is_whole(engine: Engine) -> None:
    ids, cache = random_ids(30), engine.new_cache(8)
    for start, stop in ((0, 10), (10, 11), (11, 24), (24, 30)):
        step = engine.prefill(engine.embed(ids[start:stop]), cache)
    assert_close(step.logits, engine.prefill(engine.embed(ids), engine.new_cache()).logits, "logits")


def test_truncate_and_decode_again(engine: Engine) -> None:
    ids, cache = random_ids(10), engine.new_cache(16)
    engine.prefill(engine.embed(ids[:6]), cache)
    first = [engine.decode(int(i), cache).logits for i in ids[6:]]
    cache.truncate(6)
    for other in random_ids(3, seed=9):
        engine.decode(int(other), cache)
    cache.truncate(6)
    again = [engine.decode(int(i), cache).logits for i in ids[6:]]
    np.testing.assert_array_equal(first, again)


def test_copy_goes_its_own_way(engine: Engine) -> None:
    ids, cache = random_ids(10), engine.new_cache(16)
    engine.prefill(engine.embed(ids[:6]), cache)
    twin = cache.copy()
    expected = engine.decode(int(ids[6]), cache).logits
    for other in random_ids(5, seed=9):
        engine.decode(int(other), cache)
    np.testing.assert_array_equal(engine.decode(int(ids[6]), twin).logits, expected)
    assert (cache.length, twin.length) == (12, 7)


def test_growing_in_the_middle_changes_nothing(engine: Engine) -> None:
    ids = random_ids(12)
    small, large = engine.new_cache(4), engine.new_cache(64)
    for token_id in ids:
        got, expected = engine.decode(int(token_id), small), engine.decode(int(token_id), large)
        assert_close(got.logits, expected.logits, f"logits with {small.capacity} tokens of room")
    assert small.capacity == 16


def test_steps_do_not_share_memory(engine: Engine) -> None:
    cache = engine.new_cache()
    first = engine.decode(3, cache)
    kept = first.logits.copy()
    engine.decode(4, cache)
    np.testing.assert_array_equal(first.logits, kept)


def test_a_prompt_that_does_not_fit(engine: Engine) -> None:
    cache = engine.new_cache(8)
    engine.prefill(engine.embed(random_ids(5)), cache)
    with pytest.raises(ContextFullError, match=f"{CONFIG.context_tokens}"):
        engine.prefill(engine.embed(random_ids(CONFIG.context_tokens)), cache)
    assert cache.length == 5
    engine.decode(1, cache)


def test_generation_to_the_end_of_the_window(engine: Engine) -> None:
    class Letters:
        def decode(self, ids: list[int]) -> str:
            return "x" * len(ids)

    cache = engine.new_cache(8)
    first = engine.prefill(engine.embed(random_ids(CONFIG.context_tokens - 5)), cache)
    events = list(generate(engine, cache, first, Letters(), max_tokens=100))
    assert events[-1].finish_reason == "length"  # type: ignore[union-attr]
    assert cache.length == CONFIG.context_tokens
    assert len(events) == 7  # five are read, the sixth is only said, and the end
    with pytest.raises(ContextFullError):
        engine.decode(1, cache)


def test_prefill_can_be_stopped_between_chunks(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "chunk_tokens", 4)
    cache = engine.new_cache()
    steps = engine.prefill_chunks(engine.embed(random_ids(12)), cache)
    next(steps)
    assert cache.length == 4


@pytest.mark.parametrize("shape", [(0, CONFIG.width), (3, CONFIG.width + 1), (CONFIG.width,)])
def test_embeds_of_a_wrong_shape(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match=f"{CONFIG.width}"):
        engine.prefill(np.zeros(shape, np.float32), engine.new_cache())


def test_tables_of_another_model(engine: Engine) -> None:
    with pytest.raises(CheckpointError, match="wide"):
        Engine(engine.session, CONFIG, Embeddings(np.zeros((4, 3), np.int8), np.ones((4, 1), np.float16)))


def test_damaged_embeddings(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.safetensors"
    path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"embeddings\.safetensors"):
        Embeddings.from_file(path)


def test_missing_or_damaged_graph(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="missing"):
        make_session(tmp_path / "language.onnx", PLAN, kind="language")
    (tmp_path / "language.onnx").write_bytes(b"not a graph")
    with pytest.raises(CheckpointError, match="cannot load"):
        make_session(tmp_path / "language.onnx", PLAN, kind="language")
