"""Writes docs/results.md: what nano scores on everything that can be run honestly here, and what others publish.

    minicpm-o eval all --data DIR --report out/ && cp out/report.json benchmarks/results/eval_NAME.json
    python benchmarks/results_page.py

Every score stands beside chance and a run without pictures and sounds. Published numbers are of other sets than ours:
they say what a size of model reaches, and are not to be compared.
"""

from __future__ import annotations

import json
from pathlib import Path

import common
from minicpm_o.evaluation.card import draw_scores, is_share, save
from minicpm_o.evaluation.report import Report

DOCS = common.ROOT / "docs"
SETS = {
    "realcases": "Pictures, sounds and a video from open repositories, with questions written from looking at them",
    "validation": ("Held-out parts of the open sets that nano was trained on: answers, which text belongs to which "
                   "picture or clip, and nano's own voice"),
    "standins": ("Rendered solids in the format of MME, POPE, SEED-Bench and StreamingBench, spoken questions in the "
                 "format of VoiceBench: no scores of those benchmarks"),
}
ANCHORS = (
    ("constant answer", "–", "MME 700 of 2800; POPE F1 66.7; SEED-Bench about 25; MMBench circular about 0"),
    ("coin", "–", "MME 1050 of 2800"),
    ("SmolVLM-256M-Instruct", "256M", "MMStar 34.6, OCRBench 52.6 of 100, TextVQA 49.9, DocVQA 58.3 (model card)"),
    ("nanoVLM-222M", "222M", "MMStar 35.3 (README)"),
    ("LaVIN-13B", "13B", "MME 963.6 + 249.6 (its answers come with the official tool)"),
    ("MiniCPM-V 1.0 / 2.0, MiniCPM-o 2.6", "3B / 2.8B, 8B", "MME 1452 / 1808.6 / 2372.0; LLaVA-Bench 51.3 / 69.2 / –"),
    ("GPT-4o-20240513", "–", "MME 2328.7"),
    ("Whisper base", "74M", "LibriSpeech WER 5.0 clean, 12.85 other"),
    ("Mini-Omni / Moshi", "0.5B / 7B", "VoiceBench 30.4 / 29.5 overall"),
)
ARTICLE = ("An article gives MME as 1738.9 for MiniCPM-o and 1677.7 for GPT-4o. Neither is on the scale of 2800 on "
           "which OpenBMB's own pages give 2372.0 and 2328.7; where they come from is not known.")
HEAD = ("Written by `python benchmarks/results_page.py` from the reports of `minicpm-o eval`; how each number is made: "
        "[evaluation.md](evaluation.md). The pictures of MME, SEED-Bench, POPE, MMBench and LLaVA-Bench come with no "
        "package, so none of their scores was produced here and no published number of theirs is reproduced.")


def section(path: Path) -> str:
    """One report: its plot, its table, its notes."""
    name = path.stem.removeprefix("eval_")
    report = Report.from_dict(json.loads(path.read_text(encoding="utf-8")))
    plot = DOCS / f"results_{name}.svg"
    save(draw_scores, [line for line in report.tasks if is_share(line)], plot)
    told = report.settings
    run = f"package {told['package_version']}, scorers {told['scorers_version']}, model {str(told['fingerprint'])[:12]}"
    return f"## {name}\n\n{SETS.get(name, '')}.\n\n![scores]({plot.name})\n\n{report.to_markdown()}\n{run}\n"


def main() -> None:
    sections = [section(path) for path in sorted(common.RESULTS.glob("eval_*.json"))]
    anchors = common.table(["model", "size", "published"], ANCHORS)
    page = ["# What nano scores", HEAD, *sections, "## What others publish", anchors, ARTICLE]
    (DOCS / "results.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print(DOCS / "results.md")


if __name__ == "__main__":
    main()
