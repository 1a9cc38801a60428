"""What reading ahead brings: nano's greedy answers plain and speculative, prompt by prompt in turn.

    python benchmarks/speculative.py

Two sets of prompts of our own in benchmarks/texts: `chat`, everyday requests, and `repetitive`, lists, tables, copies
and code that nano answers in 20 tokens or more. Each prompt is answered both ways in every round, in an order that
turns, from a prompt that lies in the cache: what is timed is the answer's own tokens. Reported: the median over prompts
of the ratio of their median times, the ratio of all tokens a second, and the share of guesses that were right. Ends
with exit code 1 when an answer differs.

Then what a run over several tokens costs, for nano and, with --shape, for a random model as large as Qwen2.5-0.5B.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import common
from minicpm_o import MiniCPMO
from minicpm_o.model.config import LanguageConfig
from minicpm_o.runtime.device import plan_device
from minicpm_o.runtime.engine import Embeddings, Engine, open_steady
from minicpm_o.runtime.speculate import MOST_DRAFTED, Speculator

SETS = ("chat", "repetitive")
WAYS = (False, True)
SHAPE = LanguageConfig(kind="qwen2", vocab_size=151_936, width=896, layers=24, heads=14, kv_heads=2, head_width=64,
                       ffn=4864, norm_eps=1e-6, rope_theta=1e6, context_tokens=2048, tied_head=True)
"""Qwen2.5-0.5B's (arXiv:2412.15115)."""
PAST_TOKENS = 200


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    model = MiniCPMO.from_pretrained(options.model, threads=options.threads)
    model.chat("Tell me about the weather.", max_tokens=12)  # opens everything, and proves that reading ahead is exact
    report: dict[str, Any] = {
        "machine": common.machine(), "command": "python benchmarks/speculative.py", "threads": model.plan.threads,
        "rounds": options.rounds, "is_exact": model.parts.engine.is_exact,
        "sets": {name: summed(list(race(model, prompts_of(name), options.rounds))) for name in SETS},
        "run_costs": {"nano, 8 bits": run_costs(model.parts.engine)},
    }
    if options.shape:
        report["run_costs"]["0.5B shape, 4 bits"] = run_costs(random_engine(options.threads))
    common.publish(options.out, report, page(report))
    return 0 if all(found["identical"] for found in report["sets"].values()) else 1


