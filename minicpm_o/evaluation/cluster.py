"""Questions of a data folder answered by several copies of a model, on one machine or on many, through Ray Data.

Every worker opens the model and the folder once and answers the questions that come to it. The folder must be reachable
under the same path from every machine of the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from minicpm_o.errors import MissingExtraError, OptionError
from minicpm_o.evaluation.answers import Answer, Key, answer_from
from minicpm_o.evaluation.asking import Asker, Decoding
from minicpm_o.evaluation.protocol import EvaluatedModel
from minicpm_o.evaluation.tasks import load_tasks

BATCH = 4
"""Questions that a worker takes at once: few, so that the last ones are shared out evenly."""


@dataclass(frozen=True)
class Workers:
    """How many copies, and what each gets."""

    count: int
    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise OptionError(f"{self.count} workers were asked for; give 1 or more")


class Worker:
    """One copy of the model and of the questions."""

    def __init__(self, open_model: Callable[[], EvaluatedModel], folder: Path, decoding: Decoding) -> None:
        self.ask = Asker.of(open_model(), load_tasks(folder).tasks, folder, decoding)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Columns task, id, blind to a column of answers."""
        keys = zip(batch["task"], batch["id"], batch["blind"], strict=True)
        return {"answer": [asdict(self.ask((str(task), str(item), bool(blind)))) for task, item, blind in keys]}


def over_ray(open_model: Callable[[], EvaluatedModel], folder: Path, workers: Workers
             ) -> Callable[[Asker, Sequence[Key]], Iterator[Answer]]:
    """What `run_local(spread=...)` takes. open_model: opens the model in a worker. Uses the cluster that RAY_ADDRESS
    names, else starts one here. Raises MissingExtraError without Ray."""

    def spread(asker: Asker, keys: Sequence[Key]) -> Iterator[Answer]:
        ray = _started()
        rows = [{"task": task, "id": item, "blind": blind} for task, item, blind in keys]
        asked = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // BATCH)).map_batches(
            Worker, batch_size=BATCH, concurrency=workers.count, num_cpus=workers.cpus, num_gpus=workers.gpus,
            fn_constructor_kwargs={"open_model": open_model, "folder": folder.absolute(), "decoding": asker.decoding})
        for row in asked.iter_rows():
            yield answer_from(row["answer"])

    return spread


def _started() -> Any:
    """Ray, connected to its cluster."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("spreading an evaluation needs Ray; pip install 'minicpm-o[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray
