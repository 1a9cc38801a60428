"""What 2.6 and 4.5 cost at full size, with random weights: exported to 4 bits, run without torch, raced.

    python benchmarks/official_full_size.py --version 4.5 --work DIR --llama-python PYTHON

Four steps, each in processes of their own so that its memory is its own: a random checkpoint of the exact official
layout is written; `minicpm-o export` makes a bundle of it; the bundle, with torch and transformers out of reach,
answers a text, a picture and a sound, and speaks; its language part runs against llama.cpp on a Q4_0 file of the same
shape (`race`). The report keeps one entry a version, and is written after every step.

DIR takes about 32 GB while this runs and nothing afterwards, unless --keep is given. With --keep, --steps repeats some
of them. --layers makes a trial of the true width and less depth, whose report stays in DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import race

NAME = "official_full_size"
STEPS = ("checkpoint", "export", "use", "race")
BITS = 4
TEXT_LETTERS = 1200
"""Of the text that is asked about: with the made-up tokenizer, some hundred tokens."""
NOT_IMPORTABLE = ("torch", "transformers")
MODEL_COLUMNS = ("model", "step", "s", "peak MB", "MB on disk")
ANSWER_COLUMNS = ("model", "question", "prompt tokens", "load s", "first token s", "prefill tok/s", "decode tok/s",
                  "whole s", "peak MB")
STEP_WORDS = {"checkpoint": "random checkpoint written", "export": "exported to 4 bits"}


@dataclass(frozen=True)
class Run:
    """One call of this benchmark."""

    version: str
    work: Path
    layers: int | None
    tokens: int
    """Of each answer."""
    llama_python: str
    course: race.Course

    @property
    def checkpoint(self) -> Path:
        return self.work / f"checkpoint-{self.version}"

    @property
    def bundle(self) -> Path:
        return self.work / f"bundle-{self.version}"

    @property
    def gguf(self) -> Path:
        return self.work / f"language-{self.version}.gguf"

    @property
    def shape_options(self) -> list[str]:
        return ["--version", self.version, *(["--layers", str(self.layers)] if self.layers else [])]


# Processes


def measured(command: list[str]) -> tuple[dict[str, float], str]:
    """Run a command to its end: seconds and peak memory of it alone, and what it printed. Ends with it if it fails.

    This process stays small, for a child counts what its parent held when it was started.
    """
    with tempfile.TemporaryFile("w+") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"`{' '.join(command)}` ended with exit code {process.returncode}")
        output.seek(0)
        peak_mb = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
        return {"seconds": round(seconds, 1), "peak_rss_mb": round(peak_mb, 1)}, output.read()


def folder_mb(folder: Path) -> float:
    """Size of all files under a folder, 10^6 bytes."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


# Steps


def write_checkpoint(run: Run) -> dict[str, Any]:
    cost, _ = measured([sys.executable, "-m", "minicpm_o.checkpoints.random_official", str(run.checkpoint),
                        "--size", "full", *run.shape_options])
    return {**cost, "mb": folder_mb(run.checkpoint)}


def export(run: Run) -> dict[str, Any]:
    cost, _ = measured([sys.executable, "-m", "minicpm_o", "export", str(run.checkpoint), "--bits", str(BITS),
                        "--out", str(run.bundle), "--json"])
    settings = json.loads((run.bundle / "bundle.json").read_text(encoding="utf-8"))["settings"]
    return {**cost, "mb": folder_mb(run.bundle), "settings": settings}


def use(run: Run) -> dict[str, Any]:
    """Everything that is asked of the bundle, by a process that cannot import torch."""
    cost, output = measured([sys.executable, __file__, "--answer-with", str(run.bundle), "--tokens", str(run.tokens),
                             "--threads", str(run.course.threads)])
    return {**cost, "tokens": run.tokens, "threads": run.course.threads, "answers": json.loads(output)}


