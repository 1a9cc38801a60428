"""Piper's voice for the page: its graph in 8 bits, the pronouncing word lists, and the tables of reading aloud.

How a text is read and pronounced is written in `runtime.speech`; the page follows the same tables, taken from there.
"""

from __future__ import annotations

import importlib.resources
import json
import re
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoints.lexicon import build_lexicon
from ..checkpoints.nano import LEXICON_FILE
from ..checkpoints.storage import write_atomic
from ..rates import SPEECH_RATE_HZ
from ..runtime.speech import clauses, english, kokoro, letters, level, morphology, numbers, piper, vocabulary
from ..runtime.speech.reading import rule_patterns
from .small import shrink

READING_FILE = "reading.json"
VOICE_FILES = ("voice.onnx", "voice.onnx.data", LEXICON_FILE, letters.RULES_FILE, READING_FILE)


def export_voice(folder: Path, files: Mapping[str, Path], lists: Mapping[str, Path]) -> dict[str, Any]:
    """Write VOICE_FILES into `folder`; returns what config.json says of the voice.

    files: of the part `piper`; lists: of the part `lexicon`.
    """
    graph = next(path for name, path in files.items() if name.endswith(".onnx"))
    settings = json.loads(next(path for name, path in files.items() if name.endswith(".json")).read_text("utf-8"))
    shrink(graph, folder / "voice.onnx", bits=8)
    build_lexicon(lists["us_gold.json"], lists["us_silver.json"], folder / LEXICON_FILE)
    rules = importlib.resources.files("minicpm_o.runtime.speech") / letters.RULES_FILE
    write_atomic(folder / letters.RULES_FILE, [rules.read_bytes()])
    write_atomic(folder / READING_FILE, [json.dumps(reading_tables(), ensure_ascii=False).encode()])
    inference = settings["inference"]
    return {
        "name": "joe", "rate_hz": settings["audio"]["sample_rate"], "ids": settings["phoneme_id_map"],
        "scales": [inference["noise_scale"], inference["length_scale"], inference["noise_w"]],
        "ipa": piper.IPA, "level_phonemes": piper.LEVEL_PHONEMES, "speech_rate_hz": SPEECH_RATE_HZ,
        "most_phonemes": kokoro.MAX_PHONEMES, "wished_phonemes": clauses.WISHED_PHONEMES,
        "first_phonemes": clauses.FIRST_PHONEMES, "pauses_s": level.PAUSES_S, "pause_s": level.PAUSE_WITHOUT_MARK_S,
        "target_rms": level.TARGET_RMS, "most_gain": level.MAX_GAIN, "peak": level.PEAK,
        "silence_rms": level.SILENCE_RMS, "frame_s": level.FRAME_S, "margin_s": level.MARGIN_S, "fade_s": level.FADE_S,
    }


def reading_tables() -> dict[str, Any]:
    """Word lists and rules of reading English, in what JSON can hold."""
    tables = {name.lower(): _plain(value) for module in (vocabulary, english, morphology, numbers)
              for name, value in vars(module).items() if name.isupper() and _plain(value) is not None}
    return {**tables, **named_characters(), "windows": letters.WINDOWS, "rules": [(name, to_javascript(pattern))
                                                            for name, pattern in rule_patterns()]}


def named_characters() -> dict[str, dict[str, str]]:
    """Signs that are called by their Unicode names, which a browser does not know: Greek letters and emoji."""
    greek = {letter: unicodedata.name(letter).split(" WITH ")[0].split()[-1].lower() for letter in vocabulary.GREEK}
    emoji = {sign: unicodedata.name(sign).lower() for sign in map(chr, range(sys.maxunicode + 1))
             if unicodedata.category(sign) == "So" and unicodedata.east_asian_width(sign) == "W"}
    return {"greek_names": dict(sorted(greek.items())), "emoji_names": emoji}


def to_javascript(pattern: str) -> str:
    """A pattern of Python's as one of a browser's, flags u and y; what differs is written differently."""
    pattern = re.sub(r"\(\?i:(.*?)\)(?=\(\?!\[A-Za-z\]\)$)", lambda match: f"(?:{_any_case(match[1])})", pattern)
    needless = r"\\([\"' #&~%])|(\\-)(?![^\[]*\])"  # escapes that the flag u forbids
    return re.sub(needless, lambda match: match[1] or "-", pattern.replace("(?P<", "(?<"))


def _any_case(pattern: str) -> str:
    """Letters outside escapes in both cases."""
    return re.sub(r"\\.|[a-z]", lambda match: match.group() if match.group()[0] == "\\"
                  else f"[{match.group()}{match.group().upper()}]", pattern)


def _plain(value: Any) -> Any:
    """Tables as JSON has them; None for what is no table."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return value
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else None
