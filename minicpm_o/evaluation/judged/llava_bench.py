"""LLaVA-Bench's score of a report: its answers, graded by a judge, summed up as the official scripts do.

The answers, the judge's reviews and the scores lie in a folder beside the report; reviews that are there are not asked
for again.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minicpm_o.errors import InputError
from minicpm_o.evaluation.answers import answers_beside, write_atomically
from minicpm_o.evaluation.official import llava_bench
from minicpm_o.evaluation.official.judge import Judge
from minicpm_o.evaluation.tasks.llava_bench import FOLDER, NAME


def grade(report: Path, data: Path, judge: Judge) -> dict[str, Any]:
    """Have the answers of a report graded. data: the folder that holds `llava-bench-in-the-wild`.

    Raises InputError where the report holds no answers to it, EndpointError where the judge fails: run it again then.
    """
    found = llava_bench.load_distribution(data / FOLDER)
    folder = report.with_name(f"{report.stem}.llava_bench")
    folder.mkdir(parents=True, exist_ok=True)
    said = {answer.id: answer.answer for answer in answers_beside(report) if answer.task == NAME}
    missing = [question.question_id for question in found.questions if str(question.question_id) not in said]
    if missing:
        raise InputError(f"the report {report.name} has no answer to {len(missing)} of {len(found.questions)} "
                         f"questions, such as {missing[0]!r}; run `minicpm-o eval all --task {NAME}` over {data} first")
    answers, reviews = folder / "answers.jsonl", folder / "reviews.jsonl"
    texts = [said[str(question.question_id)] for question in found.questions]
    llava_bench.write_answers(answers, found.questions, texts, report.stem)
    items = llava_bench.read_items(found.questions_file, found.context_file, found.references_file, answers)
    run = llava_bench.review(items.items, judge, reviews)
    summaries = llava_bench.summarize_all(llava_bench.read_scores(reviews))
    scores = {"notes": [*found.notes, *items.notes, *run.notes], "asked": run.asked, "resumed": run.resumed,
              "scores": {parser: asdict(summary) for parser, summary in summaries.items()}}
    write_atomically(folder / "scores.json", json.dumps(scores, ensure_ascii=False, indent=1) + "\n")
    return scores
