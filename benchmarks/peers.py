"""Reading and writing text against what a user would pick instead, on the same weights, bits, threads and tokens.

    pip install 'minicpm-o[bench]' torch
    python benchmarks/peers.py                       # nano, and the shape of Qwen2.5-0.5B with random weights
    python benchmarks/peers.py --shapes 8b           # Qwen3-8B's shape: 10 GB of files, 24 GB of memory

How they are raced: `race`; with what files: `shapes`. 4 bits are our blocks with zero points against Q4_0, 8 bits ours
against Q8_0, word table and head alike; the blocks are those that the package makes, of 64 for nano and of 128 for
official checkpoints. Where that takes 1 GB at most, ours of 4 bits has a graph for prompts in whole rows of 8 bits,
made of the same 4-bit numbers (`checkpoints.graphs.prompts`), as the package makes it; its memory is in the peak. A
peer that cannot be installed, loaded or run is named with its reason.
Where weights are nano's, the engines are asked the same texts first, and how often they agree is reported: that they
compute the same model. The report keeps the races of other calls.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import common
import race
import shapes

NAME = "peers"
BITS = (8, 4)
TEXTS, TEXT_TOKENS = 24, 32
"""Texts that every engine goes on with, and tokens of each."""
COMMAND = {"command": f"python benchmarks/{NAME}.py"}
COURSES = {"nano": race.Course(512, 64, 5), "0.5b": race.Course(256, 32, 4), "8b": race.Course(128, 16, 3)}
"""Shorter for larger models, so that a race takes minutes."""
Make = Callable[[shapes.Files, int], race.Entrant]


@dataclass(frozen=True)
class Peer:
    """An engine, and how its entrant is made of a shape's files at some bits."""

    name: str
    make: Make
    bits: tuple[int, ...] = BITS
    """At which it is raced."""


@dataclass
class Field:
    """Who is at the start, and who is not and why."""

    workers: dict[str, race.Worker] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def bits_of(shape: shapes.Shape) -> tuple[int, ...]:
    """At which a shape is raced: of the largest, 8 bits are too many for a machine of 24 GB."""
    return BITS if shape.parameters < shapes.MAX_ROUNDED else (4,)


def all_peers(llama_python: str) -> list[Peer]:
    """Ours first: ratios are its speed over the others'."""
    return [
        Peer("minicpm-o", lambda files, bits: race.Entrant("ours", files.bundle(bits))),
        Peer("llama.cpp", lambda files, bits: race.Entrant("llama", files.gguf(bits), llama_python)),
        Peer("OpenVINO GenAI", lambda files, bits: race.Entrant("openvino", files.gguf(bits))),
        Peer("onnxruntime-genai", lambda files, bits: race.Entrant("ort-genai", files.ort_genai(bits))),
        Peer("transformers, bfloat16", lambda files, bits: race.Entrant("transformers", files.hugging_face()),
             bits=(8,)),
    ]


def line_up(stack: ExitStack, peers: Sequence[Peer], files: shapes.Files, bits: int, course: race.Course) -> Field:
    """Start every peer's process and let it run a few tokens; our own may not fail."""
    found = Field()
    for peer in peers:
        if bits not in peer.bits:
            continue
        try:
            worker = race.Worker(peer.make(files, bits), course)
            stack.callback(worker.close)
            worker.ask(race.prompt_ids(16, files.shape.config.vocab_size), 2)
            found.workers[peer.name] = worker
        except (race.EngineError, shapes.NotMadeError, ImportError) as error:
            if not found.workers:
                raise
            found.missing[peer.name] = getattr(error, "reason", None) or common.last_words(str(error))
            print(f"{peer.name} does not take part: {found.missing[peer.name]}", file=sys.stderr)
    return found


def agreement(workers: Mapping[str, race.Worker], prompts: Sequence[list[int]]) -> dict[str, Any]:
    """After how many texts an engine goes on with the token that the first engine goes on with."""
    said = {name: [worker.ask(ids, 0)["tokens"][0] for ids in prompts] for name, worker in workers.items()}
    ours = next(iter(said.values()))
    equal = {name: sum(one == other for one, other in zip(ours, tokens, strict=True)) for name, tokens in said.items()}
    return {"texts": len(prompts), "equal": equal}


