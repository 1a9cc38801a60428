"""Texts to spoken sounds at 16 kHz: audio/NAME.pcm (int16, end to end) and audio/NAME.json (which sound starts where).

NAME is a voice or `fsdd`, whose digits were spoken by people. Training sounds are disturbed: another speed, a room,
noise; kept-out texts are heard once, as they were spoken. Shapes: N samples.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, MissingExtraError, OptionError
from ...inputs.audio import load_audio
from ...rates import AUDIO_RATE_HZ
from ..mixture import read_json
from ..splits import is_validation
from .disturb import disturb, surround
from .texts import Text
from .work import Marker, bar, draws, find_files, set_rows, write_json

_LOG = logging.getLogger("minicpm_o")
_SAVE_EVERY = 20
"""Texts between two notes of how far the work is."""
FULL_SCALE = 32767
_FLITE_VOICES = ("slt", "rms", "slt", "rms", "awb", "kal16")
"""Clustergen voices are clearer, so they speak twice as often."""
_FLITE_PITCHES_HZ = (None, None, 90, 120, 150, 180, 210)
"""None leaves the voice its own pitch."""

Say = Callable[[Text, np.random.Generator], tuple[str, np.ndarray]]
"""(text, draws) -> name of the voice, waveform (N,) at 16 kHz."""
Disturb = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Waveform (N,) -> another one."""


@dataclass(frozen=True)
class SpeechConfig:
    """Flite says every text; Kokoro, slower and better, says these."""

    kokoro_chat: int = 60
    kokoro_others: int = 180
    kokoro_copies: int = 3
    """Disturbed copies of each training text."""
    seed: int = 0


@dataclass(frozen=True)
class SoundPlan:
    """One pair of files to make."""

    name: str
    texts: tuple[Text, ...]
    open_voice: Callable[[], Say]
    disturb: Disturb = disturb
    copies: int = 1
    workers: int = 1
    """Texts spoken at the same time."""
    seed: int = 0


@dataclass(frozen=True)
class Recording(Text):
    """A text that a person has spoken already."""

    path: Path


def plan_speech(
    texts: list[Text],
    data: Path,
    voices: Iterable[str],
    *,
    threads: int,
    config: SpeechConfig = SpeechConfig(),
    limit: int | None = None,
) -> list[SoundPlan]:
    """What each voice says, and the spoken digits. `limit` is of digits.

    Raises OptionError for a voice that there is not, InputError when the set of digits is missing.
    """
    plans = []
    for voice in voices:
        if voice == "flite":
            plans.append(SoundPlan("flite", tuple(texts), open_flite, workers=threads, seed=config.seed))
        elif voice == "kokoro":
            chosen = tuple(_kokoro_texts(texts, config))
            plans.append(SoundPlan("kokoro", chosen, lambda: open_kokoro(threads), copies=config.kokoro_copies,
                                   seed=config.seed))
        else:
            raise OptionError(f"there is no voice {voice!r} to train with; the voices are flite and kokoro")
    digits = tuple(_recordings(data, limit))
    return [*plans, SoundPlan("fsdd", digits, lambda: recorded, disturb=surround, seed=config.seed)]


def _kokoro_texts(texts: list[Text], config: SpeechConfig) -> list[Text]:
    rng, chosen = draws(config.seed, "kokoro"), []
    for of_chat, count in ((True, config.kokoro_chat), (False, config.kokoro_others)):
        fitting = [text for text in texts if (text.kind == "chat") == of_chat]
        chosen += [fitting[i] for i in rng.permutation(len(fitting))[:count]]
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _recordings(data: Path, limit: int | None) -> list[Recording]:
    rows = set_rows(data, "fsdd", "labels.jsonl", limit)
    return [
        Recording("digit", str(row["text"]), is_validation("fsdd", row["audio"]), data / "fsdd" / row["audio"])
        for row in rows
    ]


