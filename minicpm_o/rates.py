"""Sample, frame and token rates with their units, each derived from the one before by exact division."""

from __future__ import annotations


def exact_div(x: int, y: int) -> int:
    """x / y, which must be a whole number: rates that do not divide would drift apart."""
    if x % y:
        raise ArithmeticError(f"{x} is not a multiple of {y}")
    return x // y


AUDIO_RATE_HZ = 16_000
"""Waveforms enter every audio encoder at this rate."""

HOP_SAMPLES = 160
MEL_RATE_HZ = exact_div(AUDIO_RATE_HZ, HOP_SAMPLES)  # 100 mel frames a second
ENCODER_RATE_HZ = exact_div(MEL_RATE_HZ, 2)  # 50: the second convolution of Whisper strides by 2

AUDIO_POOL = 5
AUDIO_TOKEN_RATE_HZ = exact_div(ENCODER_RATE_HZ, AUDIO_POOL)  # 10 fused tokens a second

UNIT_MS = 1_000
"""Length of one streaming unit: audio is encoded and fused in blocks of this length."""

UNIT_SAMPLES = exact_div(AUDIO_RATE_HZ * UNIT_MS, 1_000)
UNIT_MEL_FRAMES = exact_div(MEL_RATE_HZ * UNIT_MS, 1_000)
UNIT_ENCODER_FRAMES = exact_div(ENCODER_RATE_HZ * UNIT_MS, 1_000)
UNIT_AUDIO_TOKENS = exact_div(AUDIO_TOKEN_RATE_HZ * UNIT_MS, 1_000)

WINDOW_S = 30
"""Whisper hears at most this long at once; longer sound is heard window by window."""

SPEECH_RATE_HZ = 24_000
"""Speech out, at this rate, whatever the voice's own rate was."""
