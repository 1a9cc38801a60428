"""What the example in Kotlin and Swift does, step for step, with the exported files and onnxruntime alone."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


@dataclass(frozen=True)
class Phone:
    """An exported folder, opened."""

    vision: ort.InferenceSession
    language: ort.InferenceSession
    tables: dict[str, Any]
    words: list[bytes]

    @classmethod
    def open(cls, folder: Path) -> Phone:
        """folder: OUT/model of the export."""
        vision, language = (cpu_session(folder / f"{name}.ort") for name in ("vision", "language"))
        return cls(vision, language, json.loads((folder / "config.json").read_text(encoding="utf-8")),
                   read_tokens((folder / "tokens.bin").read_bytes()))

    def describe(self, pixels: np.ndarray) -> str:
        """pixels (1, 3, S, S)"""
        (media,) = self.vision.run(["tokens"], {"pixels": pixels})
        return self.answer("describe", media)

    def answer_plainly(self) -> str:
        return self.answer("plain", np.zeros((1, 1, self.tables["config"]["language"]["width"]), np.float32))

    def answer(self, ready: str, media: np.ndarray) -> str:
        """media (1, Q, D); the cache and the logits lie in the same memory from step to step."""
        prompt, shape = self.tables["ready"][ready]["ids"], self.tables["config"]["language"]
        most_tokens = self.tables["answer"]["max_tokens"]
        room = min(shape["context_tokens"], len(prompt) + most_tokens)
        logits = np.zeros((1, shape["vocab_size"]), np.float32)
        cache = {f"{layer}.{kind}": np.zeros((1, shape["kv_heads"], room, shape["head_width"]), np.float32)
                 for layer in range(shape["layers"]) for kind in ("key", "value")}
        text, read, total = b"", prompt, len(prompt)
        while True:
            self._step(read, media, total, logits, cache)
            following = self._likeliest(logits)
            if following in self.tables["eos"]:
                break
            text += self.words[following]
            if total - len(prompt) + 1 == most_tokens or total == room:
                break
            read, total = [following], total + 1
        return text.decode("utf-8", errors="replace")

    def _step(self, ids: list[int], media: np.ndarray, total: int, logits: np.ndarray, cache: dict[str, np.ndarray]
              ) -> None:
        binding = self.language.io_binding()
        inputs = {"ids": np.array([ids]), "media": media, "total_tokens": np.array([total], np.int32)}
        values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in inputs.items()}
        shared = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in cache.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in shared.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(logits))
        self.language.run_with_iobinding(binding)

    def _likeliest(self, logits: np.ndarray) -> int:
        allowed = logits[0].copy()
        allowed[self.tables["banned"]] = -np.inf
        return int(allowed.argmax())


def cpu_session(path: Path) -> ort.InferenceSession:
    """Opened with the processor's kernels alone: it fails when one is missing."""
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def read_tokens(content: bytes) -> list[bytes]:
    """tokens.bin"""
    words, place = [], 0
    while place < len(content):
        (length,) = struct.unpack_from("<H", content, place)
        words.append(content[place + 2 : place + 2 + length])
        place += 2 + length
    return words