@dataclass(frozen=True)
class SoundFiles:
    """Where the sounds called `name` lie."""

    folder: Path
    name: str

    @property
    def pcm(self) -> Path:
        """int16, little-endian, one sound after the other."""
        return self.folder / f"{self.name}.pcm"

    @property
    def index(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def marker(self) -> Path:
        return self.folder / f"{self.name}.done.json"


def prepare_speech(out: Path, plan: SoundPlan) -> None:
    """Write the sounds of a plan, going on where an earlier run of the same plan stopped."""
    files = SoundFiles(out / "audio", plan.name)
    recipe = [[_key(text), text.kind, text.val] for text in plan.texts], plan.copies, plan.seed
    marker = Marker(files.marker, recipe, len(plan.texts), (files.pcm, files.index))
    if marker.is_finished():
        _LOG.info("%s is there already", files.pcm)
        return
    files.folder.mkdir(parents=True, exist_ok=True)
    done = marker.done()
    entries = [entry for entry in read_json(files.index) if entry["row"] < done] if done else []
    say = plan.open_voice()
    starts = range(done, len(plan.texts), _SAVE_EVERY)
    with files.pcm.open("r+b" if done else "wb") as pcm, ThreadPoolExecutor(plan.workers) as pool:
        pcm.seek(2 * _samples(entries))
        pcm.truncate()  # what a killed run wrote after its last note
        for start in bar(starts, f"speech: {plan.name}"):
            rows = range(start, min(start + _SAVE_EVERY, len(plan.texts)))
            for row, sounds in zip(rows, pool.map(lambda row: _sounds(plan, say, row), rows), strict=True):
                _append(entries, pcm, plan.texts[row], row, sounds)
            pcm.flush()
            write_json(files.index, entries)
            marker.reach(rows.stop)


def _sounds(plan: SoundPlan, say: Say, row: int) -> tuple[str, list[np.ndarray]]:
    """The voice's name and the sounds of one text: the clean one when it is kept out, else its disturbed copies."""
    text = plan.texts[row]
    voice, clean = say(text, draws(plan.seed, plan.name, _key(text)))
    if text.val:
        return voice, [clean]
    names = [(plan.name, _key(text), copy) for copy in range(plan.copies)]
    return voice, [plan.disturb(clean, draws(plan.seed, "disturb", *name)) for name in names]


def _append(entries: list[dict[str, Any]], pcm: Any, text: Text, row: int, made: tuple[str, list[np.ndarray]]) -> None:
    voice, sounds = made
    for sound in sounds:
        pcm.write((np.clip(sound, -1, 1) * FULL_SCALE).astype("<i2").tobytes())
        entries.append({"kind": text.kind, "text": text.text, "val": text.val, "voice": voice, "row": row,
                        "start": _samples(entries), "n": len(sound)})


def _samples(entries: list[dict[str, Any]]) -> int:
    """Samples up to the end of the last sound."""
    return entries[-1]["start"] + entries[-1]["n"] if entries else 0


def _key(text: Text) -> str:
    """What a text's draws belong to."""
    return f"{text.path.parent.name}/{text.path.name}" if isinstance(text, Recording) else text.text


def recorded(text: Text, rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """The voice of recordings: reads what was spoken. Raises AudioError, OptionError for a text nobody has spoken."""
    if not isinstance(text, Recording):
        raise OptionError(f"there is no recording of {text.text!r}; give a Recording")
    return "fsdd", load_audio(text.path)


def open_flite() -> Say:
    """Flite's voices, a program of the system. Raises MissingExtraError when it is not installed."""
    program = shutil.which("flite")
    if program is None:
        raise MissingExtraError("the voice 'flite' needs the program flite, which is not installed; "
                                "Debian: apt-get install flite; or leave it out: --voices kokoro")

    def say(text: Text, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        voice = _FLITE_VOICES[rng.integers(len(_FLITE_VOICES))]
        pitch_hz = _FLITE_PITCHES_HZ[rng.integers(len(_FLITE_PITCHES_HZ))]
        settings = [f"duration_stretch={rng.uniform(0.85, 1.25):.2f}"]
        settings += [] if pitch_hz is None else [f"int_f0_target_mean={pitch_hz}"]
        chosen = [word for setting in settings for word in ("--setf", setting)]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "said.wav"
            command = [program, "-voice", voice, *chosen, "-t", text.text, "-o", str(file)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode or not file.is_file():
                raise InputError(f"flite could not speak {text.text!r}: {done.stderr.strip()}")
            return f"flite-{voice}", load_audio(file)

    return say


def open_kokoro(threads: int) -> Say:
    """Kokoro's English voices through this package's own speaker. Raises PartMissingError."""
    import soxr

    from ...checkpoints.lexicon import build_lexicon
    from ...runtime.speech.speaker import Speaker

    (graph,), words = find_files("kokoro").values(), find_files("lexicon")
    voices = {Path(name).stem: path for name, path in find_files("voices").items() if name[0] in "ab"}
    names = sorted(voices)
    with tempfile.TemporaryDirectory() as folder:
        lexicon = Path(folder) / "lexicon_en.txt.gz"
        build_lexicon(words["us_gold.json"], words["us_silver.json"], lexicon)
        speaker = Speaker(graph, voices, lexicon, threads=threads)  # reads the lexicon at once

    def say(text: Text, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        voice = names[rng.integers(len(names))]
        speech = speaker.speak(text.text, voice=voice, speed=rng.uniform(0.9, 1.25))
        return f"kokoro-{voice}", soxr.resample(speech.waveform, speech.rate_hz, AUDIO_RATE_HZ)

    return say
