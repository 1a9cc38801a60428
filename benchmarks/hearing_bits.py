"""What Whisper's encoder and decoder lose and gain by 8 bits: words, likeness to float32, size and speed.

    python benchmarks/hearing_bits.py --whisper model.bin --tokenizer tokenizer.json --config config.json
        --vad silero_vad.onnx --audio clips/*.wav --out benchmarks/results/hearing_bits.json

"words off" counts the words in which a transcript differs from the one that float32 wrote, "frame error" is the root
mean square difference of the encoder's frames relative to float32's, heard in blocks of 1 s. Speeds are measured in
interleaved rounds and reported as ratios to float32, taken within a round; more is faster.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import common

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DECODED_WORDS = 16
FRAMES_PER_S = 50
MELS_PER_S = 100


@dataclass(frozen=True)
class Setting:
    """Bits of the encoder's matrices and of the recogniser's; None is float32."""

    encoder_bits: int | None
    recogniser_bits: int | None
    block_size: int

    def __str__(self) -> str:
        if self.encoder_bits is None and self.recogniser_bits is None:
            return "float32"
        return (f"encoder {self.encoder_bits or 'f32'}, recogniser {self.recogniser_bits or 'f32'}, "
                f"block {self.block_size}")


class Parts:
    """Sessions of every quantisation, each built once."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        from minicpm_o.checkpoints.ctranslate2 import read_variables, whisper_config, whisper_tensors
        from minicpm_o.model.config import NanoConfig
        from minicpm_o.runtime.device import make_session, plan_device

        variables = read_variables(options.whisper)
        self.weights, self.config = whisper_tensors(variables), NanoConfig(hearing=whisper_config(variables))
        self.folder = folder
        self.open = partial(make_session, plan=plan_device(None, options.threads))
        self.sessions: dict[tuple[str, int | None, int], Any] = {}
        self.megabytes: dict[tuple[str, int | None, int], float] = {}

    def session(self, name: str, bits: int | None, block_size: int) -> Any:
        from minicpm_o.checkpoints.graphs import hearing

        key = (name, bits, block_size if bits else 0)
        if key not in self.sessions:
            path = self.folder / f"{name}_{bits}_{block_size}.onnx"
            build = {"encoder": hearing.build_encoder, "cross": hearing.build_cross,
                     "recogniser": hearing.build_recogniser}[name]
            build(self.weights, self.config, path, bits=bits, block_size=block_size)
            self.megabytes[key] = sum(file.stat().st_size for file in self.folder.glob(f"{path.name}*")) / 1e6
            self.sessions[key] = self.open(path, kind="hearing" if name == "encoder" else "recogniser")
        return self.sessions[key]

    def of(self, setting: Setting) -> tuple[Any, Any, Any]:
        """Encoder, cross and recogniser of a setting."""
        bits, block = setting.recogniser_bits, setting.block_size
        return (self.session("encoder", setting.encoder_bits, block), self.session("cross", bits, block),
                self.session("recogniser", bits, block))

    def size(self, setting: Setting) -> dict[str, float]:
        self.of(setting)
        bits = {"encoder": setting.encoder_bits, "cross": setting.recogniser_bits,
                "recogniser": setting.recogniser_bits}
        return {name: round(self.megabytes[name, b, setting.block_size if b else 0], 1) for name, b in bits.items()}


