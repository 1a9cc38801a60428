"""`describe` and `ask`: one question, one answer, on the terminal or as JSON."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..api import Event, MiniCPMO, Reply
from ..errors import OptionError
from ..inputs.audio import check_sound_path, load_audio, write_wav
from ..inputs.image import load_image
from ..inputs.messages import AudioPart, ImagePart, Message, Part, TextPart, VideoPart
from ..inputs.official_processor import PromptOptions
from ..inputs.prompts import CAPTION, SPOKEN_QUESTION
from ..inputs.system_prompts import Language, PromptMode, system_prompt
from ..inputs.templates import OfficialVersion
from ..inputs.video import load_video
from ..runtime.timing import Timing, peak_rss_mb
from .loading import Loading, refuse, version_of
from .output import report, say, summary, write

VIDEO_PROMPT = "Describe this video in one sentence."
PARTS: dict[str, type[ImagePart] | type[AudioPart] | type[VideoPart]] = {
    "image": ImagePart, "audio": AudioPart, "video": VideoPart}
LOADERS: Mapping[str, Callable[[str], object]] = {
    "image": load_image, "audio": load_audio, "video": lambda source: load_video(source, max_frames=1)}
VOICE_MODE: PromptMode = "audio_assistant"
"""The system prompt that a reference voice stands in when no other is named."""
OFFICIAL_INSTEAD = "leave it out, or name an official model with --model"


@dataclass(frozen=True)
class AnswerOptions:
    """What `describe`, `ask` and `chat` have in common; None leaves it to the model."""

    loading: Loading = dataclasses.field(default_factory=Loading)
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    num_beams: int | None = None
    transcript: bool | None = None
    """Whether the recogniser's words stand beside a sound (nano)."""
    thinking: bool = False
    slices: int | None = None
    allow_urls: bool = False
    as_json: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether there are no notes on stderr."""
        return self.loading.quiet or self.as_json

    def prompt(self) -> PromptOptions | None:
        """How an official model's prompt is laid out; None for nano, which knows one way."""
        if not self.thinking and self.slices is None:
            return None
        return PromptOptions(enable_thinking=self.thinking, max_slice_nums=self.slices)


@dataclass(frozen=True)
class SpeechOptions:
    """Whether, where and how an answer is spoken."""

    path: Path | None = None
    voice: str | None = None
    speed: float = 1.0
    ref_audio: str | None = None
    """A sound of the voice that an official model speaks in."""


@dataclass(frozen=True)
class SystemOptions:
    """The system prompt of an official model."""

    mode: str | None = None
    language: str | None = None


def answer(media: Sequence[tuple[str, str]], question: str | None, options: AnswerOptions,
           speech: SpeechOptions | None = None, system: SystemOptions | None = None) -> dict[str, Any]:
    """Ask once. media: (kind, source) in order."""
    started = time.perf_counter()
    speech, system = speech or SpeechOptions(), system or SystemOptions()
    version = version_of(options.loading.model)
    check_options(options, version)
    refuse("without a picture", {"--slices": options.slices is not None and all(kind != "image" for kind, _ in media)},
           "name one with --image; a video's frames are never cut")
    _check_speech(speech, system, version, media)
    turn = Message("user", question_parts(media, question, version))
    messages = [*system_messages(version, system, speech.ref_audio), turn]
    if version:  # before gigabytes are loaded
        _check_media([*media, *([("audio", speech.ref_audio)] if speech.ref_audio else [])])
    model, opened_s = options.loading.open()
    spoken = {"generate_audio": True, "ref_audio": speech.ref_audio} if version and speech.path else {}
    reply = show(stream(model, messages, options, **spoken), options)
    more: dict[str, Any] = {"finish_reason": reply.finish_reason, "warnings": list(reply.warnings)}
    if speech.path:
        more["speech"] = _speak(model, reply, speech.path, speech, options)
    timing = dataclasses.replace(reply.timing, load_s=opened_s + model.parts.load_s, peak_rss_mb=peak_rss_mb(),
                                 total_s=time.perf_counter() - started)
    note(reply, timing, model, options)
    return report(reply.text, model=reply.model, usage=reply.usage, timing=timing, **more)


def question_parts(media: Sequence[tuple[str, str]], question: str | None,
                   version: OfficialVersion | None = None) -> tuple[Part, ...]:
    """Media in order, then the question, or the one that the media suggest. Raises OptionError for nothing at all.

    A sound alone is an official model's question as it stands: that is how it was trained to converse.
    """
    parts = [PARTS[kind](source) for kind, source in media]
    kinds = {kind for kind, _ in media}
    if question and question.strip():
        return (*parts, TextPart(question))
    if version and "audio" in kinds:
        return tuple(parts)
    text = _suggested(kinds)
    if text is None:
        raise OptionError('there is nothing to answer; ask, as in: minicpm-o ask "What is this?" --image photo.jpg')
    return (*parts, TextPart(text))


