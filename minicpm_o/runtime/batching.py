"""Decode steps of several conversations as one run of the language graph.

Reading the weights is most of what a step costs, and one reading serves all. `SharedEngine` is an engine that threads
decode with at the same time: whoever comes while others are at it is answered in the same run. Alone it does what
`Engine` does. Letters: B slots, D language width, V vocabulary.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoints.bundle import Bundle
from ..errors import CheckpointError
from ..model.config import LanguageConfig
from .bound_run import BoundRun
from .cache import KVCache
from .device import DevicePlan, make_session
from .engine import Embeddings, Engine, Step
from .rows import GIVEN, PLACES, TAKEN, Rows, goes_by_rows, num_rows

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SLOTS = 2
"""Conversations in one run. Two cost little more than one; four on two cores nearly twice as much as two."""
COMPANY_S = 0.1
"""Whoever decoded so long ago is still at it."""
PATIENCE_S = 0.004
"""How long a step waits for those who are at it."""
IDLE_CAPACITY = 8
"""Tokens of the cache that stands in an empty slot."""


@dataclass(eq=False)
class Ask:
    """One conversation's next step."""

    token_id: int
    cache: KVCache
    draft: tuple[int, ...] = ()
    """Tokens that may follow; read where nobody else asks."""
    steps: list[Step] = field(default_factory=list)
    """Behind the token and, of a draft that was read, behind each of its tokens; none until it is answered."""
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return bool(self.steps) or self.error is not None


class Combiner:
    """Lets threads that ask at about the same time be answered by one call. The first to come does the work."""

    def __init__(self, answer: Callable[[Sequence[Ask]], None], most: int) -> None:
        """answer: fills in the steps of at most `most` asks."""
        self._answer = answer
        self._most = most
        self._changed = threading.Condition()
        self._waiting: list[Ask] = []
        self._seen: dict[int, float] = {}
        self._is_answering = False

    def __call__(self, ask: Ask) -> list[Step]:
        with self._changed:
            self._waiting.append(ask)
            self._seen[id(ask.cache)] = time.monotonic()
            self._changed.notify_all()
        while not ask.is_done:
            batch = self._next_batch(ask)
            if batch:
                self._run(batch)
        if ask.error is not None:
            raise ask.error
        return ask.steps

    def _next_batch(self, ask: Ask) -> list[Ask]:
        """What this thread has to answer; [] when its own ask was answered meanwhile."""
        with self._changed:
            while self._is_answering and not ask.is_done:
                self._changed.wait()
            if ask.is_done:
                return []
            self._is_answering = True
            ends = time.monotonic() + PATIENCE_S
            while len(self._waiting) < self._expected() and (left := ends - time.monotonic()) > 0:
                self._changed.wait(left)
            own = self._waiting.index(ask)
            others = [other for place, other in enumerate(self._waiting) if place != own]
            batch = [ask, *others[: self._most - 1]]
            self._waiting = [other for other in self._waiting if other not in batch]
            return batch

    def _expected(self) -> int:
        """How many are at it: those who asked a moment ago."""
        now = time.monotonic()
        self._seen = {cache: when for cache, when in self._seen.items() if now - when < COMPANY_S}
        return min(self._most, len(self._seen))

    def _run(self, batch: Sequence[Ask]) -> None:
        try:
            self._answer(batch)
        except BaseException as error:  # noqa: BLE001 - each of those who wait is told
            for ask in batch:
                ask.error = ask.error or error
        finally:
            with self._changed:
                self._is_answering = False
                self._changed.notify_all()


