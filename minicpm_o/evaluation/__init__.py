"""Scores out: a data folder and a model in, a report with chance, blind run and raw answers out.

    data folder -> tasks (questions) -> local (asks) -> scoring (numbers) -> report (JSON, tables)

Needs the extra `eval` for word error rates.
"""

from __future__ import annotations

from minicpm_o.evaluation.local import run_local
from minicpm_o.evaluation.protocol import EvaluatedModel
from minicpm_o.evaluation.report import Report, TaskLine

__all__ = ["EvaluatedModel", "Report", "TaskLine", "run_local"]
