"""Hearing against faster-whisper, speaking against Piper and kokoro-onnx, on the very same model files.

    pip install 'minicpm-o[bench]'
    python benchmarks/sound_peers.py

Hearing: Whisper base rounded to 8 bits on both sides, the same sound of 10, 30 and 120 seconds (our Piper voice reads
the bundled text), told that it is English, greedily; faster-whisper also as it comes, with five beams, and our own ears
beside it. Word errors against the text that was read say that neither side is quick by leaving words out. Speaking:
Piper's joe and Kokoro's int8 file, the same sentence. Every contestant is a process of its own that waits while others
work; rounds are interleaved, ratios taken within a round, medians reported. A peer that cannot run is named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import wave
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import common
import race

NAME = "sound_peers"
SOUND_S = (10, 30, 120)
CLAUSE_LETTERS = 120
"""The text is read so many letters at a time, as one speaks."""
PAUSE_S = 0.25
HISS = 1e-4
"""Of full scale: 80 dB below it."""
WINDOW_S, TIME_STEP_S = 30, 0.02
"""Of Whisper's marks of time."""


@dataclass(frozen=True)
class Task:
    """What a process is given besides its orders."""

    files: Path
    """Folder with the model files in the layout that the peers read."""
    threads: int


# Contestants, each alone in its process


class Ears:
    """Our recogniser, or our own ears."""

    distribution = "onnxruntime"
    own_ears = False

    def __init__(self, task: Task) -> None:
        from minicpm_o import MiniCPMO

        self.model = MiniCPMO.from_pretrained("nano", threads=task.threads, progress=False)
        self.hear(np.zeros(16_000, np.float32))  # opens the parts

    def hear(self, waveform: np.ndarray) -> str:
        """Waveform (N,) at 16 kHz to what is said in it."""
        found = self.model.transcribe(waveform, "en", own_ears=self.own_ears, rate_hz=16_000)
        return str(found.text)


class OwnEars(Ears):
    own_ears = True


class FasterWhisper:
    """faster-whisper on the file that our recogniser is made of, at int8."""

    distribution = "faster-whisper"
    beams = 1

    def __init__(self, task: Task) -> None:
        from faster_whisper import WhisperModel

        self.model = WhisperModel(str(task.files / "whisper"), device="cpu", compute_type="int8",
                                  cpu_threads=task.threads)

    def hear(self, waveform: np.ndarray) -> str:
        options: dict[str, Any] = {} if self.beams > 1 else {
            "beam_size": 1, "temperature": 0.0, "condition_on_previous_text": False, "without_timestamps": False}
        segments, _ = self.model.transcribe(waveform, language="en", **options)
        return " ".join(segment.text for segment in segments)


class FasterWhisperBeams(FasterWhisper):
    beams = 5


class OurVoice:
    """Our speaking in one voice."""

    distribution = "onnxruntime"
    voice = "joe"

    def __init__(self, task: Task) -> None:
        from minicpm_o import MiniCPMO

        self.model = MiniCPMO.from_pretrained("nano", threads=task.threads, progress=False)
        self.speak("Yes.")  # opens the parts

    def speak(self, text: str) -> tuple[np.ndarray, int]:
        """Waveform (N,) and its rate in Hz."""
        speech = self.model.speak(text, voice=self.voice)
        return speech.waveform, speech.rate_hz


class OurKokoro(OurVoice):
    voice = "af_heart"


class Piper:
    """Piper's own package."""

    distribution = "piper-tts"

    def __init__(self, task: Task) -> None:
        from piper import PiperVoice

        (path,) = (task.files / "piper").glob("*.onnx")
        self.voice = PiperVoice.load(path)
        self.voice.session = limited_session(path, task.threads)

    def speak(self, text: str) -> tuple[np.ndarray, int]:
        chunks = list(self.voice.synthesize(text))
        return np.concatenate([chunk.audio_float_array for chunk in chunks]), chunks[0].sample_rate


