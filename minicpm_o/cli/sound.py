"""`transcribe` and `speak`: sound to text, text to sound."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..inputs.audio import check_sound_path, load_audio
from ..runtime.timing import Timing, peak_rss_mb
from .answer import OFFICIAL_INSTEAD, SpeechOptions, check_voice
from .loading import Loading, refuse, version_of
from .output import report, say, write


def transcribe_file(source: str, language: str | None, loading: Loading, *, own_ears: bool, allow_urls: bool,
                    as_json: bool) -> dict[str, Any]:
    """Text of a sound."""
    started = time.perf_counter()
    if version := version_of(loading.model):
        refuse(f"on MiniCPM-o {version}", {"--own-ears": own_ears}, "it has no other ears")
        if "://" not in source:
            load_audio(source)  # a wrong file is told before gigabytes are loaded
    opened, opened_s = loading.open()
    transcript = opened.transcribe(source, language, own_ears=own_ears, allow_urls=allow_urls)
    if not as_json:
        write(transcript.text + "\n" if transcript.text else "")
    if not transcript.text:
        say("no speech was heard")
    return report(transcript.text, model=opened.name, timing=_timing(started, opened_s + opened.parts.load_s),
                  language=transcript.language, segments=[asdict(segment) for segment in transcript.segments])


def speak_text(text: str, path: Path, how: SpeechOptions, loading: Loading, *, as_json: bool) -> dict[str, Any]:
    """Text into a sound file; "-" reads the text from stdin."""
    started = time.perf_counter()
    voice = _voice(how, loading.model)
    check_sound_path(path)
    text = sys.stdin.read() if text == "-" else text
    opened, opened_s = loading.open()
    speech = opened.speak(text, path, voice=voice, speed=how.speed)
    seconds = len(speech.waveform) / speech.rate_hz
    timing = _timing(started, opened_s + opened.parts.load_s)
    if not as_json:
        write(f"{path}\n")
        say(f"{seconds:.1f} s of speech in {timing.total_s - timing.load_s:.1f} s")
    return report(text.strip(), model=opened.name, timing=timing,
                  speech={"path": str(path), "seconds": round(seconds, 3), "rate_hz": speech.rate_hz})


def _voice(how: SpeechOptions, model: str) -> str | None:
    """Name of nano's voice, or the clip of an official model's.

    Raises OptionError for the one where the other is meant, AudioError for a clip that cannot be used.
    """
    version = version_of(model)
    if version is None:
        refuse("on nano", {"--ref-audio": how.ref_audio is not None}, OFFICIAL_INSTEAD)
        return how.voice
    check_voice({"--voice": how.voice is not None, "--speed": how.speed != 1}, version)
    if how.ref_audio is None:
        raise OptionError(f"MiniCPM-o {version} reads aloud in the voice of a clip; name one with --ref-audio FILE")
    load_audio(how.ref_audio)
    return how.ref_audio


def _timing(started: float, load_s: float) -> Timing:
    return Timing(load_s, None, None, time.perf_counter() - started, peak_rss_mb())
