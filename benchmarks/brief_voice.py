"""A voice of random weights made fit to be timed: it ends after five seconds, and 4.5's has somebody to sound like.

A random talker draws the end of its speech once in thousands of tokens, so that every answer would run into the limit,
a minute and more. And 4.5 speaks in the voice of a clip, which two published networks analyse that a random checkpoint
does not have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minicpm_o.runtime.flow import FlowPrompt
from minicpm_o.runtime.official_voice import SpeakerVoice, TalkerVoice

CODES_45 = 125
"""Five seconds: 4.5 has 25 speech tokens a second."""
CODES_26 = 234
"""As many seconds: 2.6 has 46.875 codes a second."""
VOICE_TOKENS = 75
"""Three seconds of a reference voice."""


class BriefTalker:
    """A talker that ends for certain once it has said enough."""

    def __init__(self, network: Any, num_codes: int) -> None:
        self.network = network
        self.num_codes = num_codes
        self.left = num_codes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def new_cache(self) -> Any:
        self.left = self.num_codes
        return self.network.new_cache()

    def run(self, embeds: np.ndarray, cache: Any) -> np.ndarray:
        logits = np.array(self.network.run(embeds, cache))
        self.left -= 1
        if self.left < 0:
            logits[self.network.config.audio_eos] = logits.max() + 1000
        return logits


def make_brief(voice: TalkerVoice | SpeakerVoice, config: Any) -> None:
    """Change a voice that is open."""
    if isinstance(voice, SpeakerVoice):
        voice.voice.sampling = replace(voice.voice.sampling, max_steps=CODES_26)
        return
    prompt = made_up_prompt(config.flow)
    voice.talker = BriefTalker(voice.talker, CODES_45)
    voice.prompt = lambda ref_audio: prompt  # type: ignore[method-assign]


def made_up_prompt(flow: Any) -> FlowPrompt:
    """What an analysis would say of three seconds of somebody, in its exact shape."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, flow.vocab_size, VOICE_TOKENS)
    mel = rng.normal(size=(flow.encoder.up_factor * VOICE_TOKENS, flow.mel_bins)).astype(np.float32)
    return FlowPrompt(tokens, mel, rng.normal(size=flow.speaker_width).astype(np.float32))
