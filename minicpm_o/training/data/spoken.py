"""Texts spoken when they are wanted: what a user types becomes a sound, kept on disk by the hash of voice and words.

Flite, a program of the system, or Kokoro, this package's own speaker, lend their voices. Shapes: N samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...errors import OptionError
from ...inputs.audio import load_audio
from ...inputs.messages import AudioPart, Message, TextPart
from ...rates import AUDIO_RATE_HZ
from ..examples import Example
from ..prepare.speech import Say, open_flite, open_kokoro
from ..prepare.texts import Text
from ..prepare.work import draws

VOICES: dict[str, Callable[[], Say]] = {"flite": open_flite, "kokoro": lambda: open_kokoro(1)}


class SpeechCache:
    """Spoken texts on disk, the longest unused leaving when there are too many."""

    def __init__(self, folder: Path, voice: str, max_bytes: int = 2_000_000_000) -> None:
        if voice not in VOICES:
            raise OptionError(f"there is no voice {voice!r} to speak with; voices are {', '.join(VOICES)}")
        self.folder, self.voice, self.max_bytes = folder, voice, max_bytes
        self._say: Say | None = None

    def speak(self, text: str, take: int = 0) -> np.ndarray:
        """(N,) float32 at 16 kHz; another take has another speaker."""
        import soundfile

        path = self.folder / f"{hashlib.sha256(f'{self.voice}/{take}/{text}'.encode()).hexdigest()[:24]}.flac"
        if path.is_file():
            path.touch()
            return load_audio(path)
        self._say = self._say or VOICES[self.voice]()
        _, waveform = self._say(Text("spoken", text, False), draws(0, self.voice, take, text))
        self.folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        soundfile.write(part, waveform, AUDIO_RATE_HZ, format="FLAC")
        part.replace(path)
        self._make_room()
        return load_audio(path)

    def _make_room(self) -> None:
        files = sorted(self.folder.glob("*.flac"), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in files)
        for file in files[:-1]:
            if total <= self.max_bytes:
                return
            total -= file.stat().st_size
            file.unlink()


def spoken(example: Example, cache: SpeechCache, take: int = 0) -> Example:
    """The example whose users speak what they had typed; media stay."""
    messages = tuple(_spoken(message, cache, take) if message.role == "user" else message
                     for message in example.messages)
    return replace(example, messages=messages, task=f"spoken_{example.task}")


def _spoken(message: Message, cache: SpeechCache, take: int) -> Message:
    return Message("user", tuple(AudioPart(cache.speak(part.text, take), AUDIO_RATE_HZ)
                                 if isinstance(part, TextPart) and part.text.strip() else part
                                 for part in message.parts))