class KokoroOnnx:
    """kokoro-onnx, with a voice of nano's."""

    distribution = "kokoro-onnx"

    def __init__(self, task: Task) -> None:
        from kokoro_onnx import Kokoro

        self.kokoro = Kokoro.from_session(limited_session(task.files / "kokoro.onnx", task.threads),
                                          str(task.files / "voices.npz"))

    def speak(self, text: str) -> tuple[np.ndarray, int]:
        return self.kokoro.create(text, voice=OurKokoro.voice, lang="en-us")


def limited_session(path: Path, threads: int) -> Any:
    """A graph on as many threads as everybody gets, for packages that take all there are."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


HEARING: Mapping[str, Any] = {"minicpm-o": Ears, "faster-whisper int8, greedy": FasterWhisper,
                              "faster-whisper int8, five beams": FasterWhisperBeams, "minicpm-o, own ears": OwnEars}
SPEAKING: Mapping[str, Any] = {"minicpm-o, joe": OurVoice, "Piper, joe": Piper, "minicpm-o, Kokoro": OurKokoro,
                               "kokoro-onnx": KokoroOnnx}
RIVALS = {"Piper, joe": "minicpm-o, joe", "kokoro-onnx": "minicpm-o, Kokoro"}
"""Whose voice file a peer speaks with; in hearing all are compared with the first."""


def with_hiss(waveform: np.ndarray, turn: int) -> np.ndarray:
    """The sound with a whisper of noise that is another one in every round: nobody shall remember what he heard."""
    rng = np.random.default_rng(turn + 1)
    return waveform + HISS * rng.standard_normal(len(waveform), dtype=np.float32)


def answer(side: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked, timed; sound comes and goes as files."""
    if "sound" in order:
        waveform = with_hiss(read_wav(Path(order["sound"])), order.get("turn", -1))
        started = time.perf_counter()
        text = side.hear(waveform)
        return {"took_s": time.perf_counter() - started, "text": text}
    started = time.perf_counter()
    waveform, rate_hz = side.speak(order["text"])
    return {"took_s": time.perf_counter() - started, "sound_s": len(waveform) / rate_hz}


# What they work on


def lay_out(folder: Path) -> None:
    """nano's own parts under the names that the peers look for."""
    from minicpm_o.checkpoints.bundle import Bundle
    from minicpm_o.checkpoints.hub import resolve
    from minicpm_o.checkpoints.parts import WHISPER

    bundle = Bundle.open(Path(resolve("nano")))
    (folder / "kokoro.onnx").symlink_to(bundle.path("speech.onnx"))
    (folder / "piper").symlink_to(bundle.path("piper"))
    style = np.load(bundle.path(f"voices/{OurKokoro.voice}.npy"))
    np.savez(folder / "voices.npz", **{OurKokoro.voice: style[:, None]})  # (510, 256) -> (510, 1, 256)
    whisper = folder / "whisper"
    whisper.mkdir()
    for name, path in common.find_part_files(WHISPER).items():
        (whisper / name).symlink_to(path)
    words = json.loads((whisper / "tokenizer.json").read_text(encoding="utf-8"))
    (whisper / "vocabulary.json").write_text(json.dumps(vocabulary(words)), encoding="utf-8")


