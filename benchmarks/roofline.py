"""How near to the machine's limit nano and larger shapes write, and how cost grows with what is asked.

    python benchmarks/roofline.py

A token needs every weight once, so no engine writes faster than the memory is read: limit = bandwidth / bytes of a
token. The bandwidth is measured beside every decode, with as many threads, over as many bytes as the model reads (a
small model may stay in a cache that a large one does not fit), in two ways of which the better counts: numpy's largest
of many numbers, and a float32 matrix times a vector by onnxruntime. Shares are taken within a round, medians reported.

Cost: decode and prefill after so many tokens (whose keys and values are zeros: they are read all the same), pictures
in a prompt, seconds of sound, conversations at once.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import common
import peers
import race
import shapes
import sound_peers
from minicpm_o.model.config import LanguageConfig

NAME = "roofline"
PLOT = common.ROOT / "docs" / "roofline.svg"
MEMORY_BYTES = 2_000_000_000
"""A pass over so much is not served by any cache."""
PASSES = 4
"""Over the bytes, of which the quickest counts."""
NOT_PER_TOKEN = ("cos_cache", "sin_cache")
"""Tables of which a token needs one row."""
CONTEXTS = {"nano": (128, 1024, 2048, 4096, 7600), "0.5b": (128, 1024, 2048, 4096, 8192, 16_384, 32_000)}
"""Tokens before; the context windows are 8,192 and 32,768."""
CHUNK_TOKENS, STEP_TOKENS = 256, 12
PICTURES, SOUND_S, SESSIONS = (1, 2, 4, 8), (5, 15, 30, 60), (1, 2, 4)
SESSION_TOKENS = 48
Bandwidth = Callable[[], float]


@dataclass(frozen=True)
class Setup:
    """What is measured with."""

    threads: int
    rounds: int
    work: Path


# The limit


def model_bytes(graph: Path) -> int:
    """Bytes of all tensors of a graph that a token reads: weights, scales, zero points, gains."""
    import onnx
    from onnx import numpy_helper

    total = 0
    for tensor in onnx.load(graph, load_external_data=False).graph.initializer:
        if tensor.name not in NOT_PER_TOKEN:
            outside = {entry.key: entry.value for entry in tensor.external_data}
            total += int(outside["length"]) if outside else numpy_helper.to_array(tensor).nbytes
    return total


def token_bytes(graph: Path, config: LanguageConfig, context_tokens: int) -> int:
    """What one token reads: the model, its row of the word table, keys and values of the tokens before."""
    from minicpm_o.runtime.cache import cache_bytes

    return model_bytes(graph) + config.width + cache_bytes(config, context_tokens)


def numpy_pass(num_bytes: int, threads: int) -> Bandwidth:
    """A pass by numpy: every thread looks for the largest of its share. Gives bytes a second."""
    arrays = [np.ones(num_bytes // threads // 4, np.float32) for _ in range(threads)]

    def once() -> float:
        workers = [threading.Thread(target=np.max, args=(array,)) for array in arrays]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(array.nbytes for array in arrays) / (time.perf_counter() - started)

    return once


def onnxruntime_pass(num_bytes: int, threads: int, folder: Path) -> Bandwidth:
    """A pass by onnxruntime: a matrix of so many bytes times a vector. Gives bytes a second."""
    from minicpm_o.checkpoints.graphs.builder import FLOAT, GraphBuilder
    from minicpm_o.runtime.device import make_session, plan_device

    width = 1024
    weight = np.ones((num_bytes // width // 4, width), np.float32)
    path = folder / f"pass_{num_bytes}.onnx"
    with GraphBuilder.streaming("pass", path) as graph:
        graph.input("x", FLOAT, [1, width])
        graph.output("y", FLOAT, [1, len(weight)])
        graph.linear("x", weight, None, "matrix", bits=None, out="y")
    session = make_session(path, plan_device(threads=threads), kind="language")
    vector = np.ones((1, width), np.float32)

    def once() -> float:
        started = time.perf_counter()
        session.run(["y"], {"x": vector})
        return weight.nbytes / (time.perf_counter() - started)

    return once


def bandwidth(passes: Sequence[Bandwidth]) -> float:
    """The best of some passes of every way, bytes a second."""
    return max(once() for once in passes for _ in range(PASSES))


def limit_of(shape: shapes.Shape, bits: int, setup: Setup) -> dict[str, Any]:
    """One model's speed beside the bandwidth over as many bytes."""
    course = race.Course(prompt=64, decode=32, rounds=setup.rounds, threads=setup.threads)
    folder = shapes.Files(shape, setup.work).bundle(bits)
    read = token_bytes(folder / "language.onnx", shape.config, course.prompt + course.decode // 2)
    ids = race.prompt_ids(course.prompt, shape.config.vocab_size)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        worker = race.Worker(race.Entrant("ours", folder), course)
        stack.callback(worker.close)
        passes = [numpy_pass(read, setup.threads), onnxruntime_pass(read, setup.threads, scratch)]
        worker.ask(ids, 2)
        rounds = [(bandwidth(passes), course.decode / worker.ask(ids, course.decode)["decode_s"])
                  for _ in range(setup.rounds)]
    return {"model": f"{shape.name}, {bits} bits", "parameters": shape.parameters, "bytes_per_token": read,
            **share_of(rounds, read)}


def share_of(rounds: Sequence[tuple[float, float]], read: int) -> dict[str, float]:
    """Rounds of (bytes a second, tokens a second), and the bytes of a token, to medians."""
    return {"bandwidth_gb_s": round(statistics.median(limit for limit, _ in rounds) / 1e9, 2),
            "tokens_per_s": round(statistics.median(rate for _, rate in rounds), 2),
            "limit_tokens_per_s": round(statistics.median(limit / read for limit, _ in rounds), 2),
            "share": round(statistics.median(rate * read / limit for limit, rate in rounds), 3)}


def memory_bandwidth(setup: Setup) -> float:
    """Of memory itself, 10^9 bytes a second."""
    with tempfile.TemporaryDirectory() as folder:
        passes = [numpy_pass(MEMORY_BYTES, setup.threads),
                  onnxruntime_pass(MEMORY_BYTES, setup.threads, Path(folder))]
        return round(bandwidth(passes) / 1e9, 2)


# Cost


def context_costs(shape: shapes.Shape, bits: int, setup: Setup) -> list[dict[str, Any]]:
    """Decode and prefill after more and more tokens."""
    from minicpm_o.checkpoints.bundle import Bundle
    from minicpm_o.runtime.device import plan_device
    from minicpm_o.runtime.engine import Engine

    bundle = Bundle.open(shapes.Files(shape, setup.work).bundle(bits))
    engine = Engine.from_bundle(bundle, plan_device(threads=setup.threads))
    rows = []
    for tokens in CONTEXTS[shape.name]:
        cache = engine.new_cache(tokens + CHUNK_TOKENS)
        embeds = engine.embed(race.prompt_ids(CHUNK_TOKENS, shape.config.vocab_size))

        def after(work: Callable[[], object], cache: Any = cache, tokens: int = tokens) -> float:
            cache.length = tokens
            return seconds(work)

        decode_s = statistics.median(after(lambda cache=cache: engine.decode(300, cache)) for _ in range(STEP_TOKENS))
        chunk_s = statistics.median(after(lambda cache=cache, embeds=embeds: engine.prefill(embeds, cache))
                                    for _ in range(2))
        rows.append({"model": f"{shape.name}, {bits} bits", "context_tokens": tokens,
                     "decode_ms": round(1000 * decode_s, 2), "prefill_tokens_per_s": round(CHUNK_TOKENS / chunk_s, 1),
                     "cache_mb": round(cache.nbytes / 1e6, 1)})
    return rows


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def picture_costs(model: Any, rounds: int) -> list[dict[str, Any]]:
    """First word to a question about so many different pictures."""
    from minicpm_o import ImagePart
    from minicpm_o.evaluation.speed import sample
    from minicpm_o.inputs.image import load_image

    photo = load_image(sample("photo.jpg"))
    pictures = [photo.rotate(3 * turn) for turn in range(max(PICTURES))]  # equal ones would be looked at once
    return [{"pictures": count, **first_word(model, [ImagePart(picture) for picture in pictures[:count]], rounds)}
            for count in PICTURES]


def sound_costs(model: Any, rounds: int) -> list[dict[str, Any]]:
    """First word to a question after so much sound, heard by nano's own ears and by the recogniser."""
    from minicpm_o import AudioPart

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length, (path, _) in sound_peers.make_sounds(Path(folder), SOUND_S).items():
            found = {name: first_word(model, [AudioPart(str(path))], rounds, transcript=name == "recogniser")
                     for name in ("own ears", "recogniser")}
            rows += [{"sound_s": length, "heard_by": name, **cost} for name, cost in found.items()]
    return rows


def first_word(model: Any, parts: list[Any], rounds: int, *, transcript: bool = True) -> dict[str, Any]:
    """Median seconds from a question to its first word, nothing kept from the one before; tokens of its prompt."""
    from minicpm_o import Message, TextPart

    replies = []
    for _ in range(rounds + 1):
        model.forget()
        replies.append(model.chat([Message("user", (*parts, TextPart("What is this?")))], max_tokens=2,
                                  transcript=transcript))
    waits = [reply.timing.ttft_s or reply.timing.total_s for reply in replies[1:]]
    return {"first_word_s": round(statistics.median(waits), 3), "prompt_tokens": replies[-1].usage.prompt}


def session_costs(setup: Setup) -> list[dict[str, Any]]:
    """Tokens a second of several conversations that write at once, all together."""
    from minicpm_o.checkpoints.bundle import Bundle
    from minicpm_o.checkpoints.hub import resolve
    from minicpm_o.runtime.batching import SharedEngine
    from minicpm_o.runtime.device import plan_device

    engine = SharedEngine.from_bundle(Bundle.open(Path(resolve("nano"))), plan_device(threads=setup.threads))
    rows = []
    for count in SESSIONS:
        caches = [engine.new_cache(128) for _ in range(count)]
        for cache in caches:
            engine.prefill(engine.embed(race.prompt_ids(32, engine.config.vocab_size)), cache)
        rates = [count * SESSION_TOKENS / seconds(lambda caches=caches: write_at_once(engine, caches))
                 for _ in range(2)]
        rows.append({"sessions": count, "tokens_per_s": round(max(rates), 1), "each": round(max(rates) / count, 1)})
    return rows


def write_at_once(engine: Any, caches: Sequence[Any]) -> None:
    """Every conversation decodes in a thread of its own."""
    def write(cache: Any) -> None:
        cache.truncate(32)
        for _ in range(SESSION_TOKENS):
            engine.decode(300, cache)

    threads = [threading.Thread(target=write, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# The report


def measure(setup: Setup, names: Sequence[str]) -> dict[str, Any]:
    """Everything, limits first."""
    from minicpm_o import MiniCPMO

    known = shapes.all_shapes()
    limits = []
    for name in names:
        for bits in peers.bits_of(known[name]):
            tell(f"{name}, {bits} bits, against the bandwidth")
            limits.append(limit_of(known[name], bits, setup))
    tell("memory, and cost against context")
    report = {"name": NAME, "command": f"python benchmarks/{NAME}.py", "machine": common.machine(),
              "threads": setup.threads, "rounds": setup.rounds, "limits": limits,
              "memory_gb_s": memory_bandwidth(setup)}
    report["context"] = [row for name, bits in (("nano", 8), ("0.5b", 4)) if name in names
                         for row in context_costs(known[name], bits, setup)]
    tell("pictures, sound, sessions")
    model = MiniCPMO.from_pretrained("nano", threads=setup.threads, progress=False)
    rounds = max(1, setup.rounds // 2)
    return report | {"pictures": picture_costs(model, rounds), "sound": sound_costs(model, rounds),
                     "sessions": session_costs(setup)}


def tell(words: str) -> None:
    print(f"measuring {words}", file=sys.stderr, flush=True)


def tables(report: dict[str, Any]) -> list[str]:
    """The report for people, a table for each question."""
    limits = [(row["model"], round(row["bytes_per_token"] / 1e6, 1), row["bandwidth_gb_s"], row["limit_tokens_per_s"],
               row["tokens_per_s"], f"{row['share']:.0%}") for row in report["limits"]]
    context = [(row["model"], row["context_tokens"], row["decode_ms"], row["prefill_tokens_per_s"], row["cache_mb"])
               for row in report["context"]]
    sound = [(f"{row['sound_s']} s of sound, {row['heard_by']}", row["prompt_tokens"], row["first_word_s"])
             for row in report["sound"]]
    pictures = [(f"{row['pictures']} pictures", row["prompt_tokens"], row["first_word_s"])
                for row in report["pictures"]]
    sessions = [(row["sessions"], row["tokens_per_s"], row["each"]) for row in report["sessions"]]
    return [
        common.table(("model", "MB a token", "GB/s over as many", "limit tok/s", "decode tok/s", "share"), limits),
        f"Memory alone: {report['memory_gb_s']} GB/s.",
        common.table(("model", "tokens before", "ms a token", "prefill tok/s", "cache MB"), context),
        common.table(("question about", "prompt tokens", "first word s"), [*pictures, *sound]),
        common.table(("conversations at once", "tok/s together", "tok/s each"), sessions),
    ]


def markdown(report: dict[str, Any]) -> str:
    how = f"{report['rounds']} rounds, {report['threads']} threads; medians. {common.provenance(report)}"
    return "\n\n".join([*tables(report), how]) + "\n"


def plot(report: dict[str, Any], path: Path) -> None:
    """Tokens a second against bytes of a token: a line where memory ends, a dot for each model."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = NAME  # the same report draws the same file
    from matplotlib import pyplot

    limits = report["limits"]
    sizes = [row["bytes_per_token"] / 1e6 for row in limits]
    ends = np.array([min(sizes) / 2, max(sizes) * 2])
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    axes.loglog(ends, 1000 * report["memory_gb_s"] / ends, color="#555", label=f"memory, {report['memory_gb_s']} GB/s")
    axes.scatter(sizes, [row["limit_tokens_per_s"] for row in limits], marker="_", s=160, color="#c0392b",
                 label="bandwidth over as many bytes")
    axes.scatter(sizes, [row["tokens_per_s"] for row in limits], color="#2471a3", zorder=3, label="measured")
    for size, row in zip(sizes, limits, strict=True):
        axes.annotate(f" {row['model']}: {row['share']:.0%}", (size, row["tokens_per_s"]), va="top", fontsize=8)
    axes.set(xlabel="MB that a token reads", ylabel="tokens a second", title="Decode against the memory's limit")
    axes.set_ylim(top=10 ** math.ceil(math.log10(max(row["limit_tokens_per_s"] for row in limits))))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=sorted(shapes.all_shapes()), default=["nano", "0.5b"])
    parser.add_argument("--threads", type=int, default=race.Course().threads)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--work", type=Path, help="where the models are kept; default: beside nano")
    parser.add_argument("--out", type=Path, default=common.RESULTS / f"{NAME}.json")
    args = parser.parse_args()
    report = measure(Setup(args.threads, args.rounds, args.work or shapes.default_work()), args.shapes)
    common.publish(args.out, report, markdown(report))


if __name__ == "__main__":
    main()
