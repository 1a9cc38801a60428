"""LLaVA-Bench (in the wild): 24 pictures, 60 questions, a judge that compares two answers; reviews and their summary.

Protocol: the judge reads the picture's captions, the question, the reference answer (always assistant 1) and the
model's answer (assistant 2), and gives two scores in its first line. The score is 100 x mean of the model's over mean
of the reference's: a ratio of means. Questions and answers are paired by the order of their lines, not by their ids.
Source: Visual Instruction Tuning (arXiv:2304.08485) and the scripts eval_gpt_review_bench.py and
summarize_gpt_review.py of haotian-liu/LLaVA at c121f04; also what lmms-eval (75571cfe) and VLMEvalKit (e8e78f05) make
of the same replies. The three do not agree, so every number names its parser.

A reply that cannot be read scores -1 for both sides and stays in the mean. When no reply can be read, the official
score is 100.0: it is given here too, with a note that it means nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from minicpm_o.errors import EndpointError, InputError
from minicpm_o.evaluation.answers import append_line, write_atomically
from minicpm_o.evaluation.official.files import needed, needed_text, read_lines, read_records, wrong
from minicpm_o.evaluation.official.judge import Judge
from minicpm_o.evaluation.proxies import keyword_recall, rouge_of
from minicpm_o.evaluation.rows import Row

Pair: TypeAlias = tuple[float, float]
"""Scores of the reference and of the model."""
Parser: TypeAlias = Literal["llava_official", "lmms_eval", "vlmevalkit"]

JUDGE_MODEL = "gpt-4-0314"
"""The judge of the published numbers; another judge gives other scores."""
TEMPERATURE = 0.2
MAX_TOKENS = 1024
UNPARSED: Pair = (-1, -1)
LMMS_EVAL_MISSING = -999
CATEGORIES = ("llava_bench_conv", "llava_bench_detail", "llava_bench_complex")
NUM_QUESTIONS = 60

# The judge needs these words as they are. They are LLaVA's: llava/eval/table/rule.json of haotian-liu/LLaVA, c121f04,
# Apache License 2.0, Copyright the LLaVA authors. One text serves the three categories.
_SYSTEM_TEXT = "You are a helpful and precise assistant for checking the quality of the answer."
_ROLE = "Assistant"
_RULE_TEXT = (
    "We would like to request your feedback on the performance of two AI assistants in response to the user question "
    "displayed above. The user asks the question on observing an image. For your reference, the visual content in the "
    "image is represented with a few sentences describing the image. \n"
    "Please rate the helpfulness, relevance, accuracy, level of details of their responses. Each assistant receives an "
    "overall score on a scale of 1 to 10, where a higher score indicates better overall performance.\n"
    "Please first output a single line containing only two values indicating the scores for Assistant 1 and 2, "
    "respectively. The two scores are separated by a space.\n"
    "In the subsequent line, please provide a comprehensive explanation of your evaluation, avoiding any potential "
    "bias and ensuring that the order in which the responses were presented does not affect your judgment."
)


# --- what is judged ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReviewItem:
    """A question with both answers, as the judge sees it."""

    question_id: Any
    category: str
    """With its prefix: llava_bench_conv."""
    question: str
    context: str
    reference: str
    reference_id: Any
    answer: str
    answer_id: Any

    def messages(self) -> list[dict[str, str]]:
        """What the judge is sent."""
        content = (f"[Context]\n{self.context}\n\n[Question]\n{self.question}\n\n"
                   f"{_answer_block(1, self.reference)}{_answer_block(2, self.answer)}[System]\n{_RULE_TEXT}\n\n")
        return [{"role": "system", "content": _SYSTEM_TEXT}, {"role": "user", "content": content}]


def _answer_block(number: int, text: str) -> str:
    return f"[{_ROLE} {number}]\n{text}\n\n[End of {_ROLE} {number}]\n\n"


@dataclass(frozen=True)
class ReviewItems:
    """All that is judged, and what was odd about the files."""

    items: tuple[ReviewItem, ...]
    notes: tuple[str, ...] = ()


def read_items(questions: Path, context: Path, references: Path, answers: Path) -> ReviewItems:
    """Pair the lines of the official files; lines past the end of the shortest file are left out, with a note.

    Raises InputError where the official script would crash."""
    captions = _read_captions(context)
    files = (questions, references, answers)
    lengths = [len(read_lines(path)) for path in files]
    asked, referred, answered = (read_records(path, limit=min(lengths)) for path in files)
    rows = list(zip(asked, referred, answered, strict=True))
    notes = [*_length_notes(files, lengths), *_pairing_notes(rows)]
    return ReviewItems(tuple(_item(*three, captions=captions) for three in rows), tuple(notes))


def _item(question: Row, reference: Row, answer: Row, captions: Mapping[str, str]) -> ReviewItem:
    image = needed_text(question, "image")
    if image not in captions:
        raise wrong(question, f"image {image!r} has no caption", "an image of the context file",
                    "add its line to the context file or mend the name")
    category = f"llava_bench_{needed_text(question, 'category')}"
    if category not in CATEGORIES:
        raise wrong(question, f"category {category.removeprefix('llava_bench_')!r}", "conv, detail or complex",
                    "mend the category")
    return ReviewItem(
        needed(question, "question_id"), category, needed_text(question, "text"), captions[image],
        needed_text(reference, "text"), reference.fields.get("answer_id", needed(reference, "question_id")),
        needed_text(answer, "text"), needed(answer, "answer_id"),
    )  # fmt: skip


def _read_captions(context: Path) -> dict[str, str]:
    return {needed_text(row, "image"): _caption(row) for row in read_records(context)}


def _caption(row: Row) -> str:
    caption = needed(row, "caption")
    if isinstance(caption, list) and all(isinstance(line, str) for line in caption):
        return "\n".join(caption)
    return needed_text(row, "caption")


def _length_notes(files: Sequence[Path], lengths: Sequence[int]) -> Iterator[str]:
    if len(set(lengths)) > 1:
        told = ", ".join(f"{path.name} {length}" for path, length in zip(files, lengths, strict=True))
        yield f"the files have different numbers of lines ({told}): only the first {min(lengths)} are judged"


def _pairing_notes(rows: Sequence[tuple[Row, Row, Row]]) -> Iterator[str]:
    odd = [question.line for question, *others in rows if any(
        "question_id" in row.fields and row.fields["question_id"] != question.fields.get("question_id")
        for row in others)]
    if odd:
        yield (f"lines {_listed(odd)} pair different question ids; the official script pairs by line and so does "
               f"this: sort the answers as the questions are sorted")


def _listed(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:10]))
    return shown if len(values) <= 10 else f"{shown} and {len(values) - 10} more"


# --- reviews ----------------------------------------------------------------------------------------------------


def parse_score(reply: str) -> Pair:
    """LLaVA's rule: the first line, commas as blanks, must be two numbers with one blank between; else (-1, -1)."""
    tokens = reply.split("\n", maxsplit=1)[0].replace(",", " ").split(" ")
    if len(tokens) != 2:
        return UNPARSED
    try:
        return float(tokens[0]), float(tokens[1])
    except ValueError:
        return UNPARSED


