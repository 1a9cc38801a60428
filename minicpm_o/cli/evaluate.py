"""`eval local`: scores of a model on a folder of data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..api import MiniCPMO
from ..errors import DiskFullError, OptionError
from ..evaluation.local import answers_path, run_local
from .output import say


def evaluate_folder(data: Path, *, model: str, threads: int | None, blind: bool, limit: int | None,
                    json_path: Path | None) -> dict[str, Any]:
    """Score and print the table; json_path "-" leaves stdout to the JSON report."""
    to_stdout = str(json_path) == "-"
    report_path = None if to_stdout else json_path
    if report_path and not os.access(report_path.absolute().parent, os.W_OK):
        raise OptionError(f"cannot write {report_path}: {report_path.absolute().parent} is not a folder to write in")
    opened = MiniCPMO.from_pretrained(model, threads=threads)
    try:
        report = run_local(opened, data, blind=blind, limit=limit, report_path=report_path, progress=True)
    except OSError as error:
        raise DiskFullError(f"the report {report_path} could not be written: {error}") from error
    if not to_stdout:
        _print_table(report.to_table())
    if report_path:
        say(f"report in {report_path}, answers in {answers_path(report_path)}")
    return report.to_dict()


def _print_table(table: object) -> None:
    from rich.console import Console

    console = Console()
    console.print(table) if console.is_terminal else Console(width=140).print(table)
