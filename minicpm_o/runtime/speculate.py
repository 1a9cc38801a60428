"""Several tokens of an answer in one run: some are drafted, the model checks them (arXiv:2211.17192, 2302.01318).

A run over a few tokens costs little more than a run over one, for reading the weights is most of it. `Speculator`
stands between an answer and its engine: asked for the step behind a token, it reads the token together with a draft of
those that may follow, and keeps what came out behind the draft. Where the answer goes on as drafted, the next step is
there already; where it does not, what was read too much is forgotten. How the answer is chosen from the logits is none
of its business, and the logits are bit by bit those of single steps (see `steady`, `Engine.prove`), so that answers are
the same with and without, drawn ones too.

Drafts come from the text so far (`PromptLookup`) and from a small trained network (`drafter.LearnedDrafter`), with a
probability each, and as many are read as pay by what runs cost here (`best_length`, `RunTimes`). Letter: D language
width.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .cache import KVCache
from .engine import Step
from .run_times import RUN_COSTS, RunTimes

MOST_DRAFTED = len(RUN_COSTS) - 1
LEAST_GAIN = 1.08
"""A draft is read when it will likely give so many tokens in the time that a single step takes for one."""
REST_TOKENS = 8
"""Single steps after a draft that was not read because others decode at the same time."""
PROOF_TOKENS = 5
"""Single steps that are repeated in one run before the first draft is believed."""
MOST_LOOKED_UP = 6
"""Longest end of the text that is looked for in the text before."""
MATCHES_RIGHT = (0.18, 0.45, 0.54, 0.65, 0.70, 0.90)
"""How often the token after the longest match of 1, 2, ... tokens was right: 15,000 tokens of nano's answers to the
trainer's prompts."""
PRIOR_GUESSES = 6.0
"""Guesses that this counts for when an answer begins."""


@dataclass(frozen=True)
class Guess:
    """A token that may come next."""

    token_id: int
    probability: float
    """Of being right, if those before it are."""


class Drafter(Protocol):
    """What proposes how an answer goes on."""

    def draft(self, ids: Sequence[int], states: Sequence[np.ndarray], most: int) -> list[Guess]:
        """At most so many guesses of what follows ids: prompt and answer, the last of them chosen but not yet read.

        states, each (D,): the model's hidden states behind the tokens before the last, as many of them as are known,
        one at least. Neither they nor ids change during an answer, but for what comes behind them.
        """
        ...

    def learn(self, guesses: Sequence[Guess], num_right: int) -> None:
        """How many of the guesses, from the first, were right; the one after them was wrong if there is one."""
        ...


class Verifier(Protocol):
    """The half of an engine that speculation needs; see `Engine`."""

    is_exact: bool | None
    is_shared: bool
    run_times: RunTimes
    step_places: int

    @property
    def context_tokens(self) -> int: ...

    def decode(self, token_id: int, cache: KVCache) -> Step: ...

    def verify(self, ids: Sequence[int], cache: KVCache) -> list[Step]: ...

    def prove(self, ids: Sequence[int], steps: Sequence[Step], cache: KVCache) -> bool: ...


class PromptLookup:
    """What followed the same words before: the longest end of the text that stands in it already, as a suffix array
    would find it (prompt look-up decoding; https://github.com/apoorvumang/prompt-lookup-decoding)."""

    def __init__(self, longest: int = MOST_LOOKED_UP) -> None:
        self._longest = longest
        self._places: dict[tuple[int, ...], int] = {}
        """Where what follows an n-gram stands, the last time it was seen."""
        self._num_read = 0
        self._made = np.full(longest, PRIOR_GUESSES)
        self._right = PRIOR_GUESSES * np.resize(MATCHES_RIGHT, longest)
        """How many guesses there were, by length of what matched, and how many of them were right."""
        self._matched = 1

    def draft(self, ids: Sequence[int], states: Sequence[np.ndarray], most: int) -> list[Guess]:
        """As Drafter; states are not looked at."""
        self._read(ids)
        for length in range(min(self._longest, len(ids)), 0, -1):
            place = self._places.get(tuple(ids[-length:]))
            if place is not None:
                return self._guesses(ids[place : place + most], length)
        return []

    def learn(self, guesses: Sequence[Guess], num_right: int) -> None:
        """As Drafter; each right guess makes the match before the next one longer."""
        for place in range(min(len(guesses), num_right + 1)):
            length = min(self._matched + place, self._longest)
            self._made[length - 1] += 1.0
            self._right[length - 1] += float(place < num_right)

    def _guesses(self, following: Sequence[int], matched: int) -> list[Guess]:
        self._matched = matched
        rates = self._right / self._made
        return [Guess(int(token_id), float(rates[min(matched + place, self._longest) - 1]))
                for place, token_id in enumerate(following)]

    def _read(self, ids: Sequence[int]) -> None:
        """Note the n-grams that have something behind them."""
        for stop in range(max(1, self._num_read), len(ids)):
            for length in range(1, min(self._longest, stop) + 1):
                self._places[tuple(ids[stop - length : stop])] = stop
        self._num_read = len(ids)


def best_length(guesses: Sequence[Guess], costs: Sequence[float], draft_cost: float = 0.0) -> tuple[int, float]:
    """How many of the guesses to read, and how many tokens that likely gives for the time of a single step.

    costs: of runs over 1, 2, ... tokens. draft_cost: time that drafting took; it is spent whatever is read. All in
    single steps.
    """
    best, best_rate, expected, reached = 0, 1.0 / (costs[0] + draft_cost), 1.0, 1.0
    for count, guess in enumerate(guesses[: len(costs) - 1], start=1):
        reached *= guess.probability
        expected += reached
        rate = expected / (costs[count] + draft_cost)
        if rate > best_rate:
            best, best_rate = count, rate
    return best, best_rate


@dataclass
class Tally:
    """What speculation did in one answer."""

    runs: int = 0
    """Runs of the model."""
    drafted: int = 0
    """Guesses that were read."""
    accepted: int = 0
    """Guesses that the answer went on with."""


@dataclass
class Speculator:
    """An engine to one answer: `decode` as `Engine.decode`, from what was read ahead where it can.

    After every call the cache holds what single steps would have left, whatever was read ahead: its buffers alone hold
    more, behind its length.
    """

    engine: Verifier
    drafters: Sequence[Drafter]
    ids: list[int]
    """Tokens of the prompt, then of the answer."""
    states: list[np.ndarray]
    """(D,) each: hidden states of the tokens that were read last, in the order of ids."""
    most_tokens: int
    """Longest answer."""
    tally: Tally = field(default_factory=Tally)
    _ahead: deque[tuple[int, Step]] = field(default_factory=deque)
    """Drafted tokens and the steps behind them."""
    _drafted: tuple[Drafter, list[Guess]] | None = None
    _tried: list[tuple[int, Step]] = field(default_factory=list)
    _resting: int = 0
    """Single steps to come before the next draft."""

    @property
    def context_tokens(self) -> int:
        """As the engine's."""
        return self.engine.context_tokens

    def decode(self, token_id: int, cache: KVCache) -> Step:
        """As `Engine.decode`, for the token that the answer goes on with."""
        self.ids.append(token_id)
        self.most_tokens -= 1
        step = self._accepted(token_id, cache) or self._read(token_id, cache)
        self.states.append(step.hidden[-1])
        return step

    def _accepted(self, token_id: int, cache: KVCache) -> Step | None:
        """The step behind a token that was read ahead; None where the answer goes on otherwise."""
        if not self._ahead:
            return None
        guessed, step = self._ahead.popleft()
        if guessed != token_id:
            self._end_draft(len(self._ahead) + 1)
            return None
        cache.length += 1  # its keys and values lie there already
        self.tally.accepted += 1
        if not self._ahead:
            self._end_draft(0)
        return step

    def _end_draft(self, num_left: int) -> None:
        """Tell who drafted how many were right."""
        if self._drafted is not None:
            drafter, guesses = self._drafted
            drafter.learn(guesses, len(guesses) - num_left)
        self._drafted = None
        self._ahead.clear()

    def _read(self, token_id: int, cache: KVCache) -> Step:
        self.tally.runs += 1
        if self.engine.is_exact is None:
            return self._try(token_id, cache)
        guesses = self._choose(cache) if self.engine.is_exact else []
        start = cache.length
        step, *more = self._run([token_id, *(guess.token_id for guess in guesses)], cache)
        cache.truncate(start + 1)
        if not guesses:
            return step
        self._ahead.extend((guess.token_id, behind) for guess, behind in zip(guesses, more, strict=False))
        self.tally.drafted += len(more)
        if not more:  # several conversations in one run: nothing was read ahead, and nothing will be for a while
            self._drafted, self._resting = None, REST_TOKENS
        return step

    def _run(self, ids: list[int], cache: KVCache) -> list[Step]:
        started = time.perf_counter()
        steps = self.engine.verify(ids, cache) if len(ids) > 1 else [self.engine.decode(ids[0], cache)]
        if not self.engine.is_shared:  # else others may have been waited for
            self.engine.run_times.heard(len(steps), time.perf_counter() - started)
        return steps

    def _try(self, token_id: int, cache: KVCache) -> Step:
        """Single steps, until there are enough to find out whether runs of several tokens give the same."""
        step = self.engine.decode(token_id, cache)
        self._tried.append((token_id, step))
        if len(self._tried) == PROOF_TOKENS:
            ids, steps = zip(*self._tried, strict=True)
            self.engine.prove(ids, steps, cache)
        return step

    def _choose(self, cache: KVCache) -> list[Guess]:
        """The guesses that pay best, of the drafter whose do; none where a single step pays better."""
        self._drafted = None
        if self._resting:
            self._resting -= 1
            return []
        most = min(MOST_DRAFTED, self.most_tokens - 1, cache.limit - cache.length - self.engine.step_places)
        best_rate = LEAST_GAIN
        times = self.engine.run_times
        for drafter in self.drafters if most > 0 else ():
            started = time.perf_counter()
            guesses = drafter.draft(self.ids, self.states, most)
            count, rate = best_length(guesses, times.costs, times.in_steps(time.perf_counter() - started))
            if count and rate > best_rate:
                best_rate, self._drafted = rate, (drafter, guesses[:count])
        return self._drafted[1] if self._drafted else []


def speculator(engine: Verifier, learned: Iterable[Drafter], context_ids: Sequence[int], first: Step,
               max_tokens: int) -> Speculator:
    """For an answer to a prompt of these tokens, which `first` ended: its hidden states are of the last of them."""
    return Speculator(engine, [PromptLookup(), *learned], [int(token_id) for token_id in context_ids],
                      list(first.hidden), max_tokens)