def race_llamacpp(run: Run) -> dict[str, Any]:
    """Our language part against llama.cpp's on random matrices of the same shape."""
    from minicpm_o.checkpoints.random_official import official_config

    if not run.gguf.exists():
        measured([sys.executable, str(Path(__file__).with_name("random_gguf.py")), str(run.gguf), *run.shape_options])
    entrants = {f"minicpm-o {run.version}, {BITS} bits": race.Entrant("ours", run.bundle),
                "llama.cpp Q4_0, same shape": race.Entrant("llama", run.gguf, run.llama_python)}
    vocab_size = official_config(run.version, "full").language.vocab_size
    return {**asdict(run.course), "gguf_mb": round(run.gguf.stat().st_size / 1e6, 1),
            "engines": race.run(entrants, run.course, vocab_size)}


MAKERS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "checkpoint": write_checkpoint, "export": export, "use": use, "race": race_llamacpp,
}


# The process that answers


def answer_all(bundle: Path, tokens: int, threads: int) -> list[dict[str, Any]]:
    """A question of each kind to a bundle, then an answer that is spoken."""
    sys.modules.update(dict.fromkeys(NOT_IMPORTABLE))  # None there makes an import fail
    import numpy as np

    from brief_voice import make_brief
    from minicpm_o import MiniCPMO, TextPart

    model = MiniCPMO.from_pretrained(bundle, threads=threads)
    answers = [answer(model, kind, parts, tokens) for kind, parts in questions().items()]
    make_brief(model.parts.voice, model.parts.config)
    nobody = np.zeros(1, np.float32)  # a clip that nobody listens to
    return [*answers, answer(model, "spoken answer", [TextPart("Say something.")], tokens, generate_audio=True,
                             ref_audio=nobody)]


def questions() -> dict[str, list[Any]]:
    """What is asked, by its kind."""
    from minicpm_o import AudioPart, ImagePart, TextPart
    from minicpm_o.evaluation.speed import sample

    text = (common.ROOT / "benchmarks" / "texts" / "english.txt").read_text(encoding="utf-8")[:TEXT_LETTERS]
    return {"text": [TextPart(text)],
            "picture": [ImagePart(sample("photo.jpg")), TextPart("What is in this picture?")],
            "sound": [AudioPart(sample("speech.wav")), TextPart("What is said?")]}


def answer(model: Any, kind: str, parts: list[Any], tokens: int, **more: Any) -> dict[str, Any]:
    """Ask once, with nothing kept from before; times of the first token and of those after it."""
    from minicpm_o import Message, TextDelta
    from minicpm_o.runtime.timing import peak_rss_mb

    model.forget()
    times, loads = [time.perf_counter()], [model.parts.load_s]
    for event in model.chat([Message("user", tuple(parts))], stream=True, max_tokens=tokens, seed=0, **more):
        if isinstance(event, TextDelta) and event.token_id is not None:
            times.append(time.perf_counter())
            loads.append(model.parts.load_s)
    whole_s, reply = time.perf_counter() - times[0], event
    load_s = model.parts.load_s - loads[0]
    first_s = times[1] - times[0] - (loads[1] - loads[0])
    speech = reply.speech
    return {"question": kind, "prompt_tokens": reply.usage.prompt, "output_tokens": reply.usage.output,
            "load_s": round(load_s, 2), "first_token_s": round(first_s, 2),
            "prefill_tokens_per_s": round(reply.usage.prompt / first_s, 1),
            "decode_tokens_per_s": round((len(times) - 2) / (times[-1] - times[1]), 2),
            "whole_s": round(whole_s - load_s, 1), "peak_rss_mb": round(peak_rss_mb() or 0, 1),
            "sound_s": round(len(speech.waveform) / speech.rate_hz, 2) if speech else None}


# The report


def keep(path: Path, run: Run, step: str, found: dict[str, Any]) -> dict[str, Any]:
    """Put what a step found into the report at path, beside what other steps and versions have there."""
    report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"name": NAME, "versions": {}}
    command = " ".join([f"python benchmarks/{NAME}.py", *run.shape_options])
    source = {"machine": common.machine(), "command": command, "layers": run.layers}
    report["versions"].setdefault(run.version, {})[step] = {**source, **found}
    common.write_json(path, report)
    return dict(report)


