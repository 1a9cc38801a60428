"""An export of nano for the tests of what runs without Python."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from minicpm_o.errors import PartMissingError


def made_or_given(variable: str, folder: Path, export: Callable[[Path], object], what: str) -> Path:
    """The folder that an environment variable names, or `folder` after an export; the test is skipped where nano's
    parts cannot be had, but for the continuous run."""
    if made := os.environ.get(variable):
        return Path(made)
    try:
        export(folder)
    except PartMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{what} cannot be made here: {error}")
    return folder
