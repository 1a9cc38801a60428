"""Parts are opened when first asked for, once, and timed."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from minicpm_o.model.config import tiny
from minicpm_o.runtime import encoders, engine, own_ears, parts, transcribe
from minicpm_o.runtime.parts import Parts
from minicpm_o.runtime.speech import speaker


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts as they are opened."""
    names: list[str] = []

    def open_as(name: str) -> Any:
        def from_bundle(*args: Any, **options: Any) -> Any:
            names.append(name)
            return SimpleNamespace(name=name, encoder="session", options=options)

        return SimpleNamespace(from_bundle=from_bundle)

    monkeypatch.setattr(engine, "Engine", open_as("engine"))
    monkeypatch.setattr(encoders, "VisionEncoder", open_as("vision"))
    monkeypatch.setattr(encoders, "HearingEncoder", open_as("hearing"))
    monkeypatch.setattr(transcribe, "Recogniser", open_as("recogniser"))
    monkeypatch.setattr(own_ears, "OwnEars", open_as("ears"))
    monkeypatch.setattr(speaker, "Speaker", open_as("speaker"))
    monkeypatch.setattr(parts.Tokenizer, "from_file", lambda path: names.append("tokenizer"))
    return names


@pytest.fixture
def made(opened: list[str]) -> Parts:
    return Parts(SimpleNamespace(config=tiny(), nano=tiny(), path=lambda name: name), SimpleNamespace(threads=1))


def test_nothing_is_opened_before_it_is_asked_for(made: Parts, opened: list[str]) -> None:
    assert (opened, made.load_s, made.opened()) == ([], 0.0, [])


def test_each_is_opened_once(made: Parts, opened: list[str]) -> None:
    assert made.vision is made.vision
    assert made.engine.name == "engine"
    assert made.speaker.name == "speaker"
    assert made.ears is made.ears
    assert opened == ["vision", "engine", "speaker", "ears"]
    assert made.load_s > 0


def test_recogniser_hears_through_the_same_encoder(made: Parts, opened: list[str]) -> None:
    assert made.recogniser.options == {"encoder": "session"}
    assert opened == ["hearing", "recogniser"]


def test_a_model_without_ears_opens_none(opened: list[str]) -> None:
    config = replace(tiny(), hearing=replace(tiny().hearing, words=None))
    deaf = Parts(SimpleNamespace(config=config, nano=config, path=lambda name: name), SimpleNamespace(threads=1))
    assert deaf.ears is None and opened == []


def test_processor_brings_the_tokenizer(made: Parts, opened: list[str]) -> None:
    assert made.processor.config == tiny()
    assert opened == ["tokenizer"]


def test_threads_open_a_part_once(made: Parts, opened: list[str]) -> None:
    threads = [threading.Thread(target=lambda: made.engine) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == ["engine"]
