"""The language engines that `race` knows, each behind the same two steps: read a prompt, then one token after another.

An engine is imported where it is made, so that a Python needs to have only the one that it runs. Every engine takes
its likeliest token each time, holds nothing of the prompt before, and runs on the given number of threads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Lap:
    """What one engine took for one prompt and the tokens after it."""

    prefill_s: float
    """From the prompt to the first token."""
    decode_s: float
    """Of the tokens after the first."""
    tokens: tuple[int, ...]
    """The likeliest ones, the first of them by the prompt alone."""


class Side(Protocol):
    """An engine under test."""

    distribution: str
    """The installed package whose version tells which engine it is."""

    def lap(self, ids: list[int], decode: int) -> Lap:
        """Forget everything, read ids, then decode that many tokens."""
        ...


class Stepwise:
    """An engine that is told every token."""

    def prefill(self, ids: list[int]) -> int:
        """Forget everything, read ids, return the likeliest next token."""
        raise NotImplementedError

    def decode(self, token: int) -> int:
        """Read one token, return the likeliest next one."""
        raise NotImplementedError

    def lap(self, ids: list[int], decode: int) -> Lap:
        started = time.perf_counter()
        tokens = [self.prefill(ids)]
        read = time.perf_counter()
        for _ in range(decode):
            tokens.append(self.decode(tokens[-1]))
        return Lap(read - started, time.perf_counter() - read, tuple(tokens))


class Ours(Stepwise):
    """The language part of a bundle, by this package's engine."""

    distribution = "onnxruntime"

    def __init__(self, path: str, threads: int, capacity: int) -> None:
        from minicpm_o.checkpoints.bundle import Bundle
        from minicpm_o.runtime.device import plan_device
        from minicpm_o.runtime.engine import Engine

        self.engine = Engine.from_bundle(Bundle.open(Path(path)), plan_device(threads=threads))
        self.cache = self.engine.new_cache(capacity)

    def prefill(self, ids: list[int]) -> int:
        self.cache.truncate(0)
        return int(self.engine.prefill(self.engine.embed(ids), self.cache).logits.argmax())

    def decode(self, token: int) -> int:
        return int(self.engine.decode(token, self.cache).logits.argmax())


class LlamaCpp(Stepwise):
    """llama.cpp through its C interface, so that no Python of its bindings is in the way."""

    distribution = "llama-cpp-python"

    def __init__(self, path: str, threads: int, capacity: int) -> None:
        import llama_cpp
        import numpy as np

        self.api, self.numpy = llama_cpp, np
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = capacity, 512, 512
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def prefill(self, ids: list[int]) -> int:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
        return self._run(ids)

    def decode(self, token: int) -> int:
        return self._run([token])

    def _run(self, ids: list[int]) -> int:
        tokens = (self.api.llama_token * len(ids))(*ids)
        if self.api.llama_decode(self.context, self.api.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("llama_decode failed")
        logits = self.api.llama_get_logits_ith(self.context, -1)
        return int(self.numpy.ctypeslib.as_array(logits, shape=(self.vocab_size,)).argmax())


class OpenVino:
    """OpenVINO GenAI's pipeline, which makes its own model of a GGUF file and runs a whole answer in one call."""

    distribution = "openvino-genai"

    def __init__(self, path: str, threads: int, capacity: int) -> None:
        import numpy as np
        import openvino
        import openvino_genai

        self.api, self.openvino, self.numpy = openvino_genai, openvino, np
        # its pipeline with one state: the other one keeps prompts, and a round would find the last one's
        self.pipeline = openvino_genai.LLMPipeline(path, "CPU", ATTENTION_BACKEND="SDPA",
                                                   INFERENCE_NUM_THREADS=threads, PERFORMANCE_HINT="LATENCY")

    def lap(self, ids: list[int], decode: int) -> Lap:
        times: list[float] = []

        def hear(_: Any) -> Any:
            times.append(time.perf_counter())
            return self.api.StreamingStatus.RUNNING

        prompt = self.openvino.Tensor(self.numpy.array([ids], self.numpy.int64))
        wish = self.api.GenerationConfig(max_new_tokens=decode + 1, ignore_eos=True, do_sample=False)
        started = time.perf_counter()
        found = self.pipeline.generate(prompt, wish, _token_streamer(self.api, hear))
        tokens = tuple(int(token) for token in found.tokens[0])[: decode + 1]
        if len(tokens) != decode + 1 or len(times) < decode + 1:
            raise RuntimeError(f"OpenVINO GenAI made {len(tokens)} tokens in {len(times)} steps, not {decode + 1}")
        return Lap(times[0] - started, times[decode] - times[0], tokens)


def _token_streamer(api: Any, hear: Any) -> Any:
    """What the pipeline tells of every token, without making text of it."""

    class Streamer(api.StreamerBase):  # type: ignore[misc,name-defined]
        def write(self, token: Any) -> Any:
            return hear(token)

        def end(self) -> None:
            pass

    return Streamer()


class OrtGenAi:
    """onnxruntime-genai on a folder of its own model builder."""

    distribution = "onnxruntime-genai"

    def __init__(self, path: str, threads: int, capacity: int) -> None:
        import onnxruntime_genai

        self.api, self.capacity = onnxruntime_genai, capacity
        config = onnxruntime_genai.Config(path)
        options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = onnxruntime_genai.Model(config)

    def lap(self, ids: list[int], decode: int) -> Lap:
        params = self.api.GeneratorParams(self.model)
        # the shortest answer is longer than what is asked for, so that no end token ends it
        params.set_search_options(max_length=self.capacity, min_length=self.capacity, do_sample=False)
        generator = self.api.Generator(self.model, params)
        started = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        read = time.perf_counter()
        for _ in range(decode):
            generator.generate_next_token()
        decode_s = time.perf_counter() - read
        tokens = tuple(int(token) for token in generator.get_sequence(0)[len(ids):])
        return Lap(read - started, decode_s, tokens)


class Transformers(Stepwise):
    """transformers and torch in bfloat16, without gradients; no compiler, as most people run it."""

    distribution = "torch"

    def __init__(self, path: str, threads: int, capacity: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
        self.past: Any = None

    def prefill(self, ids: list[int]) -> int:
        self.past = None
        return self._run(ids)

    def decode(self, token: int) -> int:
        return self._run([token])

    def _run(self, ids: list[int]) -> int:
        found = self.model(self.torch.tensor([ids]), past_key_values=self.past, use_cache=True, logits_to_keep=1)
        self.past = found.past_key_values
        return int(found.logits[0, -1].argmax())


SIDES: Mapping[str, Any] = {"ours": Ours, "llama": LlamaCpp, "openvino": OpenVino, "ort-genai": OrtGenAi,
                            "transformers": Transformers}
"""By the words of `race --worker`; each is made of a path, a number of threads and the tokens a cache must hold."""
