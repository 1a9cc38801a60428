"""Text to a waveform: read the text, pronounce it, cut it into clauses, speak each, even out loudness and pauses.

    text -> tokens (reading) -> phonemes (english) -> clauses -> waveforms (kokoro) -> trimmed, levelled, paused

It does not know files, players or the language model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minicpm_o.errors import OptionError
from minicpm_o.rates import SPEECH_RATE_HZ
from minicpm_o.runtime.device import DevicePlan, make_session, plan_device
from minicpm_o.runtime.speech.chinese import is_chinese, numbers_to_han, read_ideographs
from minicpm_o.runtime.speech.clauses import FIRST_PHONEMES, WISHED_PHONEMES, cut_clauses, final_mark
from minicpm_o.runtime.speech.english import EnglishPhonemizer
from minicpm_o.runtime.speech.kokoro import MAX_PHONEMES, SPEED_RANGE, Kokoro
from minicpm_o.runtime.speech.letters import LetterSounds
from minicpm_o.runtime.speech.level import level, silence, trim
from minicpm_o.runtime.speech.lexicon import Lexicon
from minicpm_o.runtime.speech.piper import Piece, Piper
from minicpm_o.runtime.speech.reading import read
from minicpm_o.runtime.speech.voices import Voice, choose_voice, describe, load_style, piper_name

if TYPE_CHECKING:
    from minicpm_o.checkpoints.bundle import Bundle

LEXICON_FILE = "lexicon_en.txt.gz"

Synthesise: TypeAlias = Callable[[str, float], Iterable[Piece]]
"""(phonemes, speed) -> a clause's sound, trimmed and at the common loudness, in one piece or several."""


@dataclass(frozen=True)
class Speech:
    """Spoken text: `waveform` (N,) float32 in [-1, 1] at `rate_hz`, and the phonemes that were spoken."""

    waveform: NDArray[np.float32]
    phonemes: str
    """"" where a stream goes on with the clause before."""
    rate_hz: int = SPEECH_RATE_HZ
    rest_s: float = 0.0
    """Seconds of the same clause that a stream still has to come, about."""

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / self.rate_hz


class Speaker:
    """Speaks text with one of its voices. Graphs and tables are opened when first needed."""

    def __init__(
        self,
        graph_path: str | os.PathLike[str],
        voices: Mapping[str, str | os.PathLike[str]],
        lexicon_path: str | os.PathLike[str],
        *,
        plan: DevicePlan | None = None,
        threads: int | None = None,
    ) -> None:
        """graph_path: Kokoro's graph. voices: files by voice name, a table (`.npy`, `.bin`) or a Piper graph (`.onnx`).

        Errors: CheckpointError for files that cannot be used, OptionError for threads below 1.
        """
        self._plan = plan or plan_device(threads=threads)
        self._voices = {name: Path(path) for name, path in voices.items()}
        self._phonemizer = EnglishPhonemizer(Lexicon.open(Path(lexicon_path)), LetterSounds.open().sound_out)
        self._graph_path = Path(graph_path)
        self._opened: dict[str, Synthesise] = {}

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan | None = None) -> Speaker:
        """The speaker of an assembled model."""
        voices = {Path(name).stem: bundle.path(name) for name in bundle.files if name.startswith("voices/")}
        for name in bundle.files:
            if name.startswith("piper/") and name.endswith(".onnx"):
                voices[piper_name(name)] = bundle.path(name)
        return cls(bundle.path("speech.onnx"), voices, bundle.path(LEXICON_FILE), plan=plan)

    def voices(self) -> list[Voice]:
        """The voices this speaker has, by name."""
        return [describe(name, path) for name, path in sorted(self._voices.items())]

    def phonemize(self, text: str) -> str:
        """The phonemes of a text, empty when nothing in it is said."""
        return self._phonemizer.phonemes(read(numbers_to_han(text), read_ideographs))

    def speak(self, text: str, *, voice: str | None = None, speed: float = 1.0) -> Speech:
        """Speak a whole text. `speed`: 0.5 to 2. Errors: OptionError for empty text, unknown voice or speed."""
        spoken = list(self._stream(text, voice, speed, first=WISHED_PHONEMES))
        phonemes = " ".join(part.phonemes for part in spoken if part.phonemes)
        return Speech(np.concatenate([part.waveform for part in spoken]), phonemes)

    def stream(self, text: str, *, voice: str | None = None, speed: float = 1.0) -> Iterator[Speech]:
        """Speak clause by clause, each with the pause behind it; the first clause is cut short to be heard early, and
        a voice that can gives the beginning of a clause before its end is computed.

        Errors as `speak`, raised here and not at the first clause.
        """
        return self._stream(text, voice, speed, first=FIRST_PHONEMES)

    def _stream(self, text: str, voice: str | None, speed: float, first: int) -> Iterator[Speech]:
        if not (np.isfinite(speed) and SPEED_RANGE[0] <= speed <= SPEED_RANGE[1]):
            raise OptionError(f"speed {speed} is outside {SPEED_RANGE[0]} to {SPEED_RANGE[1]}")
        name = choose_voice(voice, self._voices, chinese=is_chinese(text))
        clauses = cut_clauses(self.phonemize(text), MAX_PHONEMES, first=first)
        if not clauses:
            raise OptionError(f"there is nothing to say in the text {text[:40]!r}; give one with words")
        return self._clauses(clauses, self._open(name), speed)

    def _clauses(self, clauses: list[str], synthesise: Synthesise, speed: float) -> Iterator[Speech]:
        for clause in clauses:
            pause, phonemes = silence(final_mark(clause), SPEECH_RATE_HZ, speed), clause
            for piece in synthesise(clause, speed):
                sound = np.concatenate([piece.waveform, pause]) if piece.is_last else piece.waveform
                yield Speech(sound, phonemes, rest_s=piece.rest_s + len(pause) / SPEECH_RATE_HZ * (not piece.is_last))
                phonemes = ""

    def _open(self, name: str) -> Synthesise:
        """A voice ready to speak; graphs and tables are kept."""
        if name not in self._opened:
            path = self._voices[name]
            self._opened[name] = self._open_piper(path) if path.suffix == ".onnx" else self._open_kokoro(path)
        return self._opened[name]

    def _open_piper(self, path: Path) -> Synthesise:
        return Piper.open(path, self._plan).pieces

    def _open_kokoro(self, path: Path) -> Synthesise:
        style, kokoro = load_style(path), self._kokoro

        def synthesise(phonemes: str, speed: float) -> list[Piece]:
            sound = kokoro.synthesise(phonemes, style, speed)
            return [Piece(level(trim(sound, SPEECH_RATE_HZ), SPEECH_RATE_HZ))]

        return synthesise

    @cached_property
    def _kokoro(self) -> Kokoro:
        return Kokoro(make_session(self._graph_path, self._plan, kind="speech"))
