"""Silence and noises made here: a recogniser that writes words for them invents them.

Runs beside any speech set, so that a low error rate is never shown without it.
"""

from __future__ import annotations

from minicpm_o.evaluation.clips import speechless_clips, wav_bytes
from minicpm_o.evaluation.rows import Media
from minicpm_o.evaluation.scoring import empty_scorer
from minicpm_o.evaluation.tasks.base import Item, Task


def no_speech_task() -> Task:
    """Task speech/no_speech: the share of clips without speech for which `transcribe` writes nothing."""
    items = tuple(
        Item(name, (Media("audio", wav_bytes(waveform), name),), "", ())
        for name, waveform in speechless_clips().items()
    )
    note = "clips made by the evaluation (silence, noise, hum, tone, clicks); nothing to blind"
    return Task("speech/no_speech", items, empty_scorer(), verb="transcribe", has_blind=False, notes=(note,))
