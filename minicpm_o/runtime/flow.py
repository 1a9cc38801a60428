"""Speech tokens to log-mel in a prompt's voice: the flow's steps and a stream's memory, over two raw network calls.

Knows no weights: a torch module or onnxruntime sessions stand behind `FlowNetwork`. Letters: T tokens (25 a second),
F mel frames (50 a second), M mel bins, N Euler steps.

A stream reads the prompt once, then pieces of tokens, each with the next few tokens as look-ahead, which are given
again with the piece that follows. What is remembered stays bounded: the decoder keeps the prompt and `cache_frames`
more, and so does the encoder unless told otherwise (the package of the published checkpoint cuts it from 1.0.7 on).

Source: flow matching (arXiv:2210.02747) with classifier-free guidance (arXiv:2207.12598), CosyVoice 2
(arXiv:2412.10117). A quirk stands where it is marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..errors import AudioError, OptionError
from ..model.config import FlowConfig
from ..model.flow_memory import (
    DecoderMemory,
    Encoded,
    EncoderMemory,
    Estimated,
    empty_decoder_memory,
    empty_encoder_memory,
)
from .device import DevicePlan, make_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MAX_WHOLE_TOKENS = 750
"""Speech tokens to make mel of at once, 30 s: every frame looks at every other, so memory grows with their square."""
NOISE_FRAMES = 30_000
"""Ten minutes of mel."""


class FlowNetwork(Protocol):
    """Raw calls of the two networks; numpy float32 in and out."""

    @property
    def config(self) -> FlowConfig: ...

    def encode(self, tokens: np.ndarray, speaker: np.ndarray, memory: EncoderMemory[np.ndarray], *,
               last: bool) -> Encoded[np.ndarray]:
        """tokens (T,), speaker (speaker_width,) -> mu (F, M) and the voice (M,)."""

    def estimate(self, x: np.ndarray, mu: np.ndarray, t: np.ndarray, voice: np.ndarray, cond: np.ndarray,
                 memory: DecoderMemory[np.ndarray]) -> Estimated[np.ndarray]:
        """x, mu, cond (2, M, F), t (2,), voice (2, M) -> velocity (2, M, F)."""


@dataclass(frozen=True)
class FlowPrompt:
    """A voice to speak in."""

    tokens: np.ndarray
    """(P,) speech tokens of the reference sound."""
    mel: np.ndarray
    """(up_factor * P, M) log-mel of the same sound."""
    speaker: np.ndarray
    """(speaker_width,) speaker vector, of any length."""


@dataclass(frozen=True)
class FlowState:
    """A stream between two pieces; a value, so keeping it is a snapshot."""

    prompt_frames: int
    speaker: np.ndarray
    cut_encoder: bool
    encoder: EncoderMemory[np.ndarray]
    decoder: tuple[DecoderMemory[np.ndarray], ...]
    """One per Euler step."""

    @property
    def num_frames(self) -> int:
        """Frames that the decoder remembers; the noise of the next piece begins there."""
        return int(self.decoder[0].kv.shape[-2])

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        arrays = [self.encoder.token_kv, self.encoder.frame_kv, *(past.kv for past in self.decoder)]
        return sum(array.nbytes for array in arrays)


def make_noise(config: FlowConfig, seed: int = 0, frames: int = NOISE_FRAMES) -> np.ndarray:
    """(M, frames) of the normal distribution, where every mel begins. The reference draws it anew in every process, so
    its sound differs from run to run; here the same seed gives the same sound."""
    return np.random.default_rng(seed).standard_normal((config.mel_bins, frames), dtype=np.float32)


def tokens_to_mel(network: FlowNetwork, tokens: Sequence[int] | np.ndarray, prompt: FlowPrompt, noise: np.ndarray, *,
                  steps: int | None = None) -> np.ndarray:
    """A whole reply at once: tokens (T,) -> mel (M, up_factor * T). steps: Euler steps, the config's by default.

    Raises OptionError for no tokens or tokens out of range, AudioError for a prompt that does not fit together.
    """
    config = network.config
    check_prompt(prompt, config)
    ids = np.concatenate([_checked(prompt.tokens, config), _checked(tokens, config)])
    encoded = network.encode(ids, prompt.speaker, empty_encoder_memory(config, _zeros), last=True)
    memory = (empty_decoder_memory(config, _zeros),) * _num_steps(steps, config)
    cond = np.zeros_like(encoded.mu.T)
    cond[:, : len(prompt.mel)] = prompt.mel.T
    mel, _ = solve(network, encoded.mu.T, encoded.voice, cond, noise, memory)
    return mel[:, len(prompt.mel) :]


def open_stream(network: FlowNetwork, prompt: FlowPrompt, noise: np.ndarray, *, steps: int | None = None,
                cut_encoder: bool = True) -> FlowState:
    """Read a prompt, with its own first tokens as look-ahead; what comes next continues it.

    cut_encoder: bound the encoder's memory as the decoder's; without, it grows by the length of the stream.
    Raises OptionError for tokens out of range, AudioError for a prompt that does not fit together or is too short.
    """
    config = network.config
    check_prompt(prompt, config)
    lookahead = config.encoder.lookahead_tokens
    ids = _checked(prompt.tokens, config)
    if len(ids) < lookahead:
        raise AudioError(f"the voice's sound has {len(ids)} speech tokens, a stream needs {lookahead}; use a longer "
                         "sound")
    memory = empty_encoder_memory(config, _zeros)
    encoded = network.encode(np.concatenate([ids, ids[:lookahead]]), prompt.speaker, memory, last=False)
    decoder = (empty_decoder_memory(config, _zeros),) * _num_steps(steps, config)
    _, decoder = solve(network, encoded.mu.T, encoded.voice, np.ascontiguousarray(prompt.mel.T, np.float32), noise,
                       decoder)
    return FlowState(len(prompt.mel), np.asarray(prompt.speaker, np.float32), cut_encoder,
                     extend_encoder_memory(memory, encoded.new), decoder)


def read_tokens(network: FlowNetwork, tokens: Sequence[int] | np.ndarray, state: FlowState, noise: np.ndarray, *,
                last: bool = False) -> tuple[np.ndarray, FlowState]:
    """Next piece of a stream: tokens (T,) -> mel (M, F) and the state after it.

    All but the last piece end with `lookahead_tokens` that are given again at the front of the next one; they make no
    mel yet. Raises OptionError for too few tokens or tokens out of range.
    """
    config = network.config
    ids = _checked(tokens, config)
    if not last and len(ids) <= config.encoder.lookahead_tokens:
        raise OptionError(f"a piece of {len(ids)} speech tokens is all look-ahead; give more than "
                          f"{config.encoder.lookahead_tokens}, or say that it is the last")
    encoded = network.encode(ids, state.speaker, state.encoder, last=last)
    mu = encoded.mu.T
    mel, decoder = solve(network, mu, encoded.voice, np.zeros_like(mu), noise, state.decoder)
    return mel, _cut(replace(state, encoder=extend_encoder_memory(state.encoder, encoded.new), decoder=decoder), config)


def solve(network: FlowNetwork, mu: np.ndarray, voice: np.ndarray, cond: np.ndarray, noise: np.ndarray,
          memory: tuple[DecoderMemory[np.ndarray], ...]) -> tuple[np.ndarray, tuple[DecoderMemory[np.ndarray], ...]]:
    """mu, cond (M, F), voice (M,) -> mel (M, F): as many Euler steps as there are memories, which come back longer.

    Every step is taken twice, with the conditions and without, and goes beyond the first away from the second.
    """
    rate = np.float32(network.config.decoder.cfg_rate)
    x = noise_of(noise, memory[0].kv.shape[-2], mu.shape[1])
    mu, voice, cond = (np.stack([part, np.zeros_like(part)]) for part in (mu, voice, cond))
    times = step_times(len(memory))
    t, grown = times[0], []
    for past, following in zip(memory, times[1:], strict=True):
        step = following - t
        out = network.estimate(np.stack([x, x]), mu, np.full(2, t, np.float32), voice, cond, past)
        grown.append(DecoderMemory(out.new.conv, np.concatenate([out.new.kv, past.kv], axis=-2)))
        x = x + step * ((1 + rate) * out.velocity[0] - rate * out.velocity[1])
        t = t + step  # summed, not taken from the table: as the reference rounds
    return x, tuple(grown)


def step_times(steps: int) -> np.ndarray:
    """(steps + 1,) moments from 0 to 1, close together at first: 1 - cos of a quarter turn."""
    quarter = np.linspace(0, 1, steps + 1, dtype=np.float32) * np.float32(0.5 * np.pi)
    return np.asarray(1 - np.cos(quarter), np.float32)


def noise_of(noise: np.ndarray, start: int, frames: int) -> np.ndarray:
    """(M, frames) of the buffer. Raises OptionError when it is too short."""
    if start + frames > noise.shape[1]:
        raise OptionError(f"{start + frames} mel frames are asked for at once but the noise has {noise.shape[1]}; "
                          f"speak in shorter pieces or make_noise(config, frames={start + frames})")
    return np.asarray(noise[:, start : start + frames], np.float32)


def extend_encoder_memory(past: EncoderMemory[np.ndarray],
                          new: EncoderMemory[np.ndarray]) -> EncoderMemory[np.ndarray]:
    """The convolutions' newest past, and keys and values of both, oldest first."""
    return replace(new, token_kv=np.concatenate([past.token_kv, new.token_kv], axis=-2),
                   frame_kv=np.concatenate([past.frame_kv, new.frame_kv], axis=-2))


