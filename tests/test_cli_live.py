"""serve, talk and bench live from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from live_server import RATE_HZ, Running, serving, spoken

from minicpm_o.api import MiniCPMO
from minicpm_o.cli.app import run as run_line
from minicpm_o.cli.talk import PIECE, Player
from minicpm_o.inputs.audio import load_audio, write_wav


@pytest.fixture(scope="module")
def server(model: MiniCPMO) -> Iterator[Running]:
    with serving(model) as running:
        yield running


def run(*args: str) -> int:
    return run_line(args)


@pytest.mark.parametrize(("args", "words"), [
    (("serve", "--port", "99999"), "--port"), (("serve", "--ssl-certfile", "x.pem"), "ssl_keyfile"),
    (("serve", "--media-path", "/no/such/folder"), "/no/such/folder"), (("serve", "--max-running", "0"), "max-running"),
    (("serve", "--host", "203.0.113.7", "--port", "0"), "203.0.113.7"),
    (("talk", "--url", "http://127.0.0.1:9", "--audio", "{sound}"), "127.0.0.1:9"),
    (("talk", "--url", "http://127.0.0.1:9", "--audio", "/no/such.wav"), "127.0.0.1:9"),
    (("pull", "tiny-4.5", "--fast-voice"), "nano"),
])
def test_what_cannot_be_is_said_in_a_sentence(args: tuple[str, ...], words: str, samples: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*(arg.format(sound=samples / "speech.wav") for arg in args)) == 2
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told


def test_a_port_that_is_taken_is_told(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--port", server.address.rpartition(":")[2]) == 2
    assert "--port" in capsys.readouterr().err


def test_help_comes_without_the_packages_of_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("serve", "talk"):
        assert run(verb, "--help") == 0
    assert "--api-key" in capsys.readouterr().out


def test_a_call_in_the_terminal(server: Running, model: MiniCPMO, samples: Path, tmp_path: Path,
                                capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "answer.wav"
    assert run("talk", "--url", server.address, "--audio", str(samples / "speech.wav"), "--out", str(out)) == 0
    told = capsys.readouterr()
    assert "> What is the capital of France?" in told.out and "Paris" in told.out and "listening" in told.err
    assert "paris" in model.transcribe(load_audio(out), rate_hz=16_000).text.lower()


def test_speaking_into_the_answer_ends_it(server: Running, model: MiniCPMO, tmp_path: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    sound = spoken(model, 0.3, "Tell me a long story about the sea.", 4.0, "Stop. What is the capital of Italy?", 0.3)
    write_wav(tmp_path / "mic.wav", sound, RATE_HZ)
    assert run("talk", "--url", f"{server.address}/v1", "--audio", str(tmp_path / "mic.wav"), "--quiet") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(">")]
    assert len(lines) == 2 and "Italy" in lines[1]


def test_the_player_tells_what_was_heard() -> None:
    player = Player()
    player.put("a", np.ones(PIECE * 2, np.float32))
    assert player.take(PIECE).sum() == PIECE and player.take(3 * PIECE).sum() == PIECE
    player.put("a", np.ones(PIECE, np.float32))
    assert player.flush() == ("a", 80.0) and not player.waiting and player.flush()[0] is None


def test_the_live_benchmark_measures_everything(nano: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "live", "--model", str(nano), "--rounds", "1", "--load-s", "4", "--chats", "1", "--lives", "1",
               "--minutes", "0.5", "--json") == 0
    found = json.loads(capsys.readouterr().out)["measures"]
    assert found["answers"]["count"] == 8 and found["answers"]["first_audio_ms"]["median"] > 0
    assert found["answers"]["first_audio_ms"]["median"] >= found["answers"]["first_text_ms"]["median"]
    assert found["load"]["live_answers"] >= 1 and found["unit_s"]["listening"] > 0
    assert found["long_session"]["turns"] >= 3 and found["overhead"]["server_over_engine"] > 0
