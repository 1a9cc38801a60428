"""A scripted model and small made-up data folders."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from minicpm_o.errors import ImageError
from minicpm_o.evaluation.clips import wav_bytes

SILENCE = "silence"


@dataclass(frozen=True)
class FakeReply:
    text: str


@dataclass
class ScriptedModel:
    """Answers by (media name, question); without a medium the name is "". Counts what it is asked."""

    answers: Mapping[tuple[str, str], str]
    spoken: Mapping[str, str] = field(default_factory=dict)
    own_ears: Mapping[str, str] = field(default_factory=dict)
    """What `transcribe(own_ears=True)` writes."""
    default: str = "nothing"
    name: str = "scripted"
    fingerprint: str = "v1"
    broken: frozenset[str] = frozenset()
    stop_after: int | None = None
    calls: list[dict[str, Any]] = field(default_factory=list)

    def chat(self, messages: list[dict[str, Any]], *, max_tokens: int = 256, temperature: float = 0.0,
             transcript: bool = True,
             num_beams: int = 1) -> FakeReply:
        (message,) = messages
        media = [part[part["type"]] for part in message["content"] if part["type"] != "text"]
        (question,) = [part["text"] for part in message["content"] if part["type"] == "text"]
        name = Path(media[0]).name if media else ""
        self._note({"media": name, "question": question, "max_tokens": max_tokens, "transcript": transcript})
        return FakeReply(self.answers.get((name, question), self.default))

    def transcribe(self, source: Any, *, own_ears: bool = False) -> str:
        name = SILENCE if isinstance(source, bytes) and not _samples(source).any() else ""
        name = name or ("noise" if isinstance(source, bytes) else Path(source).name)
        self._note({"media": name, "question": None, "own_ears": own_ears})
        return self.own_ears.get(name, "") if own_ears else self.spoken.get(name, "")

    def _note(self, call: dict[str, Any]) -> None:
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        if call["media"] in self.broken:
            raise ImageError(f"{call['media']} is no picture")
        self.calls.append(call)


def _samples(source: bytes) -> np.ndarray:
    with wave.open(BytesIO(source)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


@dataclass(frozen=True)
class DataFolder:
    """Writes rows and the media that they name."""

    root: Path

    def rows(self, name: str, rows: Sequence[Mapping[str, Any] | str]) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def images(self, folder: str, *names: str) -> None:
        for name in names:
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), "red").save(path)

    def sounds(self, folder: str, *names: str) -> None:
        for name in names:
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wav_bytes(np.full(1_600, 0.1)))


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    root = tmp_path / "data"
    root.mkdir()
    return DataFolder(root)


@pytest.fixture
def scripted() -> Callable[..., ScriptedModel]:
    return ScriptedModel