def _cut(state: FlowState, config: FlowConfig) -> FlowState:
    """Keep the first `prompt_frames` and the last `cache_frames` of what is longer.

    Quirk: the decoder's memory begins with its newest piece, so what it keeps of it is the newest frames, as many as
    the prompt has, and the oldest `cache_frames`; the encoder's begins with the prompt, as one would expect.
    """
    first, last, factor = state.prompt_frames, config.cache_frames, config.encoder.up_factor
    if state.num_frames > first + last:
        decoder = tuple(replace(past, kv=_ends(past.kv, first, last)) for past in state.decoder)
        state = replace(state, decoder=decoder)
    if state.cut_encoder and state.encoder.frame_kv.shape[-2] > first + last:
        token_kv = _ends(state.encoder.token_kv, first // factor, last // factor)
        encoder = replace(state.encoder, token_kv=token_kv, frame_kv=_ends(state.encoder.frame_kv, first, last))
        state = replace(state, encoder=encoder)
    return state


def _ends(kv: np.ndarray, first: int, last: int) -> np.ndarray:
    return np.concatenate([kv[..., :first, :], kv[..., kv.shape[-2] - last :, :]], axis=-2)


def check_prompt(prompt: FlowPrompt, config: FlowConfig) -> None:
    """Raises AudioError unless tokens, mel and speaker vector are of one sound and of this model."""
    frames = config.encoder.up_factor * len(prompt.tokens)
    if prompt.mel.shape != (frames, config.mel_bins):
        raise AudioError(f"the voice's mel has shape {prompt.mel.shape}; {len(prompt.tokens)} speech tokens need "
                         f"({frames}, {config.mel_bins})")
    if prompt.speaker.shape != (config.speaker_width,):
        raise AudioError(f"the speaker vector has shape {prompt.speaker.shape}, expected ({config.speaker_width},)")


def _checked(tokens: Sequence[int] | np.ndarray, config: FlowConfig) -> np.ndarray:
    ids = np.asarray(tokens, np.int64).reshape(-1)
    if not ids.size:
        raise OptionError("there are no speech tokens to make sound of; give at least one")
    if int(ids.min()) < 0 or int(ids.max()) >= config.vocab_size:
        raise OptionError(f"speech tokens must lie within 0 and {config.vocab_size - 1}; these span {int(ids.min())} "
                          f"to {int(ids.max())}")
    return ids


def _num_steps(steps: int | None, config: FlowConfig) -> int:
    chosen = config.steps if steps is None else steps
    if chosen < 1:
        raise OptionError(f"steps is {chosen}; the flow needs at least 1 (5 to 10 sound well)")
    return chosen


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, np.float32)


