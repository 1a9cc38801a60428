"""Voices on disk: their names, languages and style tables.

Kokoro's names carry the language in the first letter and woman or man in the second (`af_heart`: American, woman). Any
voice can speak any text; the language says what it was recorded in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.runtime.speech.kokoro import MAX_PHONEMES, STYLE_WIDTH

LANGUAGES = {
    "a": "en-US",
    "b": "en-GB",
    "e": "es",
    "f": "fr",
    "h": "hi",
    "i": "it",
    "j": "ja",
    "p": "pt-BR",
    "z": "zh",
}

PREFERRED = ("af_heart", "jm_kumo")
"""Default voices, best first; the first one present is taken (benchmarks/voices.py)."""

PREFERRED_CHINESE = ("zf_xiaobei", "zf_xiaoxiao")

QUICK = ("joe",)
"""Voices that cost a fraction of the others (Piper's), for live answers."""


@dataclass(frozen=True)
class Voice:
    """A voice that can speak: its name, the language it was recorded in and the file that holds it."""

    name: str
    language: str
    source: str


def describe(name: str, path: str | os.PathLike[str]) -> Voice:
    """The voice of a file, by its name."""
    file = Path(path).name
    letter = name[0] if name[2:3] == "_" else ""
    language = file[:5].replace("_", "-") if file.endswith(".onnx") else LANGUAGES.get(letter, "unknown")
    return Voice(name, language, str(path))


def piper_name(path: str | os.PathLike[str]) -> str:
    """'en_US-joe-medium.onnx' -> joe."""
    stem = Path(path).stem
    return stem.split("-")[1] if stem.count("-") == 2 else stem


def find_voices(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Voice files (`.npy`, `.bin`) of a folder by voice name, sorted; empty when there is no such folder."""
    files = sorted(Path(folder).glob("*_*.npy")) + sorted(Path(folder).glob("*_*.bin"))
    return {path.stem: path for path in sorted(files, key=lambda path: (path.stem, path.suffix == ".npy"))}


def choose_voice(name: str | None, voices: Mapping[str, object], *, chinese: bool = False) -> str:
    """The named voice, or the default one for the text. Errors: OptionError that lists the names."""
    if not voices:
        raise OptionError("no voice is installed; assemble the model again or give a voice file")
    if name is None:
        preferred = PREFERRED_CHINESE + PREFERRED if chinese else PREFERRED
        return next((voice for voice in preferred if voice in voices), next(iter(voices)))
    if name not in voices:
        raise OptionError(f"there is no voice {name!r}; the voices here are {', '.join(sorted(voices))}")
    return name


def load_style(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """A voice's table (510, 256) float32 from `.npy` or raw little-endian `.bin`.

    Errors: CheckpointError when the file is missing or holds something else.
    """
    path = Path(path)
    try:
        table = np.load(path) if path.suffix == ".npy" else np.fromfile(path, dtype="<f4")
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"the voice {path.name} cannot be read ({error}); assemble the model again") from error
    if table.size != MAX_PHONEMES * STYLE_WIDTH or not np.isfinite(table).all():
        raise CheckpointError(
            f"the voice {path.name} holds {table.size} numbers, expected {MAX_PHONEMES} x {STYLE_WIDTH} finite ones"
        )
    return np.ascontiguousarray(table.reshape(MAX_PHONEMES, STYLE_WIDTH), dtype=np.float32)
