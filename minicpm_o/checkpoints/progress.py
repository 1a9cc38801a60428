"""A progress bar on stderr, or silence. Knows nothing of what is being done."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LOG = logging.getLogger("minicpm_o")


class ProgressReport:
    """Tells a person what is going on: `say` a sentence, `begin` a step, let it `reach` a length."""

    def __init__(self, enabled: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._enabled = enabled
        self._bar: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[size]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressReport:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """A sentence above the bar; to the log when the bar is off."""
        if self._enabled:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            _LOG.info(text)

    def begin(self, text: str, total_bytes: int | None = None) -> None:
        """Start a step of so many bytes, or of unknown length; the one before counts as done."""
        self.finish()
        self._task = self._bar.add_task(text, total=total_bytes, size="")

    def reach(self, num_bytes: int) -> None:
        """Move the step to an absolute number of bytes."""
        if self._task is not None:
            self._bar.update(self._task, completed=num_bytes, size=f"{num_bytes / 1e6:.0f} MB")

    def finish(self) -> None:
        """The step is done."""
        if self._task is not None:
            task = next(task for task in self._bar.tasks if task.id == self._task)
            total = task.completed if task.total is None else task.total
            self._bar.update(self._task, total=total, completed=total)
            self._task = None