class SharedEngine(Engine):
    """An engine that several threads decode with, several conversations in one run."""

    is_shared = True

    def __init__(self, session: InferenceSession, config: LanguageConfig, embeddings: Embeddings,
                 together: InferenceSession, slots: int = SLOTS, prompts: InferenceSession | None = None) -> None:
        """together: the graph of `checkpoints.graphs.batched` for so many slots."""
        super().__init__(session, config, embeddings, prompts)
        self.slots = slots
        self.runs_together = 0
        """Runs that served more than one conversation."""
        self._together = _Together(together, config, slots)
        self._combine = Combiner(self._answer, slots)

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan, slots: int = SLOTS) -> SharedEngine:
        """Load the language part twice, once for several conversations. Raises CheckpointError."""
        alone = Engine.from_bundle(bundle, plan)
        session = open_together(bundle.path("language.onnx"), plan, slots)
        return cls(alone.session, alone.config, alone.embeddings, session, slots, alone.prompts)

    def decode(self, token_id: int, cache: KVCache) -> Step:
        """As `Engine.decode`; together with others who decode at the same time."""
        cache.make_room(1 + self.spare_places)
        return self._combine(Ask(token_id, cache))[0]

    def verify(self, ids: Sequence[int], cache: KVCache) -> list[Step]:
        """As `Engine.verify`; of the first token alone where others decode at the same time."""
        cache.make_room(len(ids) + self.spare_places)
        return self._combine(Ask(ids[0], cache, tuple(ids[1:])))

    def _answer(self, batch: Sequence[Ask]) -> None:
        together = [ask for ask in batch if len(batch) > 1 and goes_by_rows(1, ask.cache, self.config)]
        for ask in (ask for ask in batch if ask not in together or len(together) == 1):
            ask.steps = super().verify([ask.token_id, *(ask.draft if len(batch) == 1 else ())], ask.cache)
        if len(together) > 1:
            self._answer_together(together)

    def _answer_together(self, asks: Sequence[Ask]) -> None:
        self.runs_together += 1
        steps = self.decode_many([ask.token_id for ask in asks], [ask.cache for ask in asks])
        for ask, step in zip(asks, steps, strict=True):
            ask.steps = [step]

    def decode_many(self, token_ids: Sequence[int], caches: Sequence[KVCache]) -> list[Step]:
        """A token of each of at most `slots` conversations in one run, by one thread. Raises ContextFullError when one
        has no room for a short run's rows (`rows`)."""
        steps = self._together(self.embed(token_ids), caches)
        for cache in caches:
            cache.length += 1
        return steps


def open_together(path: Path, plan: DevicePlan, slots: int) -> InferenceSession:
    """The language graph at path for so many conversations, built in memory. Raises CheckpointError."""
    import onnx
    from google.protobuf.message import DecodeError

    from ..checkpoints.graphs.batched import batched
    from .steady import with_rows

    try:
        graph = with_rows(batched(onnx.load(str(path), load_external_data=False), slots), always=True)
        return make_session(path, plan, kind="language", graph=graph.SerializeToString())
    except (OSError, ValueError, DecodeError, CheckpointError) as error:
        raise CheckpointError(f"{path} cannot be run for several conversations at once ({error})") from error


class _Together:
    """Prepared memory of the batched graph. Which caches lie in the slots changes from run to run."""

    def __init__(self, session: InferenceSession, config: LanguageConfig, slots: int) -> None:
        self.config, self.slots = config, slots
        self.embeds = np.zeros((1, slots, config.width), np.float32)
        self.logits = np.zeros((1, slots, config.vocab_size), np.float32)
        self.hidden = np.zeros((1, slots, config.width), np.float32)
        self.last = [np.zeros(1, np.int32) for _ in range(slots)]
        self.total = [np.zeros((), np.int32) for _ in range(slots)]
        self.rows = Rows.of(1, config)
        self.places = [self.rows.tokens[None].copy() for _ in range(slots)]
        self.idle = KVCache.empty(config, min(IDLE_CAPACITY, config.context_tokens))
        self.bound = BoundRun(session)
        self._lying: list[int] = [0] * slots
        """Which cache's buffers lie in each slot."""
        for name, array in (("inputs_embeds", self.embeds), (TAKEN, self.rows.taken), (GIVEN, self.rows.given)):
            self.bound.bind(array, name)
        self.bound.bind(self.logits, None, "logits")
        self.bound.bind(self.hidden, None, "hidden_states")
        for slot in range(slots):
            self.bound.bind(self.last[slot], f"s{slot}.seqlens_k")
            self.bound.bind(self.total[slot], f"s{slot}.total_sequence_length")
            self.bound.bind(self.places[slot], f"s{slot}.{PLACES}")

    def __call__(self, embeds: np.ndarray, caches: Sequence[KVCache]) -> list[Step]:
        """embeds (n, D), one token for each of n <= B caches, which have room for its rows."""
        self.embeds[0, : len(embeds)] = embeds
        for slot in range(self.slots):
            cache = caches[slot] if slot < len(caches) else self.idle
            rows = num_rows(1, self.config)
            cache.make_room(rows)
            self._place(slot, cache)
            self.last[slot][0], self.total[slot][...] = cache.length + rows - 1, cache.length + rows
            self.places[slot][...] = cache.length
        self.bound()
        return [Step(self.logits[0, slot].copy(), self.hidden[0, slot : slot + 1].copy())
                for slot in range(len(caches))]

    def _place(self, slot: int, cache: KVCache) -> None:
        """Bind a cache's own buffers to a slot, unless they lie there already."""
        mark = id(cache.arrays[0])
        if self._lying[slot] == mark:
            return
        self.bound.bind_cache(cache.arrays, self.config.layers, f"s{slot}.")
        self._lying[slot] = mark