def tables(report: dict[str, Any], say: race.Say = str) -> str:
    """The report for people, in as many tables as it has."""
    versions = dict(sorted(report["versions"].items()))
    parts = [common.table([say(word) for word in columns], rows) for columns, rows in (
        (MODEL_COLUMNS, list(model_rows(versions, say))), (ANSWER_COLUMNS, list(answer_rows(versions, say)))) if rows]
    lines = dict.fromkeys(common.provenance(found) for steps in versions.values() for found in steps.values())
    return "\n\n".join([*parts, *race_tables(versions, say), *lines])


def speeds(report: dict[str, Any], say: race.Say = str) -> str | None:
    """Of the report, what was raced alone; None when nothing was."""
    raced = {version: {"race": steps["race"]} for version, steps in report["versions"].items() if "race" in steps}
    return tables({"versions": raced}, say) if raced else None


def race_tables(versions: dict[str, Any], say: race.Say) -> list[str]:
    """One for all versions: each of our engines is followed by what it is compared with."""
    engines = [row for steps in versions.values() for row in steps.get("race", {}).get("engines", [])]
    return [race.table(engines, "ours", say)] if engines else []


def model_rows(versions: dict[str, Any], say: race.Say) -> Iterator[tuple[object, ...]]:
    for version, steps in versions.items():
        for step, words in STEP_WORDS.items():
            if step in steps:
                found = steps[step]
                yield version, say(words), found["seconds"], found["peak_rss_mb"], found["mb"]


def answer_rows(versions: dict[str, Any], say: race.Say) -> Iterator[tuple[object, ...]]:
    for version, steps in versions.items():
        for found in steps.get("use", {}).get("answers", []):
            name = say(found["question"]) + (f", {found['sound_s']} s" if found["sound_s"] else "")
            yield (version, name, found["prompt_tokens"], found["load_s"], found["first_token_s"],
                   found["prefill_tokens_per_s"], found["decode_tokens_per_s"], found["whole_s"], found["peak_rss_mb"])


def tidy(run: Run, step: str, steps: list[str]) -> None:
    """Remove what no later step needs."""
    needed = {"checkpoint": ("export",), "bundle": ("use", "race"), "gguf": ("race",)}
    later = steps[steps.index(step) + 1 :]
    for name, users in needed.items():
        path: Path = getattr(run, name)
        if not set(users) & set(later):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", choices=["2.6", "4.5"], default="4.5")
    parser.add_argument("--work", type=Path, help="folder for the checkpoint, the bundle and llama.cpp's file")
    parser.add_argument("--layers", type=int, help="of every transformer at most so many: a trial, reported in DIR")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="with --keep: these alone")
    parser.add_argument("--keep", action="store_true", help="leave the files in DIR")
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    race.add_course_options(parser, race.Course(decode=32, rounds=5))
    parser.add_argument("--out", type=Path, help=f"report; by default benchmarks/results/{NAME}.json")
    parser.add_argument("--answer-with", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.answer_with:
        print(json.dumps(answer_all(args.answer_with, args.tokens, args.threads)))
        return
    if args.work is None:
        parser.error("--work DIR is needed: a folder with room for 32 GB")
    if args.steps != list(STEPS) and not args.keep:
        parser.error("--steps goes with --keep: the steps left out need the files of an earlier run")
    args.work.mkdir(parents=True, exist_ok=True)
    run = Run(args.version, args.work, args.layers, args.tokens, args.llama_python, race.course_of(args))
    out = args.out or (args.work if args.layers else common.RESULTS) / f"{NAME}.json"
    for step in args.steps:
        print(f"MiniCPM-o {run.version}: {step}", file=sys.stderr)
        report = keep(out, run, step, MAKERS[step](run))
        if not args.keep:
            tidy(run, step, args.steps)
    common.publish(out, report, tables(report) + "\n")


if __name__ == "__main__":
    main()