def vocabulary(tokenizer: Mapping[str, Any]) -> list[str]:
    """Every token in order, as CTranslate2 wants them beside its weights; Whisper's marks of time come last."""
    places = dict(tokenizer["model"]["vocab"])
    places |= {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    marks = [f"<|{step * TIME_STEP_S:.2f}|>" for step in range(round(WINDOW_S / TIME_STEP_S) + 1)]
    return [*sorted(places, key=places.__getitem__), *(mark for mark in marks if mark not in places)]


def make_sounds(folder: Path, lengths: Sequence[int]) -> dict[int, tuple[Path, str]]:
    """Wav files of at least so many seconds, and the text that is read in each; whole clauses, pauses between."""
    from minicpm_o import MiniCPMO
    from minicpm_o.inputs.audio import load_audio

    model = MiniCPMO.from_pretrained("nano", progress=False)
    text = " ".join((common.ROOT / "benchmarks" / "texts" / "english.txt").read_text(encoding="utf-8").split())
    found, sound, said = {}, np.zeros(0, np.float32), ""
    waiting = sorted(lengths)
    for clause in clauses(text, CLAUSE_LETTERS):
        speech = model.speak(clause, voice=OurVoice.voice)
        waveform = load_audio(speech.waveform, rate_hz=speech.rate_hz)
        sound = np.concatenate([sound, waveform, np.zeros(round(PAUSE_S * 16_000), np.float32)])
        said = f"{said} {clause}".strip()
        while waiting and len(sound) >= waiting[0] * 16_000:
            length = waiting.pop(0)
            found[length] = (folder / f"{length}.wav", said)
            write_wav(found[length][0], sound)
        if not waiting:
            break
    return found


def clauses(text: str, letters: int) -> list[str]:
    """The text cut at sentence ends into pieces of about so many letters."""
    pieces = [""]
    for word in text.split():
        if len(pieces[-1]) > letters and pieces[-1][-1] in ".?!":
            pieces.append("")
        pieces[-1] = f"{pieces[-1]} {word}".strip()
    return pieces


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def write_wav(path: Path, waveform: np.ndarray) -> None:
    from minicpm_o.evaluation.clips import wav_bytes

    path.write_bytes(wav_bytes(waveform))


# The race


@dataclass
class Start:
    """Who is at the start, and who is not and why."""

    sides: dict[str, race.Talk]
    missing: dict[str, str]


def start(stack: ExitStack, names: Sequence[str], task: Task, **trial: Any) -> Start:
    """A process for each contestant that can do a first order; ours may not fail."""
    found = Start({}, {})
    for name in names:
        command = [sys.executable, __file__, "--contestant", name, "--files", str(task.files), "--threads",
                   str(task.threads)]
        try:
            side = race.Talk(command)
            stack.callback(side.close)
            side.order(**trial)
            found.sides[name] = side
        except race.EngineError as error:
            if name.startswith("minicpm-o"):
                raise
            found.missing[name] = error.reason
            print(f"{name} does not take part: {found.missing[name]}", file=sys.stderr)
    return found


def rounds_of(sides: Mapping[str, race.Talk], rounds: int, **order: Any) -> dict[str, list[dict[str, Any]]]:
    """Everybody's answers to the same order, in turning order, after one round that does not count; a single round, of
    a long sound, goes without it."""
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds + (rounds > 1)):
        for name in names[turn % len(names):] + names[: turn % len(names)]:
            answers[name].append(sides[name].order(turn=turn, **order))
    return {name: found[-rounds:] for name, found in answers.items()}


def times_real_time(answers: Sequence[Mapping[str, Any]], sound_s: float | None = None) -> list[float]:
    """Seconds of sound for a second of work, round by round. sound_s: of what was heard; None: of what was spoken."""
    return [(found["sound_s"] if sound_s is None else sound_s) / found["took_s"] for found in answers]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Our speed over theirs: the median of the ratios within the rounds."""
    return round(statistics.median(one / other for one, other in zip(ours, theirs, strict=True)), 3)


def hear_all(task: Task, lengths: Sequence[int], rounds: int) -> dict[str, Any]:
    """Every sound by every contestant."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sounds = make_sounds(folder, lengths)
        found = start(stack, list(HEARING), task, sound=str(sounds[min(sounds)][0]))
        rows = [row for length, (path, said) in sounds.items()
                for row in heard_rows(length, said, len(read_wav(path)) / 16_000,
                                      rounds_of(found.sides, rounds if length < 60 else 1, sound=str(path)))]
        loads = {name: side.ready for name, side in found.sides.items()}
    return {"rows": rows, "missing": found.missing, "loads": loads}


def heard_rows(length: int, said: str, sound_s: float, answers: Mapping[str, Sequence[Mapping[str, Any]]]
               ) -> list[dict[str, Any]]:
    """One sound: speed, memory and word errors of every contestant."""
    speeds = {name: times_real_time(found, sound_s) for name, found in answers.items()}
    ours = next(iter(speeds.values()))
    return [{"sound_s": length, "contestant": name, "times_real_time": round(statistics.median(rates), 2),
             "ours_over_it": ratio(ours, rates), "peak_rss_mb": round(answers[name][-1]["peak_rss_mb"], 1),
             "word_errors": word_errors(said, answers[name][-1]["text"])} for name, rates in speeds.items()]


