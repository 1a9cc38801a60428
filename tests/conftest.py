"""What tests share: the assembled nano, the loaded model, the bundled samples."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from minicpm_o import MiniCPMO


@pytest.fixture(autouse=True)
def no_prefixes_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line keeps nothing of the tests' prompts in the user's own cache; a test that wants it says so."""
    monkeypatch.setenv("MINICPM_O_PREFIX_CACHE_MB", "0")


@pytest.fixture(scope="session")
def nano() -> Path:
    """Folder of the assembled nano, built at first use into MINICPM_O_HOME or the default cache.

    Skips only where its parts cannot be had (no network and no cache) and only outside CI.
    """
    from minicpm_o.checkpoints.hub import resolve
    from minicpm_o.errors import PartMissingError

    try:
        return Path(resolve("nano"))
    except PartMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"nano cannot be assembled here: {error}")


@pytest.fixture(scope="session")
def model(nano: Path) -> MiniCPMO:
    """The default model, loaded once for all tests."""
    from minicpm_o import MiniCPMO

    return MiniCPMO.from_pretrained(str(nano), progress=False)


@pytest.fixture(scope="session")
def samples() -> Path:
    """Folder of the bundled samples: photo.jpg and speech.wav."""
    return Path(str(resources.files("minicpm_o"))) / "assets" / "samples"