def lmms_eval_parse_score(reply: str) -> Pair:
    """lmms-eval's rule: the first two numbers of the first line, wherever they stand; else (-1, -1)."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", reply.strip().split("\n", maxsplit=1)[0])
    return (float(numbers[0]), float(numbers[1])) if len(numbers) >= 2 else (-1.0, -1.0)


@dataclass(frozen=True)
class ReviewRun:
    """What a run of the judge did."""

    asked: int
    resumed: int
    """Reviews that were in the file before; they are kept as they are."""
    notes: tuple[str, ...] = ()


def review(items: Sequence[ReviewItem], judge: Judge, path: Path) -> ReviewRun:
    """Ask the judge for every item that has no review yet; reviews are appended line by line as they come.

    Raises EndpointError where the judge fails: reviews so far stay in the file and the next run goes on behind them. An
    item is never passed over, since a review belongs to its question by its line."""
    before = read_records(path) if path.is_file() else []
    for index in range(len(before), len(items)):
        try:
            reply = judge(items[index].messages(), temperature=TEMPERATURE, max_tokens=MAX_TOKENS)
        except EndpointError as error:
            raise EndpointError(f"question {items[index].question_id} ({index + 1} of {len(items)}) has no review: "
                             f"{error}; {index} reviews are kept in {path}, start again to go on") from error
        append_line(path, json.dumps(_review_record(index + 1, items[index], reply)))
    return ReviewRun(max(0, len(items) - len(before)), len(before), tuple(_resume_notes(before, items)))


def _review_record(number: int, item: ReviewItem, reply: str) -> dict[str, Any]:
    return {"id": number, "question_id": item.question_id, "answer1_id": item.reference_id,
            "answer2_id": item.answer_id, "category": item.category, "content": reply, "tuple": parse_score(reply)}


def _resume_notes(before: Sequence[Row], items: Sequence[ReviewItem]) -> Iterator[str]:
    if len(before) > len(items):
        yield f"the file held {len(before)} reviews for {len(items)} questions; the summary counts all of them"
    odd = [row.line for row, item in zip(before, items, strict=False)
           if row.fields.get("question_id") != item.question_id]
    if odd:
        yield f"reviews of before in lines {_listed(odd)} belong to other questions; use a new file for a new run"
    other = [row.line for row, item in zip(before, items, strict=False)
             if row.fields.get("answer2_id") != item.answer_id]
    if other:
        yield f"reviews of before in lines {_listed(other)} are of other answers; use a new file for other answers"


# --- summary ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Scores of one category or of all: 100 x model / reference, and both means x 10."""

    relative: float
    reference: float
    model: float
    count: int


@dataclass(frozen=True)
class Summary:
    """What one parser makes of the reviews."""

    parser: Parser
    splits: Mapping[str, Split]
    """`all` (VLMEvalKit: `overall`) and the categories."""
    notes: tuple[str, ...] = ()

    def lines(self, name: str) -> list[str]:
        """As summarize_gpt_review.py prints them for a file of that name."""
        numbers = [f"{key} {split.relative} {split.reference} {split.model}"
                   for key, split in sorted(self.splits.items())]
        return [name, *numbers, "=" * 33]


@dataclass(frozen=True)
class Scored:
    """One review as the summaries read it."""

    question_id: Any
    category: str | None
    pair: Pair
    content: str | None = None
    """The judge's reply, where the file has it."""


def read_scores(path: Path, ignore: Collection[int] = ()) -> list[Scored]:
    """The reviews of a file but for the question ids to ignore. Raises InputError for a row without scores."""
    rows = read_records(path)
    return [_scored(row) for row in rows if needed(row, "question_id") not in ignore]


def _scored(row: Row) -> Scored:
    category = row.fields.get("category")
    name = "tuple" if "category" in row.fields or "tuple" in row.fields else "score"
    pair = needed(row, name)
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(value, int | float) for value in pair):
        raise wrong(row, f"{name!r} is {pair!r}", "two numbers, reference and model", "judge this question again")
    if category is not None and not isinstance(category, str):
        raise wrong(row, f"'category' is {category!r}", "a text", "mend the category")
    content = row.fields.get("content")
    return Scored(row.fields["question_id"], category, (pair[0], pair[1]),
                  content if isinstance(content, str) else None)


def summarize(scores: Sequence[Scored]) -> Summary:
    """LLaVA's summary: means rounded to 3 decimals, then their ratio to 1.

    Raises InputError where a mean of the reference is 0 and the official script divides by it."""
    splits = {name: _official_split(name, pairs) for name, pairs in _by_category(scores, "all").items()}
    return Summary("llava_official", splits, tuple(_score_notes(scores)))


