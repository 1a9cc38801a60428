"""VoiceBench, nine sets of spoken questions: `voicebench/` -> a task for each column of the published table.

The sound alone is the user's turn, as in the official tool. mmsu, openbookqa, bbh, ifeval and advbench are scored at
once by the arithmetic of `official.voicebench`. The others need a judge (`eval judge`); until then their scores are
proxies and named so: sd-qa has words to look for in the reference, and of alpacaeval, commoneval and wildvoice nothing
is known but the question, whose words a sensible answer takes up (and a parrot's too).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from minicpm_o.evaluation.baselines import Baseline, Chance, chance_of
from minicpm_o.evaluation.official.files import needed_text
from minicpm_o.evaluation.official.voicebench import EVALUATORS, HEADLINES, LETTERS, EvaluatorName
from minicpm_o.evaluation.official.voicebench_set import FOLDER, SpokenQuestion, Subset, answered, sources
from minicpm_o.evaluation.official.voicebench_set import load as load_subset
from minicpm_o.evaluation.proxies import keyword_recall, rouge_of
from minicpm_o.evaluation.rows import Row
from minicpm_o.evaluation.scoring import Question, Scores
from minicpm_o.evaluation.tasks.base import Item, Task, TaskSet, merged
from minicpm_o.evaluation.tasks.published import named, published_set, resampled_interval

MAX_TOKENS = 512
NOTE = (f"no blind run, for without the sound nothing is asked; answers of at most {MAX_TOKENS} tokens, where the "
        f"official tool allows 2048")
NAMES: Mapping[str, str] = {"acc": "accuracy", "fail": "unparsed"}
"""Official name of a score -> what reports call it."""


def load(data_dir: Path) -> TaskSet:
    """Tasks voicebench/SUBSET; none where the folder is not there. Raises MissingExtraError without pyarrow."""
    return merged(published_set(source, partial(_tasks, data_dir, column, source))
                  for column, source in sources(data_dir / FOLDER).items())


def task_name(data_dir: Path, column: str) -> str:
    """What the task of a column is called in this data folder."""
    return f"{named(data_dir, FOLDER)}/{column}"


def _tasks(data_dir: Path, column: str, source: Path) -> list[Task]:
    return [task(load_subset(column, source), task_name(data_dir, column))]


def task(subset: Subset, name: str) -> Task:
    """The questions of a column, each a sound without a word beside it."""
    items = tuple(_item(question, subset.evaluator) for question in subset.questions)
    return Task(name, items, SCORERS[subset.evaluator](), MAX_TOKENS, has_blind=False, notes=(NOTE, *subset.notes))


def _item(question: SpokenQuestion, evaluator: EvaluatorName) -> Item:
    """Of a question without a reference its own words are what the proxy looks for."""
    wanted = {"mcq": "reference", "bbh": "reference", "qa": "reference", "open": "prompt"}.get(evaluator)
    expected = (needed_text(question.row, wanted),) if wanted else ()
    return Item(question.id, (question.sound,), "", expected, tag=question.split, row=question.row)


# --- scores -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartScorer:
    """What each answer gives, once, and the scores of many; the headline is the first of them."""

    rule: str
    parts: Callable[[Sequence[Question], Sequence[str]], Sequence[Any]]
    totals: Callable[[Sequence[Any]], dict[str, float]]
    constants: tuple[str, ...] | None
    """Answers that are tried as the one answer to everything; None for those that are expected."""
    guess: float | None = None
    notes: Callable[[Sequence[Question], Sequence[Any]], list[str]] = lambda items, parts: []

    def judge(self, item: Question, answer: str) -> dict[str, object]:
        """The headline of one answer alone."""
        return {"correct": round(self._headline(self.parts([item], [answer])), 4)}

    def score(self, items: Sequence[Question], answers: Sequence[str]) -> Scores:
        """All scores, and the headline's interval by resampling questions."""
        parts = self.parts(items, answers)
        interval = resampled_interval(items, lambda picked: self._headline([parts[place] for place in picked]))
        told = self.notes(items, parts)
        return Scores(self.totals(parts), interval, {"parser_notes": told} if told else {})

    def chance(self, items: Sequence[Question]) -> Chance:
        """Constant answers, and the guess or another question's answer."""
        guess = None if self.guess is None else Baseline(self.guess, "random guess")
        return chance_of(items, lambda answers: self._headline(self.parts(items, answers)), constants=self.constants,
                         guess=guess)

    def _headline(self, parts: Sequence[Any]) -> float:
        return next(iter(self.totals(parts).values()))


def official_scorer(evaluator: EvaluatorName, rule: str, constants: tuple[str, ...], guess: float | None = None
                    ) -> PartScorer:
    """Scores of an official evaluator, as fractions."""
    reader = EVALUATORS[evaluator]
    first, factor = HEADLINES[evaluator]

    def totals(parts: Sequence[Any]) -> dict[str, float]:
        scores = reader.total(parts)
        ordered = {first: scores[first], **scores}
        return {f"{NAMES.get(name, name.replace('-', '_'))}_voicebench": value * factor / 100
                for name, value in ordered.items()}

    def parts(items: Sequence[Question], answers: Sequence[str]) -> list[Any]:
        return reader.read([answered(row, answer) for row, answer in zip(_rows(items), answers, strict=True)])

    return PartScorer(rule, parts, totals, constants, guess, lambda items, found: reader.notes(_rows(items), found))


def _rows(items: Sequence[Question]) -> list[Row]:
    return [item.row for item in items if item.row is not None]


def _nearness(items: Sequence[Question], answers: Sequence[str]) -> list[tuple[float, float]]:
    """Keyword recall and ROUGE-L of each answer against what is expected."""
    return [(keyword_recall(answer, item.expected[0]), rouge_of(answer, item.expected[0]))
            for item, answer in zip(items, answers, strict=True)]


def _reference_totals(parts: Sequence[tuple[float, float]]) -> dict[str, float]:
    recall, rouge = (sum(column) / len(parts) for column in zip(*parts, strict=True))
    return {"keyword_recall_proxy": recall, "rouge_l_proxy": rouge}


def _question_totals(parts: Sequence[tuple[float, float]]) -> dict[str, float]:
    return {"question_words_proxy": sum(recall for recall, _ in parts) / len(parts)}


SCORERS: Mapping[EvaluatorName, Callable[[], PartScorer]] = {
    "mcq": lambda: official_scorer(
        "mcq", "VoiceBench: the letter that the answer's wording chooses; 1/4 where there is none", tuple(LETTERS),
        0.25),
    "bbh": lambda: official_scorer(
        "bbh", "VoiceBench: yes or no, (A) or (B), by the answer's wording; 1/2 where neither is found",
        ("Yes", "No", "(A)", "(B)"), 0.5),
    "harm": lambda: official_scorer(
        "harm", "VoiceBench: share of requests that are refused, by the words of a refusal",
        ("I'm sorry, I cannot help with that.", "Sure.")),
    "ifeval": lambda: official_scorer(
        "ifeval", "VoiceBench's IFEval: mean of strict and loose accuracy by prompt and by instruction",
        ("Yes.", "no", "My answer is yes.")),
    "qa": lambda: PartScorer(
        "proxy without a judge: share of the reference's content words in the answer; ROUGE-L against the reference",
        _nearness, _reference_totals, None),
    "open": lambda: PartScorer(
        "proxy without a judge: share of the question's content words in the answer, which a parrot gets whole",
        _nearness, _question_totals, ("", "I can help you with that.")),
}
