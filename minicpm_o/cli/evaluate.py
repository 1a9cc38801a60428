"""`eval`: scores of a model on a folder of data, a report card, two reports side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..api import MiniCPMO
from ..errors import DiskFullError, OptionError
from ..evaluation.answers import answers_path
from ..evaluation.asking import Decoding
from ..evaluation.endpoint import Endpoint
from ..evaluation.local import Spread, run_local
from ..evaluation.protocol import EvaluatedModel
from ..evaluation.report import Report
from .output import say

REPORT = "report.json"


def evaluate_folder(data: Path, *, model: str, threads: int | None, blind: bool, limit: int | None,
                    json_path: Path | None) -> dict[str, Any]:
    """Score and print the table; json_path "-" leaves stdout to the JSON report."""
    to_stdout = str(json_path) == "-"
    report_path = None if to_stdout else json_path
    if report_path and not os.access(report_path.absolute().parent, os.W_OK):
        raise OptionError(f"cannot write {report_path}: {report_path.absolute().parent} is not a folder to write in")
    report = _report(open_model(model, threads), data, report_path, blind=blind, limit=limit)
    if not to_stdout:
        _print_table(report.to_table())
    if report_path:
        say(f"report in {report_path}, answers in {answers_path(report_path)}")
    return report.to_dict()


@dataclass(frozen=True)
class Asked:
    """Who is asked, and how many questions at a time."""

    open: Callable[[int | None], EvaluatedModel]
    threads: int | None = None
    batch: int = 1
    workers: int = 0

    def spread(self, data: Path) -> Spread | None:
        """How questions are spread; None one by one. Raises OptionError for two ways at once."""
        if self.workers and self.batch > 1:
            raise OptionError(f"--ray {self.workers} and --batch {self.batch} are two ways to ask several questions at "
                              f"a time; give one of them")
        if self.workers:
            from ..evaluation.cluster import Workers, over_ray

            cpus = max(1, (self.threads or (os.cpu_count() or 1)) // self.workers)
            return over_ray(partial(self.open, cpus), data, Workers(self.workers, cpus))
        from ..evaluation.together import in_threads

        return in_threads(self.batch) if self.batch > 1 else None


def evaluate_all(data: Path, out: Path, asked: Asked, *, blind: bool, limit: int | None, tasks: list[str] | None,
                 temperature: float, seed: int) -> dict[str, Any]:
    """Score, print the table and write the report card into the folder `out`."""
    from ..evaluation.card import write_card

    out.mkdir(parents=True, exist_ok=True)
    report = _report(asked.open(asked.threads), data, out / REPORT, blind=blind, limit=limit, tasks=tasks,
                     spread=asked.spread(data), decoding=Decoding(temperature, seed if temperature else None))
    _print_table(report.to_table())
    for path in (out / REPORT, *write_card(report, out)):
        say(str(path))
    return report.to_dict()


def compare_reports(first: Path, second: Path, *, as_json: bool) -> dict[str, Any]:
    """Print what differs between two reports."""
    from ..evaluation.compare import compare

    found = compare(first, second)
    if not as_json:
        _print_table(found.to_table())
        for note in found.notes:
            say(f"note: {note}")
    return found.to_dict()


def judge_report(report: Path, data: Path, endpoint: Endpoint, prompts: list[Path], *, as_json: bool
                 ) -> dict[str, Any]:
    """Have the answers to LLaVA-Bench and VoiceBench graded and print the scores."""
    from ..evaluation.judged import grade_report
    from ..evaluation.judged.prompts import read_prompts

    found = grade_report(report, data, endpoint, read_prompts(prompts))
    for line in () if as_json else json.dumps(found, ensure_ascii=False, indent=1).splitlines():
        say(line)
    return found


def open_model(name: str, threads: int | None) -> MiniCPMO:
    """The model that is asked."""
    return MiniCPMO.from_pretrained(name, threads=threads)


def asked_model(model: str, url: str | None, key: str) -> Callable[[int | None], EvaluatedModel]:
    """What opens the model that is asked: one of the package, or `model` behind a URL."""
    if url is None:
        return partial(open_model, model)
    from ..evaluation.endpoint import EndpointModel

    return partial(_behind, EndpointModel(Endpoint(url, model, key)))


def _behind(model: EvaluatedModel, threads: int | None) -> EvaluatedModel:
    return model


def _report(model: EvaluatedModel, data: Path, path: Path | None, **how: Any) -> Report:
    try:
        return run_local(model, data, report_path=path, progress=True, **how)
    except OSError as error:
        raise DiskFullError(f"the report {path} could not be written: {error}") from error


def _print_table(table: object) -> None:
    from rich.console import Console

    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)
