"""Speech tokens (25 a second) to 24 kHz sound in a prompt's voice, a whole reply at once or piece by piece.

Knows no network: the flow and the vocoder stand behind two protocols.
Letters: T tokens, F = 2 T mel frames, M mel bins, N = 480 F samples.

A stream begins with three tokens of silence. Every piece of 25 tokens needs the three that follow it, and they are
given again in front of the next piece. The vocoder hears the last 8 frames of a piece again with the next one, over
the same source, and the two versions of that stretch are cross-faded; so a piece that is not the last ends 0.16 s
before its tokens do, and the first one of a stream is as much shorter.

Source: token2wav of the published checkpoint (CosyVoice 2, arXiv:2412.10117), and the unit loop of its full duplex.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from ..errors import OptionError
from ..model.config import FlowConfig
from ..rates import SPEECH_RATE_HZ
from .flow import FlowNetwork, FlowPrompt, open_stream, read_tokens, tokens_to_mel

SILENCE_TOKEN = 4218
"""A speech token that sounds of nothing."""

KEPT_FRAMES = 8
"""Mel frames that the vocoder hears again at the beginning of the next piece: 0.16 s."""

LEAST_NEW_TOKENS = 5
"""Tokens beyond the look-ahead that are worth a piece when a stream is flushed: they outlast the frames kept back."""

UNIT_SAMPLES = SPEECH_RATE_HZ
"""Sound of one unit of full duplex: a second."""


class MelMaker(Protocol):
    """Speech tokens to mel; its states are values that only it looks into."""

    def offline(self, tokens: Sequence[int] | np.ndarray, prompt: FlowPrompt) -> np.ndarray:
        """A whole reply, (T,) to (M, 2 T)."""

    def start(self, prompt: FlowPrompt) -> Any:
        """The state of a stream that has heard the prompt."""

    def chunk(self, state: Any, tokens: Sequence[int], is_last: bool) -> tuple[np.ndarray, Any]:
        """The next piece, look-ahead at its end unless it is the last, to mel (M, F) and the state after it."""


class VocoderNetwork(Protocol):
    """Mel to sound; runtime.hift.Vocoder is one."""

    @property
    def frame_samples(self) -> int:
        """Samples that one mel frame becomes."""

    def vocode(self, mel: np.ndarray, *, rng: np.random.Generator | None = None,
               kept_source: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(M, F) to a waveform (N,) and its source (N,), whose beginning is kept_source."""


@dataclass(frozen=True)
class FlowMel:
    """MelMaker over the flow's networks."""

    network: FlowNetwork
    noise: np.ndarray
    """(M, frames) where every mel begins; see runtime.flow.make_noise."""
    steps: int | None = None
    """Euler steps, the config's by default."""

    def offline(self, tokens: Sequence[int] | np.ndarray, prompt: FlowPrompt) -> np.ndarray:
        return tokens_to_mel(self.network, tokens, prompt, self.noise, steps=self.steps)

    def start(self, prompt: FlowPrompt) -> Any:
        return open_stream(self.network, prompt, self.noise, steps=self.steps)

    def chunk(self, state: Any, tokens: Sequence[int], is_last: bool) -> tuple[np.ndarray, Any]:
        return read_tokens(self.network, tokens, state, self.noise, last=is_last)


@dataclass(frozen=True, eq=False)
class Token2WavState:
    """A stream between two pieces; a value, so keeping it is a snapshot, from which the same follows every time."""

    prompt: Any
    """The flow after the prompt, to which every turn returns."""
    flow: Any
    tokens: tuple[int, ...]
    """Received, and not spoken yet."""
    mel: np.ndarray
    """(M, KEPT_FRAMES or 0) of the piece before."""
    source: np.ndarray
    """Of those frames."""
    waveform: np.ndarray
    """Sound of those frames, not given out yet."""
    seed: int
    """With the number of the piece, the seed of its noise."""
    pieces: int = 0


