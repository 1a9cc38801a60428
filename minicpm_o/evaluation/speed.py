"""How quick a model is on this machine: seconds to the first word and sound, real-time factors, tokens a second.

Every figure is measured `rounds` times after a warm-up and reported as median with smallest and largest. What is
compared is measured in turns, so that a machine that slows down slows both. Knows nothing of what the answers say.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..api import MiniCPMO, Reply
from ..errors import InputError
from ..inputs.audio import load_audio
from ..inputs.messages import AudioPart, ImagePart, Message, Part, TextPart
from ..inputs.prompts import CAPTION, SPOKEN_QUESTION
from ..rates import AUDIO_RATE_HZ
from ..runtime.timing import peak_rss_mb

if TYPE_CHECKING:
    from ..runtime.engine import Engine

PROMPT_TOKENS = 512
DECODE_TOKENS = 64
REST_S = 0.05
"""Pause before each contestant's turn: the threads of the one before stop spinning."""
CLAUSE_ENDS = ".,;:!?"
SENTENCE = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of an old tree."

Say = Callable[[str], None]


@dataclass(frozen=True)
class Measure:
    """One figure."""

    name: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "median": round(self.median, 4),
            "min": round(min(self.values), 4),
            "max": round(max(self.values), 4),
            "n": len(self.values),
            "note": self.note,
        }


class LanguageModel(Protocol):
    """What a race over prompt reading and writing needs."""

    def read(self, ids: Sequence[int]) -> None:
        """Forget everything, then read a prompt."""
        ...

    def write(self, token_id: int) -> None:
        """Read one more token and compute what follows it."""
        ...


def sample(name: str) -> str:
    """Path of a bundled sample: photo.jpg or speech.wav."""
    return str(Path(str(importlib.resources.files("minicpm_o"))) / "assets" / "samples" / name)


def measure(
    model: MiniCPMO,
    *,
    model_name: str,
    image: str | None = None,
    audio: str | None = None,
    rounds: int = 5,
    gguf: Path | None = None,
    say: Say = lambda text: None,
) -> Iterator[Measure]:
    """All figures, one by one as they are ready. gguf: the language model for llama.cpp, if that is to be raced."""
    picture, question = image or sample("photo.jpg"), audio or sample("speech.wav")
    say("a whole process of `describe`")
    yield from describe_process(model_name, picture, model.plan.threads, min(rounds, 3))
    say("first words")
    yield from first_words(model, picture, question, rounds)
    say("first sound")
    yield first_sound(model, question, rounds)
    say("hearing and speaking")
    yield from real_time_factors(model, question, rounds)
    say("the language part")
    yield from language_speed(model, rounds, gguf)
    if (peak := peak_rss_mb()) is not None:
        yield Measure("peak memory, all parts open", "MB", (peak,), f"open: {', '.join(model.parts.opened())}")


def describe_process(model_name: str, image: str, threads: int, rounds: int) -> Iterator[Measure]:
    """`describe` as a person runs it: a fresh process each time."""
    walls, reports = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        reports.append(_describe(model_name, image, threads))
        walls.append(time.perf_counter() - started)
    timings = [report["timing"] for report in reports]
    yield Measure("describe, whole process", "s", tuple(walls), "interpreter start to exit, files in the page cache")
    yield Measure("describe, load", "s", tuple(timing["load_s"] for timing in timings))
    peaks = tuple(timing["peak_rss_mb"] for timing in timings if timing["peak_rss_mb"] is not None)
    if peaks:
        yield Measure("describe, peak memory", "MB", peaks, "whole process")


