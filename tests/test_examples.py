"""The examples run: quickly with a stand-in for the model, and once as they are with nano."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minicpm_o
from minicpm_o.api import MiniCPMO, Reply, ReplyUsage
from minicpm_o.errors import ImageError
from minicpm_o.runtime.events import TextDelta
from minicpm_o.runtime.speech.speaker import Speech
from minicpm_o.runtime.timing import Timing
from minicpm_o.runtime.transcribe import Transcript

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))


class StandIn(MiniCPMO):
    """The public class with its work replaced; the three methods of the article are the real ones."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def chat(self, messages: Any, *, stream: bool = False, **options: Any) -> Reply | Iterator[Any]:
        sources = [str(getattr(part, "source", "")) for message in messages for part in message.parts]
        if any("missing" in source for source in sources):
            raise ImageError("missing.jpg is not there")
        reply = Reply("A picture.", "stop", ReplyUsage(image=44), Timing(0.0, 0.5, 9.0, 1.0, 99.0), "nano")
        return iter([TextDelta("A picture.", 1), reply]) if stream else reply

    def transcribe(self, *args: Any, **options: Any) -> Transcript:
        return Transcript("What is the capital of France?", "en")

    def speak(self, *args: Any, **options: Any) -> Speech:
        return Speech(np.zeros(24000, np.float32), "")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(minicpm_o, "MiniCPMO", StandIn, raising=False)
    monkeypatch.setattr(minicpm_o, "MiniCPM_o_Model", StandIn, raising=False)
    monkeypatch.chdir(tmp_path)


def test_there_are_the_promised_examples() -> None:
    assert {"article.py", "describe.py", "hear.py", "see.py", "talk.py"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name: str, stand_in: None, monkeypatch: pytest.MonkeyPatch,
                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert "A picture." in capsys.readouterr().out


def test_describe_goes_on_after_a_bad_picture(stand_in: None, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["describe.py", "missing.jpg", "photo.jpg"])
    runpy.run_path(str(EXAMPLES / "describe.py"), run_name="__main__")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["error"] == "missing.jpg is not there"
    assert second["caption"] == "A picture."


@pytest.mark.parametrize("name", NAMES)
def test_example_runs_with_nano(name: str, nano: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)})
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 3
