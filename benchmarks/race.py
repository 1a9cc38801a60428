"""Language models raced on the same tokens and threads, each in a process of its own that waits while others work.

Rounds are interleaved and every ratio is taken within a round, so that a change of the machine's load touches all
sides; medians are reported. What is raced, and why, is the affair of the benchmarks that call `run`.

A worker runs this very file, in a Python of its own choice: llama.cpp's need not have this package.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

sys.path.insert(0, str(Path(__file__).parent))
import common

REST_S = 0.05
"""Pause after a measurement: the threads of the engine that has just worked stop spinning."""
ILLEGAL_INSTRUCTION = """llama.cpp used an instruction that this processor announces but does not run (AMX in some
virtual machines). Build it without, then run this again:
CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX_VNNI=ON
-DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON"
pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"""
Say = Callable[[str], str]
Rates = dict[str, float]


@dataclass(frozen=True)
class Course:
    """What every engine runs."""

    prompt: int = 512
    """Tokens to prefill."""
    decode: int = 64
    """Tokens to decode after them."""
    rounds: int = 8
    threads: int = 2

    @property
    def capacity(self) -> int:
        """Tokens that a cache must hold."""
        return self.prompt + self.decode + 8


@dataclass(frozen=True)
class Entrant:
    """An engine, its weights, and the Python that has it."""

    engine: Literal["ours", "llama"]
    path: Path
    python: str = sys.executable


class Side(Protocol):
    """An engine under test."""

    def prefill(self, ids: list[int]) -> int:
        """Forget everything, read ids, return the likeliest next token."""
        ...

    def decode(self, token: int) -> int:
        """Read one token, return the likeliest next one."""
        ...


class Ours:
    """The language part of a bundle, by this package's engine."""

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


class LlamaCpp:
    """llama.cpp through its C interface, so that no Python of its bindings is in the way."""

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


def serve(side: Side) -> None:
    """Worker: one JSON order a line on stdin, one JSON answer a line on the real stdout."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        started = time.perf_counter()
        token = side.prefill(order["ids"])
        prefill_s = time.perf_counter() - started
        tokens = [token]
        started = time.perf_counter()
        for _ in range(order["decode"]):
            tokens.append(side.decode(tokens[-1]))
        decode_s = time.perf_counter() - started
        answer = {"prefill_s": prefill_s, "decode_s": decode_s, "tokens": tokens, "peak_rss_mb": peak_rss_mb()}
        print(json.dumps(answer), flush=True)


def peak_rss_mb() -> float:
    """Most memory this process has held, 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


class Worker:
    """A process that holds one engine."""

    def __init__(self, entrant: Entrant, course: Course) -> None:
        command = [entrant.python, __file__, "--worker", entrant.engine, "--path", str(entrant.path),
                   "--threads", str(course.threads), "--capacity", str(course.capacity)]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        text=True)
        self._read()

    def ask(self, ids: list[int], decode: int) -> dict[str, Any]:
        """Prefill ids, then decode that many tokens."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"ids": ids, "decode": decode}) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        time.sleep(REST_S)
        return answer

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(self._why())
        return dict(json.loads(line))

    def _why(self) -> str:
        """Why the process is no more."""
        if self.process.wait() == -signal.SIGILL:
            return ILLEGAL_INSTRUCTION
        self.errors.seek(0)
        return f"an engine ended with exit code {self.process.returncode}:\n{self.errors.read()[-2000:]}"

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


def prompt_ids(length: int, vocab_size: int) -> list[int]:
    """Arbitrary text tokens, the same in every run."""
    import numpy as np

    return np.random.default_rng(0).integers(300, vocab_size, length).tolist()


def run(entrants: Mapping[str, Entrant], course: Course, vocab_size: int) -> list[dict[str, Any]]:
    """Start all engines, race them, sum up. The first one is ours: ratios are its speed over each other's."""
    with ExitStack() as stack:
        workers = {}
        for name, entrant in entrants.items():
            workers[name] = Worker(entrant, course)
            stack.callback(workers[name].close)
        return summarise(measure(workers, course, vocab_size))


def measure(workers: Mapping[str, Worker], course: Course, vocab_size: int) -> dict[str, list[Rates]]:
    """Rounds in which every engine works once, in turning order; the first round only warms up."""
    ids = prompt_ids(course.prompt, vocab_size)
    rounds: dict[str, list[Rates]] = {name: [] for name in workers}
    names = list(workers)
    for index in range(course.rounds + 1):
        for name in names[index % len(names):] + names[: index % len(names)]:
            answer = workers[name].ask(ids, course.decode)
            rates = {"prefill": course.prompt / answer["prefill_s"], "decode": course.decode / answer["decode_s"],
                     "peak_rss_mb": answer["peak_rss_mb"]}
            if index:
                rounds[name].append(rates)
        print(f"round {index} of {course.rounds}", file=sys.stderr)
    return rounds


def summarise(rounds: Mapping[str, list[Rates]]) -> list[dict[str, Any]]:
    """Medians of the speeds, and of the ratios first engine / each within every round."""
    rows = []
    first = next(iter(rounds.values()))
    for name, measured in rounds.items():
        row: dict[str, Any] = {"engine": name, "peak_rss_mb": round(max(r["peak_rss_mb"] for r in measured), 1)}
        for what in ("decode", "prefill"):
            ratios = [ours[what] / theirs[what] for ours, theirs in zip(first, measured, strict=True)]
            row[f"{what}_tokens_per_s"] = round(statistics.median(r[what] for r in measured), 1)
            row[f"{what}_ratio"] = round(statistics.median(ratios), 3)
            row[f"{what}_ratios"] = [round(ratio, 3) for ratio in ratios]
        rows.append(row)
    return rows


def table(engines: list[dict[str, Any]], ours: str, say: Say = str) -> str:
    """The rows of `summarise` for people; ours: what the first engine is called in the heads of its ratios."""
    head = ("engine", "decode tok/s", f"{ours} / it", "prefill tok/s", f"{ours} / it", "peak MB")
    rows = [(row["engine"], row["decode_tokens_per_s"], row["decode_ratio"], row["prefill_tokens_per_s"],
             row["prefill_ratio"], row["peak_rss_mb"]) for row in engines]
    return common.table([say(word) for word in head], rows)


def add_course_options(parser: argparse.ArgumentParser, default: Course) -> None:
    """The options that `course_of` reads, and the Python of llama.cpp."""
    parser.add_argument("--threads", type=int, default=default.threads)
    parser.add_argument("--prompt", type=int, default=default.prompt, help="tokens to prefill")
    parser.add_argument("--decode", type=int, default=default.decode, help="tokens to decode after it")
    parser.add_argument("--rounds", type=int, default=default.rounds)
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama-cpp-python")


def course_of(args: argparse.Namespace) -> Course:
    return Course(args.prompt, args.decode, args.rounds, args.threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", choices=["ours", "llama"], required=True)
    parser.add_argument("--path", required=True, help="bundle or GGUF file")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--capacity", type=int, required=True, help="tokens that the cache must hold")
    args = parser.parse_args()
    serve((Ours if args.worker == "ours" else LlamaCpp)(args.path, args.threads, args.capacity))


if __name__ == "__main__":
    main()
