"""Whether spoken answers say what is written: answers of a server, spoken as a stream, written down again.

    python benchmarks/spoken_answers.py

Word errors against the answer's own transcript, numbers and spellings made alike (Whisper's normaliser).
"""

from __future__ import annotations

import base64
import json

import numpy as np
from openai import OpenAI

import common
from minicpm_o import MiniCPMO
from minicpm_o.evaluation.intervals import bootstrap_ratio
from minicpm_o.evaluation.metrics import edit_distance
from minicpm_o.evaluation.normalise import english_words
from minicpm_o.rates import SPEECH_RATE_HZ
from minicpm_o.server.live_bench import serving

NAME = "spoken_answers"
VOICES = ("af_heart", "joe")


def main() -> None:
    model = MiniCPMO.from_pretrained("nano", progress=False)
    texts = (common.ROOT / "benchmarks" / "texts" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in texts]
    known = {voice.name for voice in model.voices()}
    report = {"machine": common.machine(), "command": f"python benchmarks/{NAME}.py", "voices": {}}
    with serving(model) as address:
        client = OpenAI(base_url=f"http://{address}/v1", api_key="none")
        for voice in (name for name in VOICES if name in known):
            errors, words, worst = [], [], []
            for question in questions:
                said, sound = answer(client, question, voice)
                heard = model.transcribe(sound, "en", rate_hz=SPEECH_RATE_HZ).text
                wanted, got = english_words(said), english_words(heard)
                errors.append(edit_distance(wanted, got))
                words.append(len(wanted))
                worst.append((errors[-1], said, heard))
            report["voices"][voice] = {
                "answers": len(questions), "words": sum(words), "wer": round(sum(errors) / sum(words), 4),
                "interval": bootstrap_ratio(errors, words), "worst": sorted(worst, reverse=True)[:5]}
    rows = [(voice, found["answers"], found["words"], f"{found['wer']:.3f}",
             f"{found['interval'][0]:.3f} … {found['interval'][1]:.3f}" if found["interval"] else "–")
            for voice, found in report["voices"].items()]
    table = common.table(["voice", "spoken answers", "words", "word errors", "95 % interval"], rows)
    common.publish(common.RESULTS / f"{NAME}.json", report, f"{table}\n\n{common.provenance(report)}\n")


def answer(client: OpenAI, question: str, voice: str) -> tuple[str, np.ndarray]:
    """An answer's words and its sound (N,) at 24 kHz, as they were streamed."""
    words, sound = "", b""
    for chunk in client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": question}], max_tokens=48, stream=True,
            modalities=["text", "audio"], audio={"voice": voice, "format": "pcm16"}):
        audio = chunk.choices[0].delta.audio
        words += (audio.transcript or "") if audio else ""
        sound += base64.b64decode(audio.data) if audio and audio.data else b""
    return words, np.frombuffer(sound, "<i2").astype(np.float32) / 32768


if __name__ == "__main__":
    main()
