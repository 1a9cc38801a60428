"""LLaVA-Bench in the wild: `llava-bench-in-the-wild/` -> its questions, scored by a proxy; a judge grades them later.

The proxy (words of the reference that are in the answer) is no LLaVA-Bench score and never called one. The judge's part
is `judged.grade`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minicpm_o.evaluation.official import llava_bench
from minicpm_o.evaluation.official.files import needed_text, read_records
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.scoring import Question
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet
from minicpm_o.evaluation.tasks.published import PublishedScorer, published_set

FOLDER = "llava-bench-in-the-wild"
NAME = "llava_bench_proxy"
MAX_TOKENS = 256


def load(data_dir: Path) -> TaskSet:
    """The task llava_bench_proxy; nothing where the folder is not there."""
    folder = data_dir / FOLDER
    if not folder.is_dir():
        return TaskSet()
    return published_set(folder, lambda: [task(llava_bench.load_distribution(folder))])


def task(found: llava_bench.Distribution) -> Task:
    """The questions in the order of their file."""
    references = [needed_text(row, "text") for row in read_records(found.references_file)]
    items = tuple(
        Item(str(question.question_id), (Media("image", question.image, question.image.name),), question.text,
             (reference,), group=question.image.name, tag=question.category)
        for question, reference in zip(found.questions, references, strict=False))
    rule = "proxy without a judge: share of the reference's words in the answer; ROUGE-L against the reference"
    return Task(NAME, items, PublishedScorer(rule, _hit, totals), max_tokens=MAX_TOKENS, notes=found.notes)


def totals(items: Sequence[Question], answers: Sequence[str]) -> dict[str, float]:
    """Both proxies in per cent, of all and by category."""
    pairs = zip(items, answers, strict=True)
    scores = llava_bench.proxy_scores([
        llava_bench.ReviewItem(None, item.tag, "", "", item.expected[0], None, answer, None) for item, answer in pairs])
    named = {"keyword_recall_proxy": scores.keyword_recall_proxy, "rouge_l_proxy": scores.rouge_l_proxy}
    return {name if kind == "all" else f"{kind}_{name}": value for name, values in named.items()
            for kind, value in values.items()}


def _hit(item: Question, answer: str) -> float:
    return totals([item], [answer])["keyword_recall_proxy"] / 100
