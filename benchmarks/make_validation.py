"""The kept-out rows of the training sets as a folder that `minicpm-o eval local --data` reads.

    python benchmarks/make_validation.py --data SETS --out FOLDER [--no-speech]

Which rows are kept out is a rule on file names (minicpm_o/training/splits.py), the same that training obeys. Speech is
made here: Kokoro's voices read the first caption of every kept-out Flickr8k picture and fifty everyday questions
(benchmarks/texts/questions.jsonl), none of which is a text of the training.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from minicpm_o.rates import AUDIO_RATE_HZ
from minicpm_o.training.labels import sentence
from minicpm_o.training.prepare.speech import Say, open_kokoro
from minicpm_o.training.prepare.texts import Text
from minicpm_o.training.splits import is_validation

QUESTIONS = Path(__file__).parent / "texts" / "questions.jsonl"

SETS = {
    "flickr8k": ("captions.jsonl", "image"),
    "coco": ("annotations.jsonl", "image"),
    "caltech101": ("labels.jsonl", "image"),
    "daquar": ("qa.jsonl", "image"),
    "fsdd": ("labels.jsonl", "audio"),
}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def copy_set(data: Path, out: Path, set_name: str, limit: int | None) -> int:
    """Copy the kept-out rows of one set with their media; returns how many."""
    file, key = SETS[set_name]
    source = data / set_name
    if not (source / file).is_file():
        raise SystemExit(f"{source / file} is missing; --data must be the folder of the unpacked training sets")
    kept = [row for row in read_lines(source / file) if is_validation(set_name, row[key])][:limit]
    for row in kept:
        target = out / set_name / row[key]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / row[key], target)
    write_lines(out / set_name / file, kept)
    return len(kept)


def speak_all(out: Path, limit: int | None) -> dict[str, int]:
    """Write speech/asr.jsonl and questions/qa.jsonl with their sounds; returns how many of each."""
    say = open_kokoro(threads=2)
    captions = [sentence(row["en"][0]) for row in read_lines(out / "flickr8k" / "captions.jsonl")]
    read = [{"text": text} for text in dict.fromkeys(captions)][:limit]
    asked = read_lines(QUESTIONS)[:limit]
    plans = (("speech", "asr.jsonl", "text", read), ("questions", "qa.jsonl", "question", asked))
    for folder, file, key, rows in plans:
        for number, row in enumerate(rows):
            row["audio"] = f"audio/{number:03}.flac"
            row["voice"] = speak(say, row[key], number, out / folder / row["audio"])
        write_lines(out / folder / file, rows)
    return {"read sentences": len(read), "spoken questions": len(asked)}


def speak(say: Say, text: str, number: int, path: Path) -> str:
    """Write one sound; returns the voice that a number draws."""
    import soundfile

    voice, waveform = say(Text("validation", text, True), np.random.default_rng(number))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, AUDIO_RATE_HZ)
    return voice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the unpacked training sets")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--limit", type=int, help="at most this many rows of each set")
    parser.add_argument("--no-speech", action="store_true", help="without the sounds that Kokoro makes")
    options = parser.parse_args()
    for set_name in SETS:
        print(f"{set_name}: {copy_set(options.data, options.out, set_name, options.limit)} rows kept out of training")
    if not options.no_speech:
        print(speak_all(options.out, options.limit))


if __name__ == "__main__":
    main()