def _suggested(kinds: set[str]) -> str | None:
    questions = {"audio": SPOKEN_QUESTION, "video": VIDEO_PROMPT, "image": CAPTION}
    return next((text for kind, text in questions.items() if kind in kinds), None)


def check_options(options: AnswerOptions, version: OfficialVersion | None) -> None:
    """Raises OptionError for what would have no effect on a model of that version (None: nano)."""
    if version is None:
        refuse("on nano", {"--thinking": options.thinking, "--slices": options.slices is not None}, OFFICIAL_INSTEAD)
        return
    refuse(f"on MiniCPM-o {version}", {"--transcript": options.transcript is True},
           "it hears by itself and no recogniser stands beside it")
    refuse("on MiniCPM-o 2.6", {"--thinking": options.thinking and version == "2.6"}, "only 4.5 thinks aloud")


def _check_speech(speech: SpeechOptions, system: SystemOptions, version: OfficialVersion | None,
                  media: Sequence[tuple[str, str]]) -> None:
    """Raises OptionError for what would have no effect on how the model speaks, or a voice that is missing."""
    own = {"--voice": speech.voice is not None, "--speed": speech.speed != 1}
    if speech.path is None:
        refuse("without --speak", own, "say with --speak FILE where the answer is spoken into")
    else:
        check_sound_path(speech.path)
    if version is None:
        refuse("on nano", {"--ref-audio": speech.ref_audio is not None, "--mode": system.mode is not None,
                           "--language": system.language is not None}, OFFICIAL_INSTEAD)
        return
    check_voice(own, version)
    if speech.path and version == "4.5" and not speech.ref_audio and not any(kind == "audio" for kind, _ in media):
        raise OptionError("MiniCPM-o 4.5 speaks in the voice of a clip; name one with --ref-audio FILE")
    refuse("without a mode that has words in it", {"--language": bool(
        system.language and not speech.ref_audio and system.mode in (None, "default"))},
        "name one with --mode, such as audio_assistant")
    refuse("in --mode default", {"--ref-audio": bool(speech.ref_audio and system.mode == "default")},
           f"it has no place for a voice; name another mode, such as {VOICE_MODE}")


def check_voice(own: Mapping[str, bool], version: OfficialVersion) -> None:
    """Raises OptionError for options of nano's own voices."""
    refuse(f"on MiniCPM-o {version}", own, "it speaks in the voice of a clip at its own speed: --ref-audio FILE")


def system_messages(version: OfficialVersion | None, system: SystemOptions, ref_audio: str | None) -> list[Message]:
    """The system prompt that was asked for, with the reference voice in it. Raises as `system_prompt`."""
    mode = system.mode or (VOICE_MODE if ref_audio else None)
    if version is None or mode is None:
        return []
    return [system_prompt(version, cast(PromptMode, mode), language=cast("Language | None", system.language),
                          ref_audio=ref_audio)]


def _check_media(media: Sequence[tuple[str, str]]) -> None:
    """Open every file once. Raises the InputError of the first that cannot be used."""
    for kind, source in media:
        if "://" not in source:
            LOADERS[kind](source)


def stream(model: MiniCPMO, messages: Sequence[Message], options: AnswerOptions, **more: Any) -> Iterator[Event]:
    """The model's answer under the options of the command line."""
    return model.chat(messages, stream=True, max_tokens=options.max_tokens, temperature=options.temperature,
                      seed=options.seed, num_beams=options.num_beams, transcript=options.transcript is not False,
                      options=options.prompt(), allow_urls=options.allow_urls, **more)


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
    if not options.is_silent:
        say(summary(reply.usage, timing, reply.model, model.plan.threads))


def _speak(model: MiniCPMO, reply: Reply, path: Path, speech: SpeechOptions, options: AnswerOptions) -> dict[str, Any]:
    """An official model has spoken its answer already. Raises OptionError when it had nothing to say."""
    spoken = reply.speech
    if spoken is None and version_of(options.loading.model):
        raise OptionError(f"the answer is empty, so nothing was spoken into {path}; ask again")
    if spoken is None:
        spoken = model.speak(reply.text, path, voice=speech.voice, speed=speech.speed)
    else:
        write_wav(path, spoken.waveform, spoken.rate_hz)
    seconds = len(spoken.waveform) / spoken.rate_hz
    if not options.is_silent:
        say(f"spoken into {path} ({seconds:.1f} s)")
    return {"path": str(path), "seconds": round(seconds, 3)}
