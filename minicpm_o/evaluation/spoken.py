"""How a voice sounds: what a recogniser hears of it, how fast it is made, and what listeners would say of it.

Listeners: DNSMOS P.835 (arXiv:2110.01763) and P.808 (arXiv:2010.15258), through the package speechmos. It rates
noise and distortion in telephone calls; what a sentence means or whether it is read well, it does not know.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from minicpm_o.evaluation.clips import wav_bytes
from minicpm_o.evaluation.protocol import Speaks, text_of
from minicpm_o.inputs.voice_prompt import resample
from minicpm_o.rates import AUDIO_RATE_HZ

QUALITY_NEEDS = ("speechmos", "librosa", "requests")
"""speechmos asks for none of what it imports."""
RATINGS: Mapping[str, str] = {"ovrl_mos": "dnsmos_overall", "sig_mos": "dnsmos_signal", "bak_mos": "dnsmos_background",
                              "p808_mos": "dnsmos_p808"}


def read_aloud(model: Speaks, text: str) -> tuple[str, dict[str, float]]:
    """What the model's recogniser hears of its own voice, and seconds, real-time factor and ratings of that voice."""
    begun = time.perf_counter()
    speech = model.speak(text)
    taken_s = time.perf_counter() - begun
    waveform = at_audio_rate(np.asarray(speech.waveform, np.float32), speech.rate_hz)
    spoken_s = len(waveform) / AUDIO_RATE_HZ
    heard = text_of(model.transcribe(wav_bytes(waveform))).strip()
    return heard, {"spoken_s": spoken_s, "real_time_factor": taken_s / max(spoken_s, 1e-3), **quality(waveform)}


def at_audio_rate(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """Waveform (N,) to 16 kHz, in [-1, 1]."""
    return np.clip(resample(waveform, rate_hz, AUDIO_RATE_HZ), -1.0, 1.0)


def has_quality() -> bool:
    """Whether ratings can be had."""
    return all(importlib.util.find_spec(name) is not None for name in QUALITY_NEEDS)


def quality(waveform: np.ndarray) -> dict[str, float]:
    """DNSMOS ratings, 1 to 5, of a waveform (N,) at 16 kHz; none without speechmos or without a sound."""
    if not has_quality() or not len(waveform):
        return {}
    from speechmos import dnsmos

    ratings: Mapping[str, Any] = dnsmos.run(waveform.astype(np.float64), AUDIO_RATE_HZ)
    return {name: float(ratings[theirs]) for theirs, name in RATINGS.items()}
