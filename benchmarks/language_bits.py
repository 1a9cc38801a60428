"""What the language model loses and gains by fewer bits: perplexity, likeness to float32, size and speed.

    python benchmarks/language_bits.py --weights SmolLM2-135M-Instruct.Q4_1.gguf --out benchmarks/results/bits.json

Reads the text once per quantisation of the layers, then puts each quantisation of the head on top. "kl" is the mean
divergence of the next-token distribution from the float32 model's, "same top" how often the likeliest token is the
same. Speeds are measured in interleaved rounds and reported as ratios to the first quantisation, taken within a round,
so that a change of the machine's load touches all alike; the absolute numbers are medians and hold for this machine.
The float32 reference is the published file's weights as they stand there (4-bit layers, 8-bit head), not rounded again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import common

TEXT = Path(__file__).parent / "texts" / "english.txt"
WINDOW_TOKENS = 1024
"""The text is read in windows of this length, each without the ones before."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
ROWS = 128
"""Logits are compared for so many tokens at a time: a row of them is 200 kB."""
REST_S = 0.05
"""Pause before a measurement: the threads of the model that has just worked stop spinning."""


@dataclass(frozen=True)
class Setting:
    """One quantisation; None bits are float32."""

    layer_bits: int | None
    head_bits: int | None
    block_size: int

    @property
    def layers(self) -> tuple[int | None, int]:
        return self.layer_bits, self.block_size if self.layer_bits else 0

    @property
    def head(self) -> tuple[int | None, int]:
        return self.head_bits, self.block_size if self.head_bits else 0

    def __str__(self) -> str:
        if self.layer_bits is None and self.head_bits is None:
            return "float32"
        return f"layers {self.layer_bits or 'f32'}, head {self.head_bits or 'f32'}, block {self.block_size}"


@dataclass
class Likeness:
    """Sums over tokens."""

    tokens: int = 0
    surprise: float = 0.0
    divergence: float = 0.0
    same: int = 0

    def add(self, logprob: np.ndarray, reference: np.ndarray, targets: np.ndarray) -> None:
        """logprob, reference (rows, V) of log-probabilities; targets (rows,), -1 where there is no next token."""
        known = targets >= 0
        self.tokens += int(known.sum())
        self.surprise -= float(logprob[known, targets[known]].sum(dtype=np.float64))
        difference = np.einsum("tv,tv->t", np.exp(reference), reference - logprob)
        self.divergence += float(difference[known].sum(dtype=np.float64))
        self.same += int((logprob.argmax(1) == reference.argmax(1))[known].sum())

    def report(self) -> dict[str, float]:
        return {"perplexity": float(np.exp(self.surprise / self.tokens)), "kl": self.divergence / self.tokens,
                "same_top": self.same / self.tokens, "tokens": self.tokens}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


class Models:
    """Engines of every setting, and heads alone, which give the logits of all tokens and not only of the last."""

    def __init__(self, weights: Mapping[str, np.ndarray], config: Any, threads: int, folder: Path) -> None:
        from minicpm_o.runtime.device import plan_device
        from minicpm_o.runtime.engine import Embeddings

        self.weights, self.config, self.folder = weights, config, folder
        self.plan = plan_device(None, threads)
        table = weights["model.embed_tokens.weight"]
        self.embeddings = Embeddings(table, np.ones((len(table), 1), np.float16))
        self.megabytes: dict[Setting, float] = {}

    def engine(self, setting: Setting) -> Any:
        from minicpm_o.checkpoints.graphs.language import FILE_NAME, build_language
        from minicpm_o.runtime.device import make_session
        from minicpm_o.runtime.engine import Engine

        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            folder = Path(name)
            build_language(self.weights, self.config, layer_bits=setting.layer_bits, head_bits=setting.head_bits,
                           block_size=setting.block_size, folder=folder)
            self.megabytes[setting] = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
            session = make_session(folder / FILE_NAME, self.plan, kind="language")
        return Engine(session, self.config, self.embeddings)

    def head(self, bits: int | None, block_size: int) -> Any:
        from minicpm_o.checkpoints.graphs.builder import FLOAT, GraphBuilder
        from minicpm_o.runtime.device import make_session

        graph = GraphBuilder("head")
        graph.input("hidden", FLOAT, ["tokens", self.config.width])
        graph.output("logits", FLOAT, ["tokens", self.config.vocab_size])
        matrix = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        graph.linear("hidden", matrix, None, "head", bits=bits, block_size=block_size or 32, out="logits")
        path = self.folder / "head.onnx"
        graph.save(path)
        session = make_session(path, self.plan, kind="language")
        return lambda hidden: session.run(["logits"], {"hidden": hidden})[0]


def read_text(engine: Any, ids: np.ndarray) -> np.ndarray:
    """Hidden states (T, D) of all tokens, window by window."""
    windows = [ids[start:start + WINDOW_TOKENS] for start in range(0, len(ids), WINDOW_TOKENS)]
    return np.concatenate([engine.prefill(engine.embed(window), engine.new_cache(len(window))).hidden
                           for window in windows])


def next_tokens(ids: np.ndarray) -> np.ndarray:
    """The token after each; -1 at the end of a window."""
    targets = np.append(ids[1:], -1)
    targets[WINDOW_TOKENS - 1::WINDOW_TOKENS] = -1
    return targets


