"""Scores that need a judge: the answers of a report, graded after the run. One file a benchmark.

What a judge said lies in a folder beside the report; what is there is not asked for again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minicpm_o.errors import InputError
from minicpm_o.evaluation.answers import answers_beside
from minicpm_o.evaluation.judged import llava_bench, voicebench
from minicpm_o.evaluation.judged.prompts import OWN, Prompts
from minicpm_o.evaluation.official.judge import Judge
from minicpm_o.evaluation.tasks.llava_bench import NAME
from minicpm_o.evaluation.tasks.voicebench import task_name


def grade_report(report: Path, data: Path, judge: Judge, prompts: Prompts = OWN) -> dict[str, Any]:
    """Have everything graded that a report has answers to: benchmark (voicebench_format for a stand-in) -> scores.

    data: the folder that the report was made from. prompts: of VoiceBench; LLaVA-Bench has its official words.
    Raises InputError where there is nothing to grade, EndpointError where the judge fails: run it again then."""
    answered = {answer.task for answer in answers_beside(report)}
    found: dict[str, Any] = {}
    if NAME in answered:
        found["llava_bench"] = llava_bench.grade(report, data, judge)
    prefix = task_name(data, "")
    if any(name.startswith(prefix) for name in answered):
        found[prefix.removesuffix("/")] = voicebench.grade(report, data, judge, prompts)
    if not found:
        has = ", ".join(sorted(answered)) or "none"
        raise InputError(f"{report.name} has no answers that a judge grades, only {has}; run `minicpm-o eval all "
                         f"--data {data} --task {NAME} --task {prefix}` first")
    return found
