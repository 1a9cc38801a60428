"""`transcribe` and `speak`: sound to text, text to sound."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..api import MiniCPMO
from ..runtime.timing import Timing, peak_rss_mb
from .output import report, say, write


def transcribe_file(source: str, language: str | None, *, model: str, threads: int | None, allow_urls: bool,
                    as_json: bool) -> dict[str, Any]:
    """Text of a sound."""
    started = time.perf_counter()
    opened = MiniCPMO.from_pretrained(model, threads=threads)
    opened_s = time.perf_counter() - started
    transcript = opened.transcribe(source, language, allow_urls=allow_urls)
    if not as_json:
        write(transcript.text + "\n" if transcript.text else "")
    if not transcript.text:
        say("no speech was heard")
    return report(transcript.text, model=opened.name, timing=_timing(started, opened_s + opened.parts.load_s),
                  language=transcript.language, segments=[asdict(segment) for segment in transcript.segments])


def speak_text(text: str, path: Path, voice: str | None, speed: float, *, model: str, threads: int | None,
               as_json: bool) -> dict[str, Any]:
    """Text into a sound file; "-" reads the text from stdin."""
    started = time.perf_counter()
    text = sys.stdin.read() if text == "-" else text
    opened = MiniCPMO.from_pretrained(model, threads=threads)
    opened_s = time.perf_counter() - started
    speech = opened.speak(text, path, voice=voice, speed=speed)
    seconds = len(speech.waveform) / speech.rate_hz
    timing = _timing(started, opened_s + opened.parts.load_s)
    if not as_json:
        write(f"{path}\n")
        say(f"{seconds:.1f} s of speech in {timing.total_s - timing.load_s:.1f} s")
    return report(text.strip(), model=opened.name, timing=timing,
                  speech={"path": str(path), "seconds": round(seconds, 3), "rate_hz": speech.rate_hz})


def _timing(started: float, load_s: float) -> Timing:
    return Timing(load_s, None, None, time.perf_counter() - started, peak_rss_mb())
