"""Cases of the official scorers: those of this folder, or all in the folder that MINICPM_O_GOLDEN names.

A benchmark has a folder, a case a folder in it: made-up inputs, and what the official script gave for them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("cases")


def cases(bench: str, *holding: str) -> list[object]:
    """The cases of a benchmark that hold all these files (glob patterns), as pytest parameters; a test that finds none
    is skipped."""
    root = Path(os.environ.get("MINICPM_O_GOLDEN") or CASES) / bench
    found = sorted(folder for folder in root.glob("*") if folder.is_dir()
                   and all(any(folder.glob(pattern)) for pattern in holding))
    return [pytest.param(folder, id=folder.name) for folder in found]