def _describe(model_name: str, image: str, threads: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "minicpm_o",
        "describe",
        image,
        "--model",
        model_name,
        "--threads",
        str(threads),
        "--prefix-cache-mb",
        "0",  # or all rounds but the first would be answered from it
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"`describe {image}` failed: {' '.join(done.stderr.split()[-40:])}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def first_words(model: MiniCPMO, image: str, audio: str, rounds: int) -> Iterator[Measure]:
    """From the question to its first word, the parts open, nothing kept from the question before."""
    seconds = len(load_audio(audio)) / AUDIO_RATE_HZ
    photo = (ImagePart(image), TextPart(CAPTION))
    speech = (AudioPart(audio), TextPart(SPOKEN_QUESTION))
    yield _first_word(model, "photo question to first word", photo, True, rounds, "")
    yield _first_word(
        model,
        "speech question to first word",
        speech,
        True,
        rounds,
        f"{seconds:.1f} s of speech, with the recogniser's text",
    )
    yield _first_word(
        model, "speech question to first word, own ears", speech, False, rounds, f"{seconds:.1f} s of speech"
    )


def _first_word(
    model: MiniCPMO, name: str, parts: tuple[Part, ...], transcript: bool, rounds: int, note: str
) -> Measure:
    replies = [_fresh_reply(model, parts, transcript) for _ in range(rounds + 1)][1:]
    return Measure(
        name,
        "s",
        tuple(reply.timing.ttft_s or reply.timing.total_s for reply in replies),
        "; ".join(filter(None, (note, f"{replies[0].usage.prompt} prompt tokens"))),
    )


def _fresh_reply(model: MiniCPMO, parts: tuple[Part, ...], transcript: bool) -> Reply:
    model.forget()
    return model.chat([Message("user", parts)], max_tokens=2, transcript=transcript)


def first_sound(model: MiniCPMO, audio: str, rounds: int) -> Measure:
    """From a spoken question to the first sound of the spoken answer: the first clause, as soon as it is written."""
    return Measure(
        "speech question to first sound",
        "s",
        _timed(lambda: _answer_aloud(model, audio), rounds),
        "first clause written and spoken",
    )


def _answer_aloud(model: MiniCPMO, audio: str) -> None:
    model.forget()
    clause = ""
    events = model.chat([Message("user", (AudioPart(audio), TextPart(SPOKEN_QUESTION)))], stream=True, max_tokens=48)
    for event in events:
        clause += "" if isinstance(event, Reply) else event.text
        if any(mark in clause for mark in CLAUSE_ENDS):
            break
    next(iter(model.speak_stream(clause if any(letter.isalpha() for letter in clause) else "Yes.")))


def real_time_factors(model: MiniCPMO, audio: str, rounds: int) -> Iterator[Measure]:
    """Seconds of work for a second of sound."""
    waveform = load_audio(audio)
    seconds = len(waveform) / AUDIO_RATE_HZ
    note = f"{seconds:.1f} s of speech"
    transcribe = _timed(lambda: model.transcribe(waveform, rate_hz=AUDIO_RATE_HZ), rounds)
    yield Measure("transcribe, real-time factor", "x", tuple(value / seconds for value in transcribe), note)
    turned = (np.roll(waveform, place) for place in itertools.count(1))  # the same sound twice is heard once
    hearing = _timed(lambda: model.parts.hearing.tokens(next(turned)), rounds)
    yield Measure("own ears, real-time factor", "x", tuple(value / seconds for value in hearing), note)
    spoken = len(model.speak(SENTENCE).waveform) / model.speak(SENTENCE).rate_hz
    speaking = _timed(lambda: model.speak(SENTENCE), rounds)
    yield Measure("speak, real-time factor", "x", tuple(value / spoken for value in speaking), f"{spoken:.1f} s spoken")


def _timed(work: Callable[[], object], rounds: int) -> tuple[float, ...]:
    """Seconds of each round, after one that does not count."""
    work()
    return tuple(_seconds(work) for _ in range(rounds))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# --- the language part ------------------------------------------------------------------------------------------


class OwnEngine:
    """This package's engine as a contestant."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache = engine.new_cache(PROMPT_TOKENS + DECODE_TOKENS)

    def read(self, ids: Sequence[int]) -> None:
        self._cache.truncate(0)
        self._engine.prefill(self._engine.embed(ids), self._cache)

    def write(self, token_id: int) -> None:
        self._engine.decode(token_id, self._cache)


class LlamaCpp:
    """llama.cpp through llama-cpp-python as a contestant."""

    def __init__(self, gguf: Path, threads: int) -> None:
        from llama_cpp import Llama

        if not gguf.is_file():
            raise InputError(f"there is no gguf file {gguf}; give the language model's")
        self._llama = Llama(
            str(gguf),
            n_ctx=PROMPT_TOKENS + DECODE_TOKENS,
            n_batch=PROMPT_TOKENS,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def read(self, ids: Sequence[int]) -> None:
        self._llama.reset()
        self._llama.eval(ids)

    def write(self, token_id: int) -> None:
        self._llama.eval([token_id])


def language_speed(model: MiniCPMO, rounds: int, gguf: Path | None) -> Iterator[Measure]:
    """Tokens a second of reading a prompt and of writing; against llama.cpp, in turns, when it is there."""
    ids = np.random.default_rng(0).integers(64, model.parts.config.language.vocab_size, PROMPT_TOKENS).tolist()
    contestants: dict[str, LanguageModel] = {model.name: OwnEngine(model.parts.engine)}
    if gguf is not None and has_llama_cpp():
        contestants["llama.cpp"] = LlamaCpp(gguf, model.plan.threads)
    speeds = race(contestants, ids, rounds)
    for task, tokens in (("prefill", PROMPT_TOKENS), ("decode", DECODE_TOKENS)):
        for name in contestants:
            yield Measure(f"{task}, {name}", "tokens/s", speeds[name][task], f"{tokens} tokens")
        if "llama.cpp" in contestants:
            ratios = [a / b for a, b in zip(speeds[model.name][task], speeds["llama.cpp"][task], strict=True)]
            bits = model.parts.bundle.settings.get("layer_bits")
            note = f"layers of {bits} bits against {gguf and gguf.name}"
            yield Measure(f"{task}, {model.name} / llama.cpp", "ratio", tuple(ratios), note)


def race(
    contestants: dict[str, LanguageModel], ids: Sequence[int], rounds: int
) -> dict[str, dict[str, tuple[float, ...]]]:
    """Tokens a second of each contestant in each round; all take their turn in every round, after one warm-up."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, contestant in contestants.items():
            taken[name].append(_lap(contestant, ids))
    return {
        name: {
            "prefill": tuple(len(ids) / read for read, _ in laps[1:]),
            "decode": tuple(DECODE_TOKENS / wrote for _, wrote in laps[1:]),
        }
        for name, laps in taken.items()
    }


def _lap(contestant: LanguageModel, ids: Sequence[int]) -> tuple[float, float]:
    """Seconds of reading the prompt and of writing DECODE_TOKENS after it."""
    time.sleep(REST_S)
    reading = _seconds(lambda: contestant.read(ids))
    return reading, _seconds(lambda: _write_all(contestant, ids[:DECODE_TOKENS]))


def _write_all(contestant: LanguageModel, ids: Sequence[int]) -> None:
    for token_id in ids:
        contestant.write(token_id)


def has_llama_cpp() -> bool:
    """Whether llama-cpp-python can be imported."""
    return importlib.util.find_spec("llama_cpp") is not None
