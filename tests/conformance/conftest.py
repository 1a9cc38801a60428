"""One server for all conformance tests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from live_server import Running, serving

from minicpm_o.api import MiniCPMO


@pytest.fixture(scope="session")
def server(model: MiniCPMO) -> Iterator[Running]:
    model.chat("Hello.", max_tokens=2)
    model.written_down(np.zeros(16_000, np.float32))
    with serving(model) as running:
        yield running
