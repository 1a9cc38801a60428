"""Language models raced on the same tokens and threads, each in a process of its own that waits while others work.

Rounds are interleaved and every ratio is taken within a round, so that a change of the machine's load touches all
sides; medians are reported. What is raced, and why, is the affair of the benchmarks that call `run`.

A worker runs this very file, in a Python of its own choice: llama.cpp's need not have this package.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import common
import engines

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

    engine: str
    """A key of `engines.SIDES`."""
    path: Path
    python: str = sys.executable


def serve(make: Callable[[], Any], answer: Callable[[Any, dict[str, Any]], dict[str, Any]]) -> None:
    """The other end of a `Talk`: makes what is raced, says how long that took, then answers order after order."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # engines that print shall not answer
    started = time.perf_counter()
    side = make()
    ready = {"load_s": time.perf_counter() - started, "version": metadata.version(side.distribution)}
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        found = answer(side, json.loads(line))
        print(json.dumps({**found, "peak_rss_mb": peak_rss_mb()}), file=answers, flush=True)


def peak_rss_mb() -> float:
    """Most memory this process has held, 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count the process that started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


class EngineError(SystemExit):
    """An engine's process ended; it says why. Whoever does not expect it ends with it."""

    def __init__(self, text: str, reason: str | None = None) -> None:
        super().__init__(text)
        self.reason = reason or common.last_words(text)
        """In one line, for a report."""


class Talk:
    """A process that answers a line of JSON with a line of JSON; the first line, unasked, says that it is ready.

    Raises EngineError, with the end of what it complained of, when it ends too early.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in close()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        text=True)
        self.ready = self._read()

    def order(self, **order: Any) -> dict[str, Any]:
        """Give one order and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self._read()
        time.sleep(REST_S)
        return answer

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._fault()
        return dict(json.loads(line))

    def _fault(self) -> EngineError:
        """Why the process is no more."""
        if self.process.wait() == -signal.SIGILL:
            return EngineError(ILLEGAL_INSTRUCTION, "it used an instruction that this processor announces and does not "
                                                    "run; build it without")
        self.errors.seek(0)
        return EngineError(f"an engine ended with exit code {self.process.returncode}:\n{self.errors.read()[-2000:]}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


class Worker(Talk):
    """A process that holds one language engine."""

    def __init__(self, entrant: Entrant, course: Course) -> None:
        super().__init__([entrant.python, __file__, "--worker", entrant.engine, "--path", str(entrant.path),
                          "--threads", str(course.threads), "--capacity", str(course.capacity)])

    def ask(self, ids: list[int], decode: int) -> dict[str, Any]:
        """Prefill ids, then decode that many tokens."""
        return self.order(ids=ids, decode=decode)


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
    parser.add_argument("--worker", choices=sorted(engines.SIDES), required=True)
    parser.add_argument("--path", required=True, help="bundle, GGUF file or folder, as the engine reads")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--capacity", type=int, required=True, help="tokens that the cache must hold")
    args = parser.parse_args()
    serve(lambda: engines.SIDES[args.worker](args.path, args.threads, args.capacity),
          lambda side, order: asdict(side.lap(order["ids"], order["decode"])))


if __name__ == "__main__":
    main()
