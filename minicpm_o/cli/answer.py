"""`describe` and `ask`: one question, one answer, on the terminal or as JSON."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..api import Event, MiniCPMO, Reply
from ..errors import OptionError
from ..inputs.messages import AudioPart, ImagePart, Message, Part, TextPart, VideoPart
from ..inputs.prompts import CAPTION, SPOKEN_QUESTION
from ..runtime.timing import Timing, peak_rss_mb
from .output import report, say, summary, write

VIDEO_PROMPT = "Describe this video in one sentence."
PARTS: dict[str, type[ImagePart] | type[AudioPart] | type[VideoPart]] = {
    "image": ImagePart, "audio": AudioPart, "video": VideoPart}


@dataclass(frozen=True)
class AnswerOptions:
    """What `describe`, `ask` and `chat` have in common."""

    model: str = "nano"
    threads: int | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int | None = None
    transcript: bool = True
    allow_urls: bool = False
    quiet: bool = False
    as_json: bool = False
    num_beams: int = 1


@dataclass(frozen=True)
class SpeechOptions:
    """Where and how to speak an answer."""

    path: Path
    voice: str | None
    speed: float


def open_model(options: AnswerOptions) -> tuple[MiniCPMO, float]:
    """The model and the seconds that opening it took."""
    started = time.perf_counter()
    model = MiniCPMO.from_pretrained(options.model, threads=options.threads, progress=not options.quiet)
    return model, time.perf_counter() - started


def answer(media: Sequence[tuple[str, str]], question: str | None, options: AnswerOptions,
           speech: SpeechOptions | None = None) -> dict[str, Any] | None:
    """Ask once. media: (kind, source) in order."""
    started = time.perf_counter()
    message = Message("user", question_parts(media, question))
    model, opened_s = open_model(options)
    reply = show(stream(model, [message], options), options)
    more: dict[str, Any] = {"finish_reason": reply.finish_reason, "warnings": list(reply.warnings)}
    if speech:
        more["speech"] = _speak(model, reply.text, speech, options)
    timing = dataclasses.replace(reply.timing, load_s=opened_s + model.parts.load_s, peak_rss_mb=peak_rss_mb(),
                                 total_s=time.perf_counter() - started)
    note(reply, timing, model, options)
    return report(reply.text, model=reply.model, usage=reply.usage, timing=timing, **more)


def question_parts(media: Sequence[tuple[str, str]], question: str | None) -> tuple[Part, ...]:
    """Media in order, then the question, or the one that the media suggest. Raises OptionError for nothing at all."""
    parts = [PARTS[kind](source) for kind, source in media]
    kinds = {kind for kind, _ in media}
    text = question if question and question.strip() else _suggested(kinds)
    if text is None:
        raise OptionError('there is nothing to answer; ask, as in: minicpm-o ask "What is this?" --image photo.jpg')
    return (*parts, TextPart(text))


def _suggested(kinds: set[str]) -> str | None:
    questions = {"audio": SPOKEN_QUESTION, "video": VIDEO_PROMPT, "image": CAPTION}
    return next((text for kind, text in questions.items() if kind in kinds), None)


def stream(model: MiniCPMO, messages: Sequence[Message], options: AnswerOptions, **more: Any) -> Iterator[Event]:
    """The model's answer under the options of the command line."""
    return model.chat(messages, stream=True, max_tokens=options.max_tokens, temperature=options.temperature,
                      seed=options.seed, num_beams=options.num_beams, transcript=options.transcript,
                      allow_urls=options.allow_urls, **more)


def show(events: Iterator[Event], options: AnswerOptions) -> Reply:
    """Write the words as they come (unless JSON is asked for) and return the whole answer."""
    started = False
    for event in events:
        if isinstance(event, Reply):
            if not options.as_json:
                write("\n")
            return event
        text = event.text if started else event.text.lstrip()
        started = started or bool(text)
        if text and not options.as_json:
            write(text)
    raise RuntimeError("the answer ended without its Reply")


def note(reply: Reply, timing: Timing, model: MiniCPMO, options: AnswerOptions) -> None:
    """Warnings, and one line of figures, on stderr."""
    for warning in reply.warnings:
        say(f"warning: {warning}")
    if not (options.quiet or options.as_json):
        say(summary(reply.usage, timing, reply.model, model.plan.threads))


def _speak(model: MiniCPMO, text: str, speech: SpeechOptions, options: AnswerOptions) -> dict[str, Any]:
    spoken = model.speak(text, speech.path, voice=speech.voice, speed=speech.speed)
    seconds = len(spoken.waveform) / spoken.rate_hz
    if not (options.quiet or options.as_json):
        say(f"spoken into {speech.path} ({seconds:.1f} s)")
    return {"path": str(speech.path), "seconds": round(seconds, 3)}
