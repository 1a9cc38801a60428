"""Phonemes to a waveform with Kokoro-82M on onnxruntime.

The graph takes `tokens` (1, n + 2) int64 framed by 0, `style` (1, 256) float32 and `speed` (1,) float32 and returns
samples at 24 kHz. A voice is a table (510, 256): row n - 1 styles an utterance of n phonemes. It does not know text.
Weights: hexgrad/Kokoro-82M, Apache-2.0; ONNX export: thewh1teagle/kokoro-onnx, MIT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from minicpm_o.errors import OptionError
from minicpm_o.rates import SPEECH_RATE_HZ

if TYPE_CHECKING:
    import onnxruntime

MAX_PHONEMES = 510
STYLE_WIDTH = 256
SPEED_RANGE = (0.5, 2.0)

# Ids of the phonemes by first id of each unbroken run; the vocabulary of the published model.
_RUNS = (
    (1, ";:,.!?"),
    (9, '—…"()“” \u0303ʣʥʦʨᵝꭧAI'),
    (31, "O"),
    (33, "Q"),
    (35, "ST"),
    (39, "W"),
    (41, "Yᵊabcdef"),
    (50, "hijklmnopqrstuvwxyzɑɐɒæ"),
    (75, "βɔɕç"),
    (80, "ɖðʤə"),
    (85, "ɚɛɜ"),
    (90, "ɟ"),
    (92, "ɡ"),
    (99, "ɥ"),
    (101, "ɨɪʝ"),
    (110, "ɯɰŋɳɲɴø"),
    (118, "ɸθœ"),
    (123, "ɹ"),
    (125, "ɾɻ"),
    (128, "ʁɽʂʃʈʧ"),
    (135, "ʊʋ"),
    (138, "ʌɣɤ"),
    (142, "χʎ"),
    (147, "ʒʔ"),
    (156, "ˈˌː"),
    (162, "ʰ"),
    (164, "ʲ"),
    (169, "↓"),
    (171, "→↗↘"),
    (177, "ᵻ"),
)
VOCABULARY: dict[str, int] = {symbol: first + offset for first, run in _RUNS for offset, symbol in enumerate(run)}
FLAP_AND_STOP = str.maketrans({"ɾ": "T", "ʔ": "t"})  # the model was trained with T for the flap


def to_ids(phonemes: str) -> list[int]:
    """Phonemes (as `english.py` writes them) to the model's ids. Errors: OptionError for a symbol it does not have."""
    text = phonemes.translate(FLAP_AND_STOP)
    unknown = sorted(set(text) - VOCABULARY.keys())
    if unknown:
        raise OptionError(f"Kokoro has no sound for {' '.join(unknown)!r}; give phonemes of its vocabulary")
    return [VOCABULARY[symbol] for symbol in text]


@dataclass(frozen=True)
class Kokoro:
    """The loaded graph."""

    session: onnxruntime.InferenceSession

    rate_hz: int = SPEECH_RATE_HZ
    max_phonemes: int = MAX_PHONEMES

    def synthesise(self, phonemes: str, style: NDArray[np.float32], speed: float = 1.0) -> NDArray[np.float32]:
        """Waveform (N,) float32 at 24 kHz of 1 to 510 phonemes. `style`: the voice's table (510, 256)."""
        ids = to_ids(phonemes)
        if not 1 <= len(ids) <= MAX_PHONEMES:
            raise OptionError(f"Kokoro speaks 1 to {MAX_PHONEMES} phonemes at once, not {len(ids)}; split the text")
        feeds = {
            "tokens": np.array([[0, *ids, 0]], dtype=np.int64),
            "style": style[len(ids) - 1].reshape(1, STYLE_WIDTH).astype(np.float32),
            "speed": np.array([speed], dtype=np.float32),
        }
        (waveform,) = self.session.run(["audio"], feeds)
        return np.asarray(waveform, dtype=np.float32).ravel()
