"""Which voice speaks English by default: error rate of a recogniser, DNSMOS and speed of each on the same sentences.

    python benchmarks/voices.py --graph speech.onnx --lexicon lexicon_en.txt.gz --voices FOLDER [--voices FOLDER ...]
        [--piper en_US-joe-medium.onnx] --whisper CT2_FOLDER [--only jf_alpha,joe] [--json report.json]

Needs faster-whisper, jiwer, whisper-normalizer and speechmos (benchmark only). CT2_FOLDER holds Whisper as CTranslate2
reads it. Seconds of processor time are reported beside wall time, because they stand other load better.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minicpm_o.evaluation.normalise import english_words
from minicpm_o.rates import AUDIO_RATE_HZ, SPEECH_RATE_HZ
from minicpm_o.runtime.speech import Speaker
from minicpm_o.runtime.speech.voices import find_voices, piper_name

SENTENCES = (
    "The picture shows a brown dog running across a wet beach with a red ball in its mouth.",
    "Two children are sitting at a wooden table, and the older one is drawing a house.",
    "I can see a white plate with scrambled eggs, toast and a small cup of coffee.",
    "There are 23 people in the photograph, most of them wearing yellow helmets.",
    "The speaker says that the meeting was moved from Monday to Thursday at 3:30 p.m.",
    "No, there is no bicycle in this image, but a motorcycle is parked near the wall.",
    "Water boils at 100 degrees Celsius, which is 212 degrees Fahrenheit.",
    "In 1969, Neil Armstrong became the first human being to walk on the Moon.",
    "She sells fresh vegetables at the market every Saturday morning.",
    "The total comes to $45.99, including 8% sales tax.",
    "Please turn left at the second traffic light and drive for five kilometers.",
    "The quick brown fox jumps over the lazy dog while seven wizards watch quietly.",
    "A woman in a blue dress is holding an umbrella beside a crowded bus stop.",
    "Machine learning models need careful evaluation before anybody should trust them.",
    "The recording contains music and applause, followed by a short announcement.",
    "His grandmother thought that the weather would get worse throughout the week.",
    "The sign on the building reads Central Library, open daily from nine to six.",
    "Photosynthesis turns sunlight, water and carbon dioxide into sugar and oxygen.",
    "Could you tell me whether the next train stops in Philadelphia or Baltimore?",
    "It looks like a kitchen: there is a stove, a sink, a window and a large refrigerator.",
)


@dataclass(frozen=True)
class Row:
    """One voice's numbers; rates are seconds of work per second of speech."""

    voice: str
    word_errors: float
    dnsmos: float
    dnsmos_signal: float
    wall_rate: float
    cpu_rate: float
    seconds: float


def main() -> None:
    options = parse()
    speaker = Speaker(options.graph, dict(voice_files(options)), options.lexicon, threads=options.threads)
    hear = recogniser(options.whisper, options.threads)
    sentences = SENTENCES[:: options.every]
    rows, heard = [], {}
    for name in options.only or [voice.name for voice in speaker.voices()]:
        row, heard[name] = measure(speaker, name, sentences, hear)
        rows.append(asdict(row))
        print(json.dumps(rows[-1]), flush=True)
        if options.json:
            report = {"threads": options.threads, "sentences": sentences, "rows": rows, "heard": heard}
            options.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--lexicon", type=Path, required=True)
    parser.add_argument("--voices", type=Path, action="append", default=[])
    parser.add_argument("--piper", type=Path)
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--only", type=lambda text: text.split(","))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="take every n-th sentence only")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def voice_files(options: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    for folder in options.voices:
        yield from find_voices(folder).items()
    if options.piper:
        yield piper_name(options.piper), options.piper


def recogniser(folder: Path, threads: int) -> Callable[[NDArray[np.float32]], str]:
    """Waveform at 16 kHz to text, greedily."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads)

    def hear(waveform: NDArray[np.float32]) -> str:
        segments, _ = model.transcribe(waveform, language="en", beam_size=1, without_timestamps=True)
        return " ".join(segment.text.strip() for segment in segments)

    return hear


def measure(
    speaker: Speaker, voice: str, sentences: Sequence[str], hear: Callable[[NDArray[np.float32]], str]
) -> tuple[Row, list[str]]:
    """Speak, hear again and judge all sentences."""
    import jiwer
    import soxr
    from speechmos import dnsmos

    speaker.speak("Warm up.", voice=voice)
    heard, scores, seconds, wall, cpu = [], [], 0.0, 0.0, 0.0
    for sentence in sentences:
        wall_started, cpu_started = time.perf_counter(), time.process_time()
        speech = speaker.speak(sentence, voice=voice)
        wall, cpu = wall + time.perf_counter() - wall_started, cpu + time.process_time() - cpu_started
        seconds += speech.seconds
        at_16_khz = soxr.resample(speech.waveform, SPEECH_RATE_HZ, AUDIO_RATE_HZ)
        heard.append(hear(at_16_khz))
        scores.append(dnsmos.run(np.clip(at_16_khz, -1, 1), sr=AUDIO_RATE_HZ))
    errors = jiwer.wer(
        [" ".join(english_words(text)) for text in sentences], [" ".join(english_words(t)) for t in heard]
    )
    overall, signal = (float(np.mean([score[key] for score in scores])) for key in ("ovrl_mos", "sig_mos"))
    row = Row(voice, errors, overall, signal, wall / seconds, cpu / seconds, seconds)
    return Row(voice, *(round(value, 4) for value in tuple(asdict(row).values())[1:])), heard


if __name__ == "__main__":
    main()
