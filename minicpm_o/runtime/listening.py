"""Log-mel frames to audio tokens of MiniCPM-o 2.6 and 4.5: the clips of a prompt, or a stream chunk by chunk.

Written once over `HearingNetwork`, the raw call, which an onnxruntime session (here) and torch modules
(`model.encoders.whisper.TorchHearing`) answer alike. Knows no waveforms (`inputs.mel` makes the frames) and no prompt.

Letters: M mel bins, F mel frames, L encoder frames of this call, P encoder frames heard before, H heads, K head width,
D language width, A audio tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import AudioError, CheckpointError
from ..inputs.mel import num_encoder_frames, num_pooled
from ..model.config import OfficialConfig, WhisperEncoderConfig
from ..rates import ENCODER_RATE_HZ
from .device import DevicePlan, make_session
from .encoders import UNHEARD, block_causal_bias

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from ..checkpoints.bundle import Bundle

FILE_NAME = "hearing.onnx"

Cache = Any
"""Keys and values of every layer, as the network keeps them; None before anything was heard."""


class HearingNetwork(Protocol):
    """Convolutions, layers, projection and pooling, with everything that must be decided given from outside."""

    @property
    def config(self) -> WhisperEncoderConfig: ...

    def hear(self, log_mel: np.ndarray, kept: np.ndarray, positions: np.ndarray, bias: np.ndarray, past: Cache, *,
             keep: bool) -> tuple[np.ndarray, Cache]:
        """log_mel (1, M, F) float32 -> tokens (1, L // pool_step, D) float32, and the cache if it is to be kept.

        kept (L,) int64: which encoder frames stay after the convolutions; positions (L,) int64: their places;
        bias (1, 1, L, P + L) float32, added to the scores. The given cache is not changed.
        """
        ...


class HearingSession:
    """The network as a graph; its cache is a list of (keys, values), each (1, H, P, K) float32."""

    def __init__(self, session: InferenceSession, config: WhisperEncoderConfig) -> None:
        self.session = session
        self.config = config
        layers = range(config.layers)
        self._pasts = [(f"past_k_{layer}", f"past_v_{layer}") for layer in layers]
        self._presents = [f"present_{part}_{layer}" for layer in layers for part in "kv"]
        nothing = np.zeros((1, config.heads, 0, config.width // config.heads), np.float32)
        self._nothing = [(nothing, nothing)] * config.layers

    @classmethod
    def from_bundle(cls, bundle: Bundle, plan: DevicePlan) -> HearingSession:
        """Raises CheckpointError if the bundle's model does not hear in this way."""
        config = bundle.config
        if not isinstance(config, OfficialConfig) or config.hearing is None:
            raise CheckpointError(f"the model in {bundle.folder} is {config.version}, without a {FILE_NAME}; open 2.6 "
                                  f"or 4.5, exported with its hearing")
        return cls(make_session(bundle.path(FILE_NAME), plan, kind="hearing"), config.hearing)

    def hear(self, log_mel: np.ndarray, kept: np.ndarray, positions: np.ndarray, bias: np.ndarray, past: Cache, *,
             keep: bool) -> tuple[np.ndarray, Cache]:
        """See HearingNetwork."""
        feeds = {"log_mel": log_mel, "kept": kept, "positions": positions, "attention_bias": bias}
        for names, pair in zip(self._pasts, past or self._nothing, strict=True):
            feeds |= dict(zip(names, pair, strict=True))
        tokens, *presents = self.session.run(["tokens", *(self._presents if keep else ())], feeds)
        return tokens, list(zip(presents[0::2], presents[1::2], strict=True)) if keep else None


# Clips


def encode_clips(network: HearingNetwork, log_mels: Sequence[np.ndarray], *, fix_padding: bool = False,
                 longest: int = 0) -> list[np.ndarray]:
    """The pieces of one prompt, (M, F) each, to their tokens (A, D), A = (F + 1) // 2 // pool_step.

    The official models hear them in one batch, filled up with zeros to the longest and hidden only from encoder frame F
    on, though a piece has half as many: the last block of a shorter piece hears some of the filling. That is kept, as
    their weights know it so; fix_padding hides the filling. Pieces do not hear each other, so they are encoded one by
    one, which keeps memory small, and the filling only as far as it is heard. longest: mel frames of the
    prompt's longest piece, where some of its pieces are not among these.
    Raises AudioError for a piece that is empty, not finite or of another number of mel bins.
    """
    checked = [check_log_mel(log_mel, network.config) for log_mel in log_mels]
    longest = longest or max((log_mel.shape[1] for log_mel in checked), default=0)
    return [_encode_clip(network, log_mel, longest, fix_padding) for log_mel in checked]


def _encode_clip(network: HearingNetwork, log_mel: np.ndarray, longest: int, fix_padding: bool) -> np.ndarray:
    config, mel_frames = network.config, log_mel.shape[1]
    reach = _heard_frames(config, mel_frames, longest)
    num_frames = num_encoder_frames(reach)
    bias = block_causal_bias(num_frames, block_frames(config) or num_frames)
    bias[:, num_encoder_frames(mel_frames) if fix_padding else mel_frames:] = UNHEARD
    padded = np.pad(log_mel, ((0, 0), (0, reach - mel_frames)))[None]       # (M, F) -> (1, M, reach)
    places = np.arange(num_frames)
    tokens, _ = network.hear(padded, places, _positions(config, places), bias[None, None], None, keep=False)
    return tokens[0, :num_pooled(mel_frames, config.pool_step)]


def _heard_frames(config: WhisperEncoderConfig, mel_frames: int, longest: int) -> int:
    """How far a piece is filled up: to the end of its last block, in which its frames see each other, or to the longest
    piece; and to one token at least, though a piece shorter than that gets none."""
    block = block_frames(config)
    if block is not None:
        longest = min(longest, 2 * block * -(-num_encoder_frames(mel_frames) // block))
    return max(longest, 2 * config.pool_step - 1)


def block_frames(config: WhisperEncoderConfig) -> int | None:
    """Encoder frames that see each other whatever comes after them; None when all do."""
    return int(config.chunk_s * ENCODER_RATE_HZ) if config.chunk_s > 0 else None


# Streams


@dataclass(frozen=True)
class StreamingHearing:
    """What a stream has heard so far: a value, so that to keep one is to be able to go back to it."""

    cache: Cache = None
    num_frames: int = 0
    """P, encoder frames in the cache."""


def hear_chunk(network: HearingNetwork, heard: StreamingHearing, log_mel: np.ndarray, *, prefix_frames: int = 0,
               suffix_frames: int = 0) -> tuple[np.ndarray, StreamingHearing]:
    """The next chunk (M, F) of a stream to its tokens (A, D), and what has been heard then.

    A chunk sees itself and all that came before it. The first prefix_frames and last suffix_frames mel frames are only
    for the convolutions to look at. When the positions would run out, all that came before is forgotten, as the
    official models do; they count the context frames in.
    Raises AudioError for a chunk that is not finite, of another number of mel bins or too short for one token.
    """
    config = network.config
    log_mel = check_log_mel(log_mel, config)
    made = num_encoder_frames(log_mel.shape[1])
    if heard.num_frames + made >= config.max_frames:
        heard = StreamingHearing()
    kept = np.arange((prefix_frames + 1) // 2, made - (suffix_frames + 1) // 2)
    if len(kept) < config.pool_step:
        raise AudioError(f"a chunk of {log_mel.shape[1]} mel frames with {prefix_frames} before it and {suffix_frames} "
                         f"after it leaves {len(kept)} encoder frames, a token takes {config.pool_step}; wait for more "
                         f"sound")
    total = heard.num_frames + len(kept)
    positions = _positions(config, np.arange(heard.num_frames, total))
    bias = np.zeros((1, 1, len(kept), total), np.float32)
    tokens, cache = network.hear(log_mel[None], kept, positions, bias, heard.cache, keep=True)
    return tokens[0], StreamingHearing(cache, total)


# Both


def check_log_mel(log_mel: np.ndarray, config: WhisperEncoderConfig) -> np.ndarray:
    """The frames as float32. Raises AudioError if the encoder cannot hear them."""
    if log_mel.ndim != 2 or log_mel.shape[0] != config.mel_bins or not log_mel.shape[1]:
        raise AudioError(f"log-mel frames of shape {log_mel.shape} were given, the encoder takes "
                         f"({config.mel_bins}, F) with F of 1 or more; make them with inputs.mel")
    if not np.isfinite(log_mel).all():
        raise AudioError("the log-mel frames hold NaN or infinite values; clean the sound they were made of")
    frames: np.ndarray = log_mel.astype(np.float32, copy=False)
    return frames


def _positions(config: WhisperEncoderConfig, places: np.ndarray) -> np.ndarray:
    """Rows of the table of places; when it runs out the last one is repeated."""
    rows: np.ndarray = np.minimum(places, config.max_frames - 1)
    return rows
