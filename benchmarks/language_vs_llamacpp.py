"""Decode and prefill of nano's language part against llama.cpp, on the same weights, threads and tokens.

    pip install 'minicpm-o[bench]'
    python benchmarks/language_vs_llamacpp.py --out benchmarks/results/language_vs_llamacpp.json

How they are raced: `race`. llama.cpp runs the GGUF as it is published (Q4_1) and, requantised from it, as Q8_0 and
Q4_0.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common
import race

QUANTISATIONS = {"q4_0": 2, "q8_0": 7}
"""llama.cpp's numbers of the file types that are made from the published file."""


def requantise(python: str, source: Path, target: Path, file_type: int) -> None:
    """Let llama.cpp write the same weights in another of its formats."""
    code = (
        "import sys, llama_cpp as l; p = l.llama_model_quantize_default_params(); p.allow_requantize = True;"
        f"p.ftype = {file_type}; sys.exit(l.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), p))"
    )
    subprocess.run([python, "-c", code, str(source), str(target)], check=True, capture_output=True)


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    how = (f"{report['rounds']} interleaved rounds, prompt of {report['prompt']} tokens, {report['decode']} tokens "
           f"decoded, {report['threads']} threads; medians.")
    return f"{race.table(report['engines'], 'nano')}\n\n{how} {common.provenance(report)}\n"


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Start the engines, measure, sum up."""
    from minicpm_o.checkpoints.bundle import Bundle
    from minicpm_o.checkpoints.hub import resolve

    folder, course = Path(resolve(args.model)), race.course_of(args)
    bundle = Bundle.open(folder)
    gguf = Path(args.gguf) if args.gguf else common.find_gguf()
    entrants = {"nano": race.Entrant("ours", folder),
                "llama.cpp Q4_1 (as published)": race.Entrant("llama", gguf, args.llama_python)}
    with tempfile.TemporaryDirectory() as scratch:
        for name, number in QUANTISATIONS.items():
            made = Path(scratch) / f"{name}.gguf"
            requantise(args.llama_python, gguf, made, number)
            entrants[f"llama.cpp {name.upper()} (requantised)"] = race.Entrant("llama", made, args.llama_python)
        engines = race.run(entrants, course, bundle.config.language.vocab_size)
    return {"name": "language_vs_llamacpp", "command": "python benchmarks/language_vs_llamacpp.py",
            "machine": common.machine(), "settings": bundle.settings, **asdict(course), "engines": engines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", help="SmolLM2-135M-Instruct.Q4_1.gguf; found by itself when its part was pulled")
    parser.add_argument("--model", default="nano", help="name of a model or the folder of a bundle")
    race.add_course_options(parser, race.Course())
    parser.add_argument("--out", type=Path, default=common.RESULTS / "language_vs_llamacpp.json")
    args = parser.parse_args()
    report = run(args)
    common.publish(args.out, report, markdown(report))


if __name__ == "__main__":
    main()
