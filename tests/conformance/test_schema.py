"""Requests that the description of the API allows, and those that it does not: none makes the server fail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from live_server import serving

from minicpm_o.api import MiniCPMO
from minicpm_o.server.config import Limits, ServerConfig


def test_no_request_makes_the_server_fail(model: MiniCPMO, tmp_path: Path) -> None:
    with serving(model, ServerConfig(port=0, limits=Limits(max_tokens=4, max_media_s=10))) as server:
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json", "--seed", "1",
             "--checks", "not_a_server_error", "--max-examples", "10", "--phases", "examples,coverage,fuzzing",
             "--exclude-path", "/v1/audio/speech",  # pages of text take minutes to speak; test_openai speaks
             "--no-color", "--request-timeout", "60"],
            cwd=tmp_path, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert passed and passed[1] == passed[2] and int(passed[1]) > 200, done.stdout[-2000:]
        answered = server.state.metrics.registry.get_sample_value("minicpm_o:e2e_request_latency_seconds_count",
                                                                  {"model_name": "nano"})
        assert answered and answered > 5  # some of them are answered, not just refused