def prompts_of(name: str) -> list[str]:
    """The prompts of a set."""
    lines = (common.ROOT / "benchmarks" / "texts" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def race(model: MiniCPMO, prompts: Sequence[str], rounds: int) -> Iterator[dict[str, Any]]:
    """One row per prompt: median seconds both ways, and what reading ahead did."""
    for number, prompt in enumerate(prompts):
        seconds: dict[bool, list[float]] = {way: [] for way in WAYS}
        said: dict[bool, tuple[str, int]] = {}
        for turn in range(rounds):
            for way in WAYS if (turn + number) % 2 else WAYS[::-1]:
                model.speculate = way
                model.read_ahead(prompt)
                started = time.perf_counter()
                reply = model.chat(prompt, temperature=0.0)
                seconds[way].append(time.perf_counter() - started)
                said[way] = reply.text, reply.usage.output
        plain_s, ahead_s = (statistics.median(seconds[way]) for way in WAYS)
        yield {"prompt": prompt, "tokens": said[True][1], "plain_s": round(plain_s, 4),
               "speculative_s": round(ahead_s, 4), "ratio": round(plain_s / ahead_s, 3),
               "identical": said[True] == said[False], **tallied(model, prompt)}


def tallied(model: MiniCPMO, prompt: str) -> dict[str, int]:
    """Runs, guesses read and guesses right, of one more answer."""
    made: list[Speculator] = []
    speculating = model._speculating
    model.speculate, model._speculating = True, lambda *given: made.append(speculating(*given)) or made[-1]  # type: ignore
    try:
        model.chat(prompt, temperature=0.0)
    finally:
        model._speculating = speculating  # type: ignore[method-assign]
    return vars(made[0].tally)


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A set's figures."""
    tokens, plain_s, ahead_s = (sum(row[name] for row in rows) for name in ("tokens", "plain_s", "speculative_s"))
    drafted, accepted, runs = (sum(row[name] for row in rows) for name in ("drafted", "accepted", "runs"))
    ratios = sorted(row["ratio"] for row in rows)
    return {"median_ratio": round(statistics.median(ratios), 3), "least_ratio": ratios[0], "greatest_ratio": ratios[-1],
            "tokens_ratio": round(plain_s / ahead_s, 3), "tokens": tokens,
            "plain_tokens_per_s": round(tokens / plain_s, 1), "speculative_tokens_per_s": round(tokens / ahead_s, 1),
            "accepted_share": round(accepted / max(1, drafted), 3), "tokens_per_run": round(tokens / runs, 2),
            "identical": all(row["identical"] for row in rows), "prompts": rows}


def run_costs(engine: Engine, rounds: int = 15) -> dict[str, float]:
    """Milliseconds of a run over 1, 2, ... tokens with all their logits, median of interleaved rounds."""
    ids = np.random.default_rng(0).integers(0, engine.config.vocab_size, PAST_TOKENS).tolist()
    cache = engine.new_cache(512)
    engine.prefill(engine.embed(ids), cache)
    times: dict[int, list[float]] = {count: [] for count in range(1, MOST_DRAFTED + 2)}
    for _ in range(rounds):
        for count, found in times.items():
            cache.truncate(PAST_TOKENS)
            started = time.perf_counter()
            engine.verify(ids[:count], cache)
            found.append(1e3 * (time.perf_counter() - started))
    return {str(count): round(statistics.median(found[2:]), 2) for count, found in times.items()}


def random_engine(threads: int | None) -> Engine:
    """A random model of SHAPE in 4 bits; the embeddings are zeros, which costs the same."""
    from minicpm_o.checkpoints.graphs.language import build_language

    rng, weights = np.random.default_rng(0), {}
    queries, keys = SHAPE.heads * SHAPE.head_width, SHAPE.kv_heads * SHAPE.head_width
    shapes = {"self_attn.q_proj": (queries, SHAPE.width), "self_attn.k_proj": (keys, SHAPE.width),
              "self_attn.v_proj": (keys, SHAPE.width), "self_attn.o_proj": (SHAPE.width, queries),
              "mlp.gate_proj": (SHAPE.ffn, SHAPE.width), "mlp.up_proj": (SHAPE.ffn, SHAPE.width),
              "mlp.down_proj": (SHAPE.width, SHAPE.ffn)}
    one_layer = {name: (0.02 * rng.standard_normal(shape, np.float32)) for name, shape in shapes.items()}
    for layer in range(SHAPE.layers):  # the same numbers in every layer: they cost the same to read
        name = f"model.layers.{layer}"
        weights |= {f"{name}.{part}.weight": matrix for part, matrix in one_layer.items()}
        weights |= {f"{name}.self_attn.{part}_proj.bias": np.zeros(rows, np.float32)
                    for part, rows in (("q", queries), ("k", keys), ("v", keys))}
        weights |= {f"{name}.{norm}.weight": np.ones(SHAPE.width, np.float32)
                    for norm in ("input_layernorm", "post_attention_layernorm")}
    weights["model.norm.weight"] = np.ones(SHAPE.width, np.float32)
    weights["model.embed_tokens.weight"] = 0.02 * rng.standard_normal((SHAPE.vocab_size, SHAPE.width), np.float32)
    table = Embeddings(np.zeros((SHAPE.vocab_size, SHAPE.width), np.int8), np.ones((SHAPE.vocab_size, 1), np.float16))
    with tempfile.TemporaryDirectory() as folder:
        build_language(weights, SHAPE, layer_bits=4, head_bits=4, block_size=32, folder=Path(folder))
        return Engine(open_steady(Path(folder) / "language.onnx", plan_device(threads=threads)), SHAPE, table)


def page(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    rows = [(name, len(found["prompts"]), found["tokens"], found["median_ratio"],
             f"{found['least_ratio']}–{found['greatest_ratio']}", found["tokens_ratio"], found["plain_tokens_per_s"],
             found["speculative_tokens_per_s"], f"{found['accepted_share']:.0%}", found["tokens_per_run"],
             "yes" if found["identical"] else "NO") for name, found in report["sets"].items()]
    head = ("prompts", "number", "tokens", "median ratio", "range", "ratio of all tokens/s", "plain tokens/s",
            "speculative tokens/s", "guesses right", "tokens a run", "identical")
    counts = next(iter(report["run_costs"].values())).keys()
    costs = [(name, *found.values()) for name, found in report["run_costs"].items()]
    return "\n".join([
        "# Speculative decoding", "", common.provenance(report), "",
        f"{report['threads']} threads, {report['rounds']} rounds, both ways in turn; greedy answers of nano, the time "
        "of the answer's own tokens.", "", common.table(head, rows), "",
        f"Milliseconds of a run over several tokens with all their logits, {PAST_TOKENS} tokens before it:", "",
        common.table(("tokens", *counts), costs), ""])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", action="store_true", help="time runs of a random 0.5B model too")
    parser.add_argument("--out", type=Path, default=common.RESULTS / "speculative.json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