def frame_error(encoder: Any, reference: Any, mels: Sequence[np.ndarray]) -> float:
    """Relative root mean square error over clips, heard in blocks of a second."""
    from minicpm_o.runtime.encoders import block_causal_bias, run_encoder

    wrong = right = 0.0
    for mel in mels:
        bias = block_causal_bias(mel.shape[1] // 2)
        expected, got = (run_encoder(session, mel, bias) for session in (reference, encoder))
        wrong += float(np.square(got - expected, dtype=np.float64).sum())
        right += float(np.square(expected - expected.mean(), dtype=np.float64).sum())
    return float(np.sqrt(wrong / right))


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return "".join(c if c.isalnum() or c == "'" else " " for c in text.lower()).split()


def measure_speed(sessions: tuple[Any, Any, Any], shape: Any, seconds: float, clock: str) -> dict[str, float]:
    """Encodings, and words decoded, per second of the clock; the values heard do not matter for that."""
    from minicpm_o.runtime.encoders import run_encoder

    now, (encoder, cross, recogniser) = CLOCKS[clock], sessions
    frames = round(seconds * FRAMES_PER_S)
    start = now()
    heard = run_encoder(encoder, np.zeros((shape.mel_bins, 2 * frames), np.float32),
                        np.zeros((frames, frames), np.float32))
    crossed, cross_k = now(), cross.run(["cross_k", "cross_v"], {"encoder_out": heard})
    empty = np.zeros((shape.decoder_layers, 1, shape.heads, 0, shape.width // shape.heads), np.float32)
    past, begun = [empty, empty], now()
    for _ in range(DECODED_WORDS):
        feeds = dict(zip(("past_k", "past_v", "cross_k", "cross_v"), (*past, *cross_k), strict=True))
        _, *past = recogniser.run(["logits", "present_k", "present_v"], {"ids": np.ones((1, 1), np.int64), **feeds})
    ended = now()
    return {"encode": 1 / (crossed - start), "cross": 1 / (begun - crossed), "decode": DECODED_WORDS / (ended - begun)}


def race(parts: Parts, settings: Sequence[Setting], options: argparse.Namespace) -> dict[Setting, Any]:
    """Interleaved rounds, every other one backwards."""
    runs = {setting: partial(measure_speed, parts.of(setting), parts.config.hearing, options.seconds, options.clock)
            for setting in settings}
    rounds = [{setting: runs[setting]() for setting in settings[::1 - 2 * (number % 2)]}
              for number in range(options.rounds + 1)][1:]  # the first only warms up
    return {setting: {
        kind: {"per_s": statistics.median(r[setting][kind] for r in rounds),
               "ratios": [round(r[setting][kind] / r[settings[0]][kind], 3) for r in rounds]}
        for kind in ("encode", "cross", "decode")} for setting in settings}


def transcribe(parts: Parts, setting: Setting, clips: Mapping[str, np.ndarray], options: argparse.Namespace
               ) -> dict[str, str]:
    """Every clip's words."""
    from minicpm_o.runtime.transcribe import Recogniser, RecogniserSessions, Vocabulary
    from minicpm_o.runtime.vad import SpeechDetector

    vocabulary = Vocabulary.from_files(options.tokenizer, options.config)
    recogniser = Recogniser(RecogniserSessions(*parts.of(setting)), vocabulary, parts.config.hearing,
                            SpeechDetector(parts.open(options.vad, kind="vad")))
    return {name: recogniser.transcribe(waveform, options.language).text for name, waveform in clips.items()}


def run(options: argparse.Namespace) -> dict[str, Any]:
    from minicpm_o.evaluation.metrics import edit_distance
    from minicpm_o.inputs.audio import load_audio, log_mel
    from minicpm_o.runtime.encoders import whole_seconds

    settings = [Setting(None, None, 32), *(Setting(encoder, 8, block) for block in options.blocks
                                           for encoder in (None, 8))]
    clips = {str(path): load_audio(path) for path in options.audio}
    mels = [log_mel(whole_seconds(clip)[: 30 * 16_000]) for clip in clips.values()]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        parts = Parts(options, Path(folder))
        speed = race(parts, settings, options)
        expected = transcribe(parts, settings[0], clips, options)
        for setting in settings:
            texts = transcribe(parts, setting, clips, options)
            rows.append({
                "setting": str(setting), "megabytes": parts.size(setting), **speed[setting], "texts": texts,
                "frame_error": frame_error(parts.of(setting)[0], parts.of(settings[0])[0], mels),
                "words_off": sum(edit_distance(words_of(expected[name]), words_of(texts[name])) for name in clips),
                "words": sum(len(words_of(text)) for text in expected.values())})
    return {"machine": common.machine(), "command": "python benchmarks/hearing_bits.py", "threads": options.threads,
            "clock": options.clock, "seconds": options.seconds, "rows": rows}


def show(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    def ratio(row: dict[str, Any], kind: str) -> str:
        return f"{statistics.median(row[kind]['ratios']):.2f}"

    rows = [[row["setting"], *row["megabytes"].values(), f"{row['words_off']} of {row['words']}",
             f"{row['frame_error']:.4f}", f"{1000 / row['encode']['per_s']:.0f}", ratio(row, "encode"),
             f"{1000 / row['decode']['per_s']:.1f}", ratio(row, "decode")] for row in report["rows"]]
    head = ["weights", "encoder MB", "cross MB", "recogniser MB", "words off", "frame error",
            f"ms for {report['seconds']:g} s", "ratio", "ms a word", "ratio"]
    return common.table(head, rows) + "\n\n" + common.provenance(report)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whisper", type=Path, required=True, help="CTranslate2 model.bin of Whisper")
    parser.add_argument("--tokenizer", type=Path, required=True, help="its tokenizer.json")
    parser.add_argument("--config", type=Path, required=True, help="its config.json")
    parser.add_argument("--vad", type=Path, required=True, help="silero_vad.onnx")
    parser.add_argument("--audio", type=Path, nargs="+", required=True, help="sounds to transcribe")
    parser.add_argument("--language", default="en")
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 64], help="block sizes")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the sound in the race")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall",
                        help="cpu: CPU seconds, for a machine that others use; meant for --threads 1")
    parser.add_argument("--out", type=Path, help="write the report as JSON")
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    report = run(options)
    if options.out:
        common.write_json(options.out, report)
    print(show(report))


if __name__ == "__main__":
    main()