def _official_split(name: str, pairs: Sequence[Pair]) -> Split:
    reference, model = _rounded_means(pairs)
    if reference == 0:
        raise InputError(f"the mean score of the reference answers in {name!r} is 0 over {len(pairs)} reviews; "
                         f"expected scores of 1 to 10, the relative score divides by it; look at the judge's replies")
    return Split(round(model / reference * 100, 1), round(reference * 10, 1), round(model * 10, 1), len(pairs))


def _rounded_means(pairs: Sequence[Pair]) -> Pair:
    reference, model = np.asarray(pairs, dtype=float).mean(0).tolist()
    return round(reference, 3), round(model, 3)


def _by_category(scores: Sequence[Scored], whole: str) -> dict[str, list[Pair]]:
    groups: dict[str, list[Pair]] = {whole: [score.pair for score in scores]} if scores else {}
    for score in scores:
        if score.category is not None:
            groups.setdefault(score.category, []).append(score.pair)
    return groups


def _score_notes(scores: Sequence[Scored]) -> Iterator[str]:
    """What a reader of the number must know."""
    if not scores:
        yield "there are no reviews and so no score"
    lost = [score.question_id for score in scores if score.pair == UNPARSED]
    if lost:
        yield (f"{len(lost)} of {len(scores)} replies could not be read; each counts as -1 for both sides in the "
               f"official mean: questions {_listed(lost)}")
    if lost and len(lost) == len(scores):
        yield "not one reply could be read: the official score is then 100.0 (-1 / -1) and means nothing"
    odd = [score.question_id for score in scores if not all(map(math.isfinite, score.pair))]
    if odd:
        yield f"the judge's scores of questions {_listed(odd)} are not finite; so are the means that hold them"


def summarize_lmms_eval(scores: Sequence[Scored]) -> Summary:
    """lmms-eval's summary: as LLaVA's, but -999 is left out, and a split without a score is NaN."""
    groups = {name.removeprefix("llava_bench_"): _lmms_eval_split(pairs)
              for name, pairs in _by_category(scores, "all").items()}
    return Summary("lmms_eval", groups, tuple(_score_notes(scores)))


def _lmms_eval_split(pairs: Sequence[Pair]) -> Split:
    kept = [pair for pair in pairs if LMMS_EVAL_MISSING not in pair]
    if not kept:
        return Split(math.nan, math.nan, math.nan, 0)
    reference, model = _rounded_means(kept)
    relative = round(model / reference * 100, 1) if reference else math.nan  # lmms-eval logs an error there
    return Split(relative, round(reference * 10, 1), round(model * 10, 1), len(kept))


def summarize_vlmevalkit(scores: Sequence[Scored]) -> Summary:
    """VLMEvalKit's summary: nothing is rounded, and a score that is not a number is left out of its own mean."""
    groups = {name.removeprefix("llava_bench_"): _vlmevalkit_split(pairs)
              for name, pairs in _by_category(scores, "overall").items()}
    return Summary("vlmevalkit", groups, tuple(_score_notes(scores)))


def _vlmevalkit_split(pairs: Sequence[Pair]) -> Split:
    reference, model = (_mean_of_numbers([pair[side] for pair in pairs]) for side in (0, 1))
    with np.errstate(all="ignore"):  # pandas gives inf and nan without a word
        relative = float(np.float64(model) / np.float64(reference) * 100)
    return Split(relative, reference * 10, model * 10, len(pairs))