def word_errors(said: str, heard: str) -> float:
    """Words wrong, missing or too many, as a share of the words that were said."""
    from minicpm_o.evaluation.metrics import edit_distance

    reference, hypothesis = (plain_words(text) for text in (said, heard))
    return round(edit_distance(reference, hypothesis) / len(reference), 3)


def plain_words(text: str) -> list[str]:
    """Lower case, without marks."""
    letters = "".join(letter if letter.isalnum() or letter == "'" else " " for letter in text.lower())
    return letters.split()


def speak_all(task: Task, rounds: int) -> dict[str, Any]:
    """The same sentence by every contestant."""
    from minicpm_o.evaluation.speed import SENTENCE

    with ExitStack() as stack:
        found = start(stack, list(SPEAKING), task, text="Yes.")
        answers = rounds_of(found.sides, rounds, text=SENTENCE)
        speeds = {name: times_real_time(spoken) for name, spoken in answers.items()}
        rows = [{"contestant": name, "times_real_time": round(statistics.median(rates), 2),
                 "ours_over_it": ratio(speeds[RIVALS.get(name, name)], rates),
                 "sound_s": round(answers[name][-1]["sound_s"], 2),
                 "peak_rss_mb": round(answers[name][-1]["peak_rss_mb"], 1)} for name, rates in speeds.items()]
        loads = {name: side.ready for name, side in found.sides.items()}
    return {"rows": rows, "missing": found.missing, "loads": loads}


def measure(threads: int, rounds: int, lengths: Sequence[int]) -> dict[str, Any]:
    """The whole report."""
    with tempfile.TemporaryDirectory() as name:
        task = Task(Path(name), threads)
        lay_out(task.files)
        return {"name": NAME, "command": f"python benchmarks/{NAME}.py", "machine": common.machine(),
                "threads": threads, "rounds": rounds, "hearing": hear_all(task, lengths, rounds),
                "speaking": speak_all(task, rounds)}


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    return "\n\n".join([*tables(report), f"{report['rounds']} interleaved rounds (one for sounds of a minute and "
                        f"more), {report['threads']} threads; medians. {common.provenance(report)}"]) + "\n"


def tables(report: dict[str, Any]) -> list[str]:
    heard = [(f"{row['contestant']}, {row['sound_s']} s", row["times_real_time"], row["ours_over_it"],
              f"{row['word_errors']:.1%}", row["peak_rss_mb"]) for row in report["hearing"]["rows"]]
    spoken = [(row["contestant"], row["times_real_time"], row["ours_over_it"], row["sound_s"], row["peak_rss_mb"])
              for row in report["speaking"]["rows"]]
    return [
        common.table(("hearing", "× real time", "ours / it", "words wrong", "peak MB"), heard),
        common.table(("speaking", "× real time", "ours / it", "s spoken", "peak MB"), spoken),
        *(line for kind in ("hearing", "speaking") for line in notes(report[kind])),
    ]


def notes(found: Mapping[str, Any]) -> list[str]:
    """Loading, versions, and who is missing."""
    loads = ", ".join(f"{name} {ready['load_s']:.2f} s ({ready['version']})" for name, ready in found["loads"].items())
    return [f"Loading, with the version of each one's package: {loads}.",
            *(f"{name} did not take part: {reason}." for name, reason in found["missing"].items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=race.Course().threads)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, nargs="+", default=list(SOUND_S), help="of sound to hear")
    parser.add_argument("--out", type=Path, default=common.RESULTS / f"{NAME}.json")
    parser.add_argument("--contestant", choices=[*HEARING, *SPEAKING], help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        make = (HEARING | SPEAKING)[args.contestant]  # type: ignore[operator]
        race.serve(lambda: make(Task(args.files, args.threads)), answer)
        return
    report = measure(args.threads, args.rounds, args.seconds)
    common.publish(args.out, report, markdown(report))


if __name__ == "__main__":
    main()