@dataclass(frozen=True)
class Token2Wav:
    """Flow and vocoder as one call, or as a stream."""

    flow: MelMaker
    vocoder: VocoderNetwork
    config: FlowConfig

    def convert(self, tokens: Sequence[int] | np.ndarray, prompt: FlowPrompt, rng: np.random.Generator) -> np.ndarray:
        """A whole reply, (T,) to (960 T,) float32. rng draws the noise of the vocoder's source."""
        waveform, _ = self.vocoder.vocode(self.flow.offline(tokens, prompt), rng=rng)
        return waveform

    def start(self, prompt: FlowPrompt, rng: np.random.Generator) -> Token2WavState:
        """A stream in the prompt's voice, before its first turn. rng draws the seed of all its noise."""
        flow = self.flow.start(prompt)
        nothing = np.zeros(0, np.float32)
        return Token2WavState(flow, flow, self._silence, np.zeros((self.config.mel_bins, 0), np.float32), nothing,
                              nothing, int(rng.integers(2**63)))

    def push(self, state: Token2WavState, tokens: Sequence[int] | np.ndarray, *, flush: bool = False,
             is_last: bool = False) -> tuple[np.ndarray, Token2WavState]:
        """Speak what is due, (T,) more tokens to (N,) float32 and the state after it; N may be 0.

        flush speaks at once what has its look-ahead, in a shorter piece if need be. is_last speaks everything, and the
        state that comes back begins a new turn in the same voice. Each token sounds once; the reference's half-duplex
        loop says the last three of a turn twice when the turn's tokens fill whole pieces.
        """
        received = np.asarray(tokens)
        if received.size and not np.issubdtype(received.dtype, np.integer):
            raise OptionError(f"speech tokens must be whole numbers, not {received.dtype}")
        state = replace(state, tokens=(*state.tokens, *received.reshape(-1).tolist()))
        lookahead, waveforms = self._lookahead, []
        least = LEAST_NEW_TOKENS if flush else self.config.chunk_tokens
        while len(state.tokens) >= least + lookahead:
            piece = state.tokens[:self.config.chunk_tokens + lookahead]
            waveform, state = self._speak(state, piece, is_last=False)
            waveforms.append(waveform)
            state = replace(state, tokens=state.tokens[len(piece) - lookahead:])
        if is_last:
            waveform, state = self._speak(state, state.tokens, is_last=True)
            waveforms.append(waveform)
            state = self._next_turn(state)
        return np.concatenate([np.zeros(0, np.float32), *waveforms]), state

    def speak_unit(self, state: Token2WavState, tokens: Sequence[int] | np.ndarray, *, is_first: bool,
                   end_of_turn: bool) -> tuple[np.ndarray, Token2WavState]:
        """The sound of one unit of full duplex: a second, silence in front where there is less, or to a turn's end."""
        waveform, state = self.push(state, tokens, flush=is_first, is_last=end_of_turn)
        missing = 0 if end_of_turn else max(0, UNIT_SAMPLES - len(waveform))
        return np.pad(waveform, (missing, 0)), state

    @property
    def _lookahead(self) -> int:
        return self.config.encoder.lookahead_tokens

    @property
    def _silence(self) -> tuple[int, ...]:
        return (min(SILENCE_TOKEN, self.config.vocab_size - 1),) * self._lookahead  # small ones are of tests

    def _speak(self, state: Token2WavState, tokens: tuple[int, ...], *,
               is_last: bool) -> tuple[np.ndarray, Token2WavState]:
        """One piece through both networks; what is kept back of it unless it is the last."""
        new_mel, flow = self.flow.chunk(state.flow, tokens, is_last)
        mel = np.concatenate([state.mel, new_mel], axis=1)                  # (M, 8 + F)
        rng = np.random.default_rng([state.seed, state.pieces])
        waveform, source = self.vocoder.vocode(mel, rng=rng, kept_source=state.source)
        if len(state.waveform):
            waveform = cross_fade(state.waveform, waveform)
        kept = KEPT_FRAMES * self.vocoder.frame_samples
        after = replace(state, flow=flow, mel=mel[:, -KEPT_FRAMES:], source=source[-kept:], waveform=waveform[-kept:],
                        pieces=state.pieces + 1)
        return (waveform if is_last else waveform[:-kept]), after

    def _next_turn(self, state: Token2WavState) -> Token2WavState:
        """As after the prompt, but with noise of its own."""
        nothing = state.waveform[:0]
        return replace(state, flow=state.prompt, tokens=self._silence, mel=state.mel[:, :0], source=nothing,
                       waveform=nothing)


def cross_fade(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The new piece (N,) with its beginning faded in over the old one's end, (n,) of the same stretch of time.

    The halves of a Hamming window sum to 1.08, not to 1: the stretch is a little louder, as in the reference.
    """
    fade_in, fade_out = _fades(len(old))
    blended = new[:len(old)] * fade_in + old * fade_out
    return np.concatenate([blended, new[len(old):]]).astype(np.float32)


@lru_cache(maxsize=1)
def _fades(samples: int) -> tuple[np.ndarray, np.ndarray]:
    window = np.hamming(2 * samples)
    return window[:samples], window[samples:]
