"""Decode and prefill of nano's language part against llama.cpp, on the same weights, threads and tokens.

    pip install 'minicpm-o[bench]'
    python benchmarks/language_vs_llamacpp.py --out benchmarks/results/language_vs_llamacpp.json

Each engine runs in a process of its own and waits while the other works. Rounds are interleaved and every ratio is
taken within a round, so that a change of the machine's load touches both sides; the medians of the ratios are
reported. llama.cpp runs the GGUF as it is published (Q4_1) and, requantised from it, as Q8_0 and Q4_0.
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parent))
import common

REST_S = 0.05
"""Pause after a measurement: the threads of the engine that has just worked stop spinning."""
ILLEGAL_INSTRUCTION = """llama.cpp used an instruction that this processor announces but does not run (AMX in some
virtual machines). Build it without, then run this again:
CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX_VNNI=ON
-DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON"
pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python llama-cpp-python"""
QUANTISATIONS = {"q4_0": 2, "q8_0": 7}
"""llama.cpp's numbers of the file types that are made from the published file."""


class Side(Protocol):
    """An engine under test."""

    def prefill(self, ids: list[int]) -> int:
        """Forget everything, read ids, return the likeliest next token."""
        ...

    def decode(self, token: int) -> int:
        """Read one token, return the likeliest next one."""
        ...


class Ours:
    """nano's engine, over the assembled bundle."""

    def __init__(self, path: str, threads: int, capacity: int) -> None:
        from minicpm_o.checkpoints.bundle import Bundle
        from minicpm_o.runtime.device import plan_device
        from minicpm_o.runtime.engine import Engine

        bundle = Bundle.open(Path(path))
        self.engine = Engine.from_bundle(bundle, plan_device(bundle, threads))
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

    def __init__(self, python: str, engine: str, path: Path, threads: int, capacity: int) -> None:
        command = [python, __file__, "--worker", engine, "--path", str(path), "--threads", str(threads),
                   "--capacity", str(capacity)]
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


def requantise(python: str, source: Path, target: Path, file_type: int) -> None:
    """Let llama.cpp write the same weights in another of its formats."""
    code = (
        "import sys, llama_cpp as l; p = l.llama_model_quantize_default_params(); p.allow_requantize = True;"
        f"p.ftype = {file_type}; sys.exit(l.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), p))"
    )
    subprocess.run([python, "-c", code, str(source), str(target)], check=True, capture_output=True)


def prompt_ids(length: int, vocab_size: int) -> list[int]:
    """Arbitrary text tokens, the same in every run."""
    import numpy as np

    return np.random.default_rng(0).integers(300, vocab_size, length).tolist()


def measure(workers: dict[str, Worker], args: argparse.Namespace, vocab_size: int) -> dict[str, list[dict[str, float]]]:
    """Rounds in which every engine works once, in turning order; the first round only warms up."""
    ids = prompt_ids(args.prompt, vocab_size)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    names = list(workers)
    for index in range(args.rounds + 1):
        for name in names[index % len(names):] + names[: index % len(names)]:
            answer = workers[name].ask(ids, args.decode)
            rates = {"prefill": args.prompt / answer["prefill_s"], "decode": args.decode / answer["decode_s"],
                     "peak_rss_mb": answer["peak_rss_mb"]}
            if index:
                rounds[name].append(rates)
        print(f"round {index} of {args.rounds}", file=sys.stderr)
    return rounds


def summarise(rounds: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians of the speeds, and of the ratios ours / theirs within each round."""
    rows = []
    for name, measured in rounds.items():
        row: dict[str, Any] = {"engine": name, "peak_rss_mb": round(max(r["peak_rss_mb"] for r in measured), 1)}
        for what in ("decode", "prefill"):
            ratios = [ours[what] / theirs[what] for ours, theirs in zip(rounds["nano"], measured, strict=True)]
            row[f"{what}_tokens_per_s"] = round(statistics.median(r[what] for r in measured), 1)
            row[f"{what}_ratio"] = round(statistics.median(ratios), 3)
            row[f"{what}_ratios"] = [round(ratio, 3) for ratio in ratios]
        rows.append(row)
    return rows


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    rows = [(r["engine"], r["decode_tokens_per_s"], r["decode_ratio"], r["prefill_tokens_per_s"], r["prefill_ratio"],
             r["peak_rss_mb"]) for r in report["engines"]]
    head = ("engine", "decode tok/s", "nano / it", "prefill tok/s", "nano / it", "peak MB")
    how = (f"{report['rounds']} interleaved rounds, prompt of {report['prompt']} tokens, {report['decode']} tokens "
           f"decoded, {report['threads']} threads; medians.")
    return f"{common.table(head, rows)}\n\n{how} {common.provenance(report)}\n"


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Start the engines, measure, sum up."""
    from minicpm_o.checkpoints.bundle import Bundle
    from minicpm_o.checkpoints.hub import resolve

    folder = Path(resolve(args.model))
    bundle = Bundle.open(folder)
    gguf = Path(args.gguf) if args.gguf else find_gguf()
    capacity = args.prompt + args.decode + 8
    with ExitStack() as stack:
        files = {"llama.cpp Q4_1 (as published)": gguf}
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name, number in QUANTISATIONS.items():
            files[f"llama.cpp {name.upper()} (requantised)"] = scratch / f"{name}.gguf"
            requantise(args.llama_python, gguf, scratch / f"{name}.gguf", number)
        workers = {"nano": Worker(sys.executable, "ours", folder, args.threads, capacity)}
        for name, path in files.items():
            workers[name] = Worker(args.llama_python, "llama", path, args.threads, capacity)
        for worker in workers.values():
            stack.callback(worker.close)
        rounds = measure(workers, args, bundle.config.language.vocab_size)
    return {"name": "language_vs_llamacpp", "command": "python benchmarks/language_vs_llamacpp.py",
            "machine": common.machine(), "settings": bundle.settings, "prompt": args.prompt, "decode": args.decode,
            "rounds": args.rounds, "threads": args.threads, "engines": summarise(rounds)}




def find_gguf() -> Path:
    """The published file of the language part: installed, kept in the cache, or fetched now."""
    from minicpm_o.checkpoints.parts import LANGUAGE
    from minicpm_o.checkpoints.progress import ProgressReport
    from minicpm_o.checkpoints.pull import PartStore
    from minicpm_o.checkpoints.storage import default_home, home_lock

    home = default_home()
    with ProgressReport(True) as report, home_lock(home, report.say):
        (path,) = PartStore(home, None, report).get(LANGUAGE).values()
        return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", help="SmolLM2-135M-Instruct.Q4_1.gguf; found by itself when its part was pulled")
    parser.add_argument("--model", default="nano", help="name of a model or the folder of a bundle")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="tokens to prefill")
    parser.add_argument("--decode", type=int, default=64, help="tokens to decode after it")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama-cpp-python")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "language_vs_llamacpp.json")
    parser.add_argument("--worker", choices=["ours", "llama"], help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    parser.add_argument("--capacity", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve((Ours if args.worker == "ours" else LlamaCpp)(args.path, args.threads, args.capacity))
        return
    report = run(args)
    common.publish(args.out, report, markdown(report))


if __name__ == "__main__":
    main()