def text_prompts() -> list[list[int]]:
    """The bundled English text in pieces, as nano's tokens."""
    from minicpm_o.checkpoints.gguf import GGUFFile

    text = (common.ROOT / "benchmarks" / "texts" / "english.txt").read_text(encoding="utf-8")
    ids = GGUFFile(common.find_gguf()).tokenizer().encode(text).ids
    return [ids[start : start + TEXT_TOKENS] for start in range(0, TEXTS * TEXT_TOKENS, TEXT_TOKENS)]


def race_at(peers: Sequence[Peer], files: shapes.Files, bits: int, course: race.Course) -> dict[str, Any]:
    """One shape at some bits: who took part, how they agree, and their speeds."""
    with ExitStack() as stack:
        found = line_up(stack, peers, files, bits, course)
        agreed = agreement(found.workers, text_prompts()) if files.shape.is_real else None
        rows = race.summarise(race.measure(found.workers, course, files.shape.config.vocab_size))
        for row in rows:
            worker = found.workers[row["engine"]]
            row |= {"load_s": round(worker.ready["load_s"], 2), "version": worker.ready["version"]}
    shape = files.shape
    return {"shape": shape.name, "bits": bits, "block_size": shape.block_size, "parameters": shape.parameters,
            "machine": common.machine(), "course": asdict(course), "engines": rows, "missing": found.missing,
            "agreement": agreed}


def keep(path: Path, raced: dict[str, Any]) -> dict[str, Any]:
    """Put a race into the report at path, in the place of an earlier one of the same shape and bits."""
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"name": NAME, "races": {}}
    report["races"][f"{raced['shape']}, {raced['bits']} bits"] = raced
    common.write_json(path, report)
    return dict(report)


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    return "\n\n".join(part for title, raced in report["races"].items() for part in one_race(title, raced)) + "\n"


def one_race(title: str, raced: dict[str, Any]) -> list[str]:
    course, agreed = raced["course"], raced["agreement"]
    size = f"{raced['parameters'] / 1e6:.0f} M numbers, ours in blocks of {raced['block_size']}"
    parts = [f"**{title}** ({size})", race.table(raced["engines"], "ours")]
    loads = ", ".join(f"{row['engine']} {row['version']}: {row['load_s']} s" for row in raced["engines"])
    parts.append(f"Loading, with the version of each engine's package: {loads}.")
    if agreed:
        equal = ", ".join(f"{name} {count}" for name, count in agreed["equal"].items())
        parts.append(f"The same likeliest token as ours after {agreed['texts']} texts: {equal}.")
    parts += [f"{name} did not take part: {reason}." for name, reason in raced["missing"].items()]
    parts.append(f"{course['rounds']} interleaved rounds, prompt of {course['prompt']} tokens, {course['decode']} "
                 f"tokens decoded, {course['threads']} threads; medians. {common.provenance(raced | COMMAND)}")
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = shapes.all_shapes()
    parser.add_argument("--shapes", nargs="+", choices=sorted(known), default=["nano", "0.5b"])
    parser.add_argument("--bits", nargs="+", type=int, choices=BITS, help="default: 8 and 4, of the 8 B shape 4")
    parser.add_argument("--rounds", type=int, help="default: 5 to 3, fewer for larger models")
    parser.add_argument("--prompt", type=int, help="tokens to prefill; default: 512 to 128, fewer for larger models")
    parser.add_argument("--decode", type=int, help="tokens to decode after it; default: 64 to 16")
    parser.add_argument("--threads", type=int, default=race.Course().threads)
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama-cpp-python")
    parser.add_argument("--work", type=Path, help="where the engines' files are kept; default: beside nano")
    parser.add_argument("--out", type=Path, default=common.RESULTS / f"{NAME}.json")
    args = parser.parse_args()
    peers = all_peers(args.llama_python)
    for name in args.shapes:
        wishes = {key: getattr(args, key) for key in ("prompt", "decode", "rounds", "threads")}
        course = replace(COURSES[name], **{key: wish for key, wish in wishes.items() if wish})
        files = shapes.Files(known[name], args.work or shapes.default_work())
        for bits in args.bits or bits_of(known[name]):
            print(f"{name}, {bits} bits", file=sys.stderr)
            report = keep(args.out, race_at(peers, files, bits, course))
    common.publish(args.out, report, markdown(report))


if __name__ == "__main__":
    main()
