"""A model behind a URL is evaluated as one of the package: this package's own server, asked over a real socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from live_server import serving
from scripted_server import completion, endpoint

from minicpm_o.api import MiniCPMO
from minicpm_o.evaluation.endpoint import Endpoint, EndpointModel
from minicpm_o.evaluation.local import run_local


def test_a_server_answers_as_its_model_does(model: MiniCPMO, samples: Path, data: Any) -> None:
    data.images("images", "1.png")
    (data.root / "images" / "cat.jpg").write_bytes((samples / "photo.jpg").read_bytes())
    data.rows("images_qa.jsonl", [
        {"id": "a", "image": "cat.jpg", "type": "open", "question": "What animal is this?", "answers": ["cat"]},
        {"id": "b", "image": "1.png", "type": "yesno", "question": "Is it red?", "answers": ["yes"]}])
    data.sounds("speech/audio", "1.wav")
    data.rows("speech/asr.jsonl", [{"audio": "1.wav", "text": "hello"}])
    with serving(model) as running:
        behind = EndpointModel(Endpoint(running.base_url, "default"))
        served = run_local(behind, data.root, blind=True)
    alone = run_local(model, data.root, blind=True)
    for name in ("images_qa/open", "images_qa/yesno"):
        assert served.task(name).metrics == alone.task(name).metrics
        assert served.task(name).blind == alone.task(name).blind
    assert served.model == f"default at {running.base_url}"
    left_out = [note for note in served.notes if "has no recogniser" in note]
    assert left_out and all("ears" in note for note in left_out)


@pytest.mark.parametrize(("name", "kind"), [("photo.jpg", "image"), ("speech.wav", "audio")])
def test_media_travel_in_the_request(model: MiniCPMO, samples: Path, name: str, kind: str) -> None:
    with serving(model) as running:
        behind = EndpointModel(Endpoint(running.base_url, "default"))
        part = {"type": kind, kind: str(samples / name)}
        question = {"type": "text", "text": "What is it?"}
        assert behind.chat([{"role": "user", "content": [part, question]}], max_tokens=8) == model.chat(
            [{"role": "user", "content": [part, question]}], max_tokens=8).text


@pytest.mark.parametrize(("start", "kind"), [(b"RIFF", "wav"), (b"ID3", "mp3"), (b"fLaC", "flac"), (b"????", "wav")])
def test_sounds_without_a_name_are_told_by_how_they_begin(monkeypatch: pytest.MonkeyPatch, start: bytes, kind: str
                                                          ) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    sound = {"type": "audio", "audio": start + b"x"}
    with endpoint(completion("yes")) as (url, asked):
        EndpointModel(Endpoint(url, "m")).chat([{"role": "user", "content": [sound]}])
    (part,) = asked[0]["messages"][0]["content"]
    assert part["input_audio"]["format"] == kind