def compare(hidden: Mapping[Any, np.ndarray], heads: Mapping[Any, Any], settings: Sequence[Setting],
            targets: np.ndarray) -> dict[Setting, Likeness]:
    """Every setting's distribution after every token, against the first setting's."""
    likeness = {setting: Likeness() for setting in settings}
    for start in range(0, len(targets), ROWS):
        rows = slice(start, start + ROWS)
        reference = log_softmax(heads[settings[0].head](hidden[settings[0].layers][rows]))
        for setting in settings:
            logprob = log_softmax(heads[setting.head](hidden[setting.layers][rows]))
            likeness[setting].add(logprob, reference, targets[rows])
    return likeness


def measure_speed(engine: Any, ids: np.ndarray, decode_tokens: int, clock: str) -> dict[str, float]:
    """Tokens per second, of the clock, of reading ids and of the tokens after."""
    now = CLOCKS[clock]
    cache = engine.new_cache(len(ids) + decode_tokens)
    embeds = engine.embed(ids)
    time.sleep(REST_S)
    start = now()
    step = engine.prefill(embeds, cache)
    read = now()
    for _ in range(decode_tokens):
        step = engine.decode(int(step.logits.argmax()), cache)
    return {"prefill": len(ids) / (read - start), "decode": decode_tokens / (now() - read)}


def race(engines: Mapping[Setting, Any], ids: np.ndarray, *, rounds: int, decode_tokens: int, clock: str
         ) -> dict[Setting, Any]:
    """Interleaved rounds of all engines; every other round backwards, so that nobody always runs after the same."""
    for engine in engines.values():
        measure_speed(engine, ids[:16], 2, clock)
    results = []
    for round_number in range(rounds):
        order = list(engines)[:: -1 if round_number % 2 else 1]
        results.append({setting: measure_speed(engines[setting], ids, decode_tokens, clock) for setting in order})
    first = next(iter(engines))
    return {setting: {
        kind: {"tokens_per_s": statistics.median(r[setting][kind] for r in results),
               "ratios": [round(r[setting][kind] / r[first][kind], 3) for r in results]}
        for kind in ("prefill", "decode")} for setting in engines}


def load_weights(path: Path) -> tuple[Mapping[str, np.ndarray], Any, Any]:
    """Weights, config and tokenizer of a GGUF file."""
    from minicpm_o.checkpoints.gguf import GGUFFile

    file = GGUFFile(path)
    return file.tensors(), file.config(), file.tokenizer()


def settings_of(options: argparse.Namespace) -> list[Setting]:
    """float32 first, then the grid that was asked for."""
    grid = [Setting(layer, head, block) for block in options.blocks for layer in options.layer_bits
            for head in options.head_bits]
    return [Setting(None, None, 32), *grid]


def run(options: argparse.Namespace) -> dict[str, Any]:
    weights, config, tokenizer = load_weights(options.weights)
    ids = np.array(tokenizer.encode(options.text.read_text(encoding="utf-8")).ids[: options.tokens], dtype=np.int64)
    settings = settings_of(options)
    with tempfile.TemporaryDirectory() as folder:
        models = Models(weights, config, options.threads, Path(folder))
        engines = {setting: models.engine(setting) for setting in settings}
        readers = {setting.layers: engine for setting, engine in engines.items()}
        heads = {key: models.head(*key) for key in {setting.head for setting in settings}}
        hidden = {key: read_text(engine, ids) for key, engine in readers.items()}
        likeness = compare(hidden, heads, settings, next_tokens(ids))
    racers = {setting: engines[setting] for setting in settings[1:]} if len(settings) > 1 else engines
    speed = race(racers, np.resize(ids, options.prefill), rounds=options.rounds, decode_tokens=options.decode,
                 clock=options.clock)
    rows = [{"setting": str(setting), "megabytes": round(models.megabytes[setting], 1), **likeness[setting].report(),
             **speed.get(setting, {})} for setting in settings]
    return {"machine": common.machine(), "command": "python benchmarks/language_bits.py",
            "weights": options.weights.name, "text": options.text.name, "threads": options.threads,
            "clock": options.clock, "rows": rows}


def show(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    def speeds(row: dict[str, Any], kind: str) -> list[str]:
        if kind not in row:
            return ["", ""]
        return [f"{row[kind]['tokens_per_s']:.0f}", f"{statistics.median(row[kind]['ratios']):.2f}"]

    rows = [[row["setting"], row["megabytes"], f"{row['perplexity']:.3f}", f"{row['kl']:.4f}", f"{row['same_top']:.1%}",
             *speeds(row, "decode"), *speeds(row, "prefill")] for row in report["rows"]]
    head = ["weights", "MB", "perplexity", "kl", "same top", "decode tok/s", "ratio", "prefill tok/s", "ratio"]
    return common.table(head, rows) + "\n\n" + common.provenance(report)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True, help="GGUF file of the language model")
    parser.add_argument("--text", type=Path, default=TEXT, help="text to read (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=4096, help="read at most so many tokens of it")
    parser.add_argument("--layer-bits", type=int, nargs="+", default=[8, 4], choices=[4, 8])
    parser.add_argument("--head-bits", type=int, nargs="+", default=[8, 4], choices=[4, 8])
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 64], help="block sizes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4, help="interleaved rounds of the race")
    parser.add_argument("--prefill", type=int, default=256, help="tokens of a prompt in the race")
    parser.add_argument("--decode", type=int, default=48, help="tokens decoded after it")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall",
                        help="cpu: CPU seconds, for a machine that others use; meant for --threads 1")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    report = run(options)
    if options.out:
        common.write_json(options.out, report)
    print(show(report))


if __name__ == "__main__":
    main()
