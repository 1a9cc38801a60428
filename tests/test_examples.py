"""The examples run: quickly with a stand-in for the model, and once as they are with nano or a random checkpoint."""

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
import soundfile
from stand_ins import save_speaker, save_tokenizer

import minicpm_o
from minicpm_o.api import MiniCPMO, Reply, ReplyUsage
from minicpm_o.checkpoints.random_official import write_random_checkpoint
from minicpm_o.errors import ImageError
from minicpm_o.runtime.events import TextDelta
from minicpm_o.runtime.speech.speaker import Speech
from minicpm_o.runtime.timing import Timing
from minicpm_o.runtime.transcribe import Transcript

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
OFFICIAL = ("official.py", "with_transformers.py")
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in OFFICIAL)


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


# --- the official models ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["4.5", "2.6"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny, random; 4.5 has stand-ins for the networks that hear a voice."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("official") / request.param
    write_random_checkpoint(folder, request.param)
    if request.param == "4.5":
        save_tokenizer(folder / "assets" / "token2wav" / "speech_tokenizer_v2_25hz.onnx", scale=10)
        save_speaker(folder / "assets" / "token2wav" / "campplus.onnx")
    return folder


def run_example(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_official_example(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("minicpm_o.runtime.official_voice.MAX_CODES", 60)  # random weights would talk to the limit
    sound, answer = tmp_path / "a.wav", tmp_path / "answer.wav"
    soundfile.write(sound, 0.1 * np.random.default_rng(7).standard_normal(16000), 16000)
    run_example("official.py", monkeypatch, "--model", str(checkpoint), "--question", str(sound), "--voice", str(sound),
                "--answer", str(answer), "--max-tokens", "4")
    out = capsys.readouterr().out
    assert all(words in out for words in ("Heard:", "Seen:", "tokens were there already", "Said:"))
    assert soundfile.info(answer).frames > 2000 and str(answer) in out


def test_transformers_example(checkpoint: Path, monkeypatch: pytest.MonkeyPatch,
                              capsys: pytest.CaptureFixture[str]) -> None:
    run_example("with_transformers.py", monkeypatch, "--model", str(checkpoint), "--max-tokens", "4")
    assert capsys.readouterr().out.startswith("Answer:")
