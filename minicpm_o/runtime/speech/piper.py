"""Phonemes to a waveform with a Piper voice (VITS) on onnxruntime; optional, fast, one voice per graph.

The graph takes `input` (1, n) int64 ids, `input_lengths` (1,) and `scales` (3,) float32 (noise, length, noise of the
rhythm) and returns samples at its own rate; they are resampled to 24 kHz. Ids: a start, every symbol followed by a pad,
an end. The voices were trained on espeak's IPA, so misaki's symbols are spelled out in it here. It does not know text.
Format: rhasspy/piper (MIT).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from minicpm_o.errors import CheckpointError, OptionError
from minicpm_o.rates import SPEECH_RATE_HZ
from minicpm_o.runtime.device import DevicePlan, make_session

if TYPE_CHECKING:
    import onnxruntime

PAD, START, END = "_", "^", "$"

_IPA = {
    "əɹ": "ɚ",
    "ɜɹ": "ɜː",
    "ɑɹ": "ɑːɹ",
    "ɔɹ": "ɔːɹ",
    "A": "eɪ",
    "I": "aɪ",
    "O": "oʊ",
    "W": "aʊ",
    "Y": "ɔɪ",
    "ʤ": "dʒ",
    "ʧ": "tʃ",
    "ᵊ": "ə",
    "ˈi": "ˈiː",
    "ˌi": "ˌiː",
    "u": "uː",
    "ɑ": "ɑː",
    "ɔ": "ɔː",
    "…": ".",
    "—": ",",
}
_SPELLED = re.compile("|".join(sorted(map(re.escape, _IPA), key=len, reverse=True)))


def to_ipa(phonemes: str) -> str:
    """misaki's American symbols in espeak's IPA."""
    return _SPELLED.sub(lambda match: _IPA[match.group()], phonemes)


@dataclass(frozen=True)
class Piper:
    """A loaded voice."""

    session: onnxruntime.InferenceSession
    ids: dict[str, list[int]]
    scales: tuple[float, float, float]
    own_rate_hz: int

    @classmethod
    def open(cls, path: Path, plan: DevicePlan) -> Piper:
        """Load `path` and the `.json` beside it. Errors: CheckpointError when one is missing or damaged."""
        settings_path = path.with_name(path.name + ".json")
        try:
            settings = json.loads(settings_path.read_text(encoding="utf-8"))
            inference = settings["inference"]
            scales = (inference["noise_scale"], inference["length_scale"], inference["noise_w"])
            ids, rate_hz = settings["phoneme_id_map"], int(settings["audio"]["sample_rate"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the voice settings {settings_path} cannot be read ({error!r})") from error
        return cls(make_session(path, plan, kind="speech"), ids, scales, rate_hz)

    def synthesise(self, phonemes: str, speed: float = 1.0) -> NDArray[np.float32]:
        """Waveform (N,) float32 at 24 kHz. Errors: OptionError for a symbol the voice does not have."""
        import soxr

        noise, length, rhythm = self.scales
        ids = np.array([self._to_ids(to_ipa(phonemes))], dtype=np.int64)
        feeds = {
            "input": ids,
            "input_lengths": np.array([ids.shape[1]], dtype=np.int64),
            "scales": np.array([noise, length / speed, rhythm], dtype=np.float32),
        }
        waveform = np.asarray(self.session.run(None, feeds)[0], dtype=np.float32).ravel()
        return np.asarray(soxr.resample(waveform, self.own_rate_hz, SPEECH_RATE_HZ), dtype=np.float32)

    def _to_ids(self, ipa: str) -> list[int]:
        unknown = sorted(set(ipa) - self.ids.keys())
        if unknown:
            raise OptionError(f"this Piper voice has no sound for {' '.join(unknown)!r}; take a Kokoro voice")
        pad = self.ids[PAD]
        return [*self.ids[START], *pad, *(id for symbol in ipa for id in (*self.ids[symbol], *pad)), *self.ids[END]]
