"""Several questions to one model at the same time, in threads: for servers, and for models that share a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from minicpm_o.errors import OptionError
from minicpm_o.evaluation.answers import Answer, Key
from minicpm_o.evaluation.asking import Asker
from minicpm_o.evaluation.protocol import CanShare


def in_threads(batch: int) -> Callable[[Asker, Sequence[Key]], Iterator[Answer]]:
    """What `run_local(spread=...)` takes: `batch` questions at a time, answers as they come.

    A model that can (`share`) answers them in one run of its language part; a server decides by itself.
    Raises OptionError for a batch below 1."""
    if batch < 1:
        raise OptionError(f"batch is {batch}; expected 1 question at a time, or more")

    def spread(asker: Asker, keys: Sequence[Key]) -> Iterator[Answer]:
        if isinstance(asker.model, CanShare):
            asker.model.share(batch)
        with ThreadPoolExecutor(batch) as pool:
            asked = [pool.submit(asker, key) for key in keys]
            try:
                for done in as_completed(asked):
                    yield done.result()
            finally:
                for left in asked:  # after an interruption nothing more is begun
                    left.cancel()

    return spread
