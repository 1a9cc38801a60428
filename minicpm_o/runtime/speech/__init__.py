"""Speech out: text to phonemes to a waveform at 24 kHz."""

from minicpm_o.runtime.speech.speaker import Speaker, Speech
from minicpm_o.runtime.speech.voices import Voice

__all__ = ["Speaker", "Speech", "Voice"]