def _mean_of_numbers(values: Sequence[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def summarize_all(scores: Sequence[Scored]) -> dict[Parser, Summary]:
    """Every parser on the same reviews; lmms-eval reads the replies with its own rule where the file holds them."""
    reread = [score if score.content is None else
              Scored(score.question_id, score.category, lmms_eval_parse_score(score.content), score.content)
              for score in scores]
    return {"llava_official": summarize(scores), "lmms_eval": summarize_lmms_eval(reread),
            "vlmevalkit": summarize_vlmevalkit(scores)}


# --- without a judge --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProxyScores:
    """How near the answers are to the references, in per cent, by category and for all. Not LLaVA-Bench's score."""

    rouge_l_proxy: Mapping[str, float]
    keyword_recall_proxy: Mapping[str, float]
    note: str = ("proxy without a judge: words shared with the reference answers; it does not compare with any "
                 "published LLaVA-Bench score")


def proxy_scores(items: Sequence[ReviewItem]) -> ProxyScores:
    """ROUGE-L against the reference, and the share of the reference's content words that the answer holds."""
    return ProxyScores(_means_by_category(items, rouge_of), _means_by_category(items, keyword_recall))


def _means_by_category(items: Sequence[ReviewItem], nearness: Callable[[str, str], float]
                       ) -> dict[str, float]:
    groups: dict[str, list[float]] = {"all": []} if items else {}
    for item in items:
        value = 100 * nearness(item.answer, item.reference)
        groups["all"].append(value)
        groups.setdefault(item.category, []).append(value)
    return {name: sum(values) / len(values) for name, values in groups.items()}


# --- the official folder ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One question of the official folder, for the model under test."""

    question_id: Any
    image: Path
    text: str
    category: str


@dataclass(frozen=True)
class Distribution:
    """The official files, as they are downloaded."""

    folder: Path
    questions: tuple[Question, ...]
    notes: tuple[str, ...] = ()

    @property
    def questions_file(self) -> Path:
        """The questions, in the order in which answers must stand."""
        return self.folder / "questions.jsonl"

    @property
    def context_file(self) -> Path:
        """Captions by people, which the judge reads in place of the pictures."""
        return self.folder / "context.jsonl"

    @property
    def references_file(self) -> Path:
        """GPT-4's answers from the captions: the reference of every score."""
        return self.folder / "answers_gpt4.jsonl"


def load_distribution(folder: Path) -> Distribution:
    """The questions of a downloaded LLaVA-Bench. Raises InputError where files or pictures are missing."""
    _check_folder(folder)
    rows = read_records(folder / "questions.jsonl")
    questions = tuple(_question(row, folder / "images") for row in rows)
    notes = [] if len(questions) == NUM_QUESTIONS else [
        f"{len(questions)} questions; the published LLaVA-Bench has {NUM_QUESTIONS}, so this is another set"]
    return Distribution(folder, questions, tuple(notes))


def _check_folder(folder: Path) -> None:
    parts = ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl", "images")
    missing = [name for name in parts if not (folder / name).exists()]
    if missing:
        raise InputError(
            f"{folder} is no LLaVA-Bench folder: no {', '.join(missing)}; expected questions.jsonl, context.jsonl, "
            f"answers_gpt4.jsonl and images/ with the pictures that the questions name; get it from the Hugging Face "
            f"data set liuhaotian/llava-bench-in-the-wild, it does not come with this package")


def _question(row: Row, images: Path) -> Question:
    image = images / needed_text(row, "image")
    if not image.is_file():
        raise wrong(row, f"picture {image.name!r} is not in images/", "the picture file",
                    "download the images of the data set too")
    return Question(needed(row, "question_id"), image, needed_text(row, "text"), needed_text(row, "category"))


def write_answers(path: Path, questions: Sequence[Question], texts: Sequence[str], model: str) -> None:
    """The model's answers as the official answer file, in the order of the questions."""
    if len(questions) != len(texts):
        raise InputError(f"{len(texts)} answers for {len(questions)} questions; give one answer a question")
    seen = Counter(question.question_id for question in questions)
    if doubled := [key for key, count in seen.items() if count > 1]:
        raise InputError(f"question ids {_listed(doubled)} stand twice; give every question an id of its own")
    lines = [json.dumps({"question_id": question.question_id, "prompt": question.text, "text": text,
                         "answer_id": f"{model}-{question.question_id}", "model_id": model, "metadata": {}},
                        ensure_ascii=False)
             for question, text in zip(questions, texts, strict=True)]
    write_atomically(path, "".join(line + "\n" for line in lines))