class FlowSession:
    """The flow's two graphs behind `FlowNetwork`."""

    def __init__(self, encoder: InferenceSession, decoder: InferenceSession, config: FlowConfig) -> None:
        self.encoder = encoder
        self.decoder = decoder
        self.config = config

    @classmethod
    def from_folder(cls, folder: Path, config: FlowConfig, plan: DevicePlan) -> FlowSession:
        """Load flow_encoder.onnx and flow_decoder.onnx. Raises CheckpointError when they are missing or refused."""
        encoder, decoder = (make_session(folder / f"flow_{part}.onnx", plan, kind="speech")
                            for part in ("encoder", "decoder"))
        return cls(encoder, decoder, config)

    def encode(self, tokens: np.ndarray, speaker: np.ndarray, memory: EncoderMemory[np.ndarray], *,
               last: bool) -> Encoded[np.ndarray]:
        padding = self.config.encoder.lookahead_tokens if last else 0
        mu, voice, *new = self.encoder.run(
            ["mu", "voice", "new_lookahead", "new_upsampled", "new_token_kv", "new_frame_kv"],
            {"tokens": np.asarray(tokens, np.int64), "speaker": np.asarray(speaker, np.float32),
             "padding": np.array([padding], np.int64), "lookahead": memory.lookahead, "upsampled": memory.upsampled,
             "token_kv": memory.token_kv, "frame_kv": memory.frame_kv})
        return Encoded(mu, voice, EncoderMemory(*new))

    def estimate(self, x: np.ndarray, mu: np.ndarray, t: np.ndarray, voice: np.ndarray, cond: np.ndarray,
                 memory: DecoderMemory[np.ndarray]) -> Estimated[np.ndarray]:
        velocity, conv, kv = self.decoder.run(
            ["velocity", "new_conv", "new_kv"],
            {"x": x, "mu": mu, "t": t, "voice": voice, "cond": cond, "conv": memory.conv, "kv": memory.kv})
        return Estimated(velocity, DecoderMemory(conv, kv))
