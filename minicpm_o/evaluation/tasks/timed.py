"""Scores of what is said to a stream: the right words, at the right second, and nothing in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from minicpm_o.evaluation.baselines import Baseline, Chance
from minicpm_o.evaluation.moments import Moment, Utterance, utterances, written
from minicpm_o.evaluation.official.streamingbench import is_in_time
from minicpm_o.evaluation.scoring import Question, RateScorer

Holds = Callable[[Question, str], bool]
"""Whether words hold what was to be said."""


@dataclass(frozen=True)
class TimedScorer(RateScorer):
    """A share of right answers; chance says the expected words always the same time after the request."""

    def judge(self, item: Question, answer: str) -> dict[str, object]:
        """Each of the rates for one answer."""
        return {"correct": self.hit(item, answer), **{name: judge(item, answer) for name, judge in self.extra.items()}}

    def chance(self, items: Sequence[Question]) -> Chance:
        """The best delay of all that would be right once: it is chosen with the true times at hand."""
        delays = {moment_of(item).due_s - moment_of(item).asked_s for item in items}
        values = {delay: self._of_delay(items, delay) for delay in sorted(delays)}
        best = max(values, key=values.__getitem__)
        return Chance(Baseline(values[best], f"the expected words {best:g} s after each request, whatever happens"))

    def _of_delay(self, items: Sequence[Question], delay_s: float) -> float:
        said = [written([Utterance(moment_of(item).asked_s + delay_s, item.expected[0])]) for item in items]
        return self.score(items, said).metrics[self.name]


def timed_scorer(holds: Holds, rule: str, parser: str = "") -> TimedScorer:
    """By what is said first. parser: ends the name of every score."""
    ending = f"_{parser}" if parser else ""
    extra: Mapping[str, Callable[[Question, str], bool]] = {
        f"time_accuracy{ending}": _in_time, f"too_early{ending}": _too_early, f"said_nothing{ending}": _said_nothing,
        f"false_alarms{ending}": _false_alarm}
    return TimedScorer(lambda item, answer: _in_time(item, answer) and holds(item, utterances(answer)[0].content),
                       rule, f"answer_accuracy{ending}", extra)


def moment_of(item: Question) -> Moment:
    """When an item's answer is due; items of these tasks have one."""
    assert item.moment is not None, "loaders give every item of a timed task its moment"
    return item.moment


def _in_time(item: Question, answer: str) -> bool:
    """Whether the first thing that was said came when it was due."""
    said = utterances(answer)
    return bool(said) and is_in_time(said[0].time_s, moment_of(item).due_s)


def _too_early(item: Question, answer: str) -> bool:
    """Whether it was said before what it is said of could be seen; within the tolerance that is right by luck."""
    said = utterances(answer)
    return bool(said) and said[0].time_s <= moment_of(item).due_s


def _said_nothing(item: Question, answer: str) -> bool:
    return not utterances(answer)


def _false_alarm(item: Question, answer: str) -> bool:
    """Whether anything was said when nothing was due."""
    return any(not is_in_time(one.time_s, moment_of(item).due_s) for one in utterances(answer))
