"""The voice of 2.6 through onnxruntime: the raw calls that `runtime.chattts` is written against.

Letters: n positions of a run, P positions before it, C capacity of the cache, D width, H heads, K head width, q
codebooks, V codes of one, T steps, M mel bins, N samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..checkpoints.graphs.chattts import EMBEDDINGS_NAME
from ..checkpoints.graphs.chattts import FILE_NAME as CHATTTS_NAME
from ..checkpoints.graphs.dvae import FILE_NAME as DVAE_NAME
from ..checkpoints.graphs.vocos import FILE_NAME as VOCOS_NAME
from ..errors import CheckpointError
from ..model.config import ChatTTSConfig
from .device import DevicePlan, make_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

UNSEEN = -1e9
"""Added to an attention score, leaves nothing of it."""


@dataclass(eq=False)
class SlotCache:
    """Keys and values of every layer, (layers, H, C, K) float32 each; grows, and is written in place."""

    keys: np.ndarray
    values: np.ndarray

    @classmethod
    def empty(cls, config: ChatTTSConfig) -> SlotCache:
        """Slots of everything before the sound, all zeros."""
        shape = (config.layers, config.heads, config.text_reserved_tokens + 2, config.width // config.heads)
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.float32))

    @property
    def capacity(self) -> int:
        return int(self.keys.shape[2])

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` positions, by doubling; new slots hold zeros."""
        if capacity > self.capacity:
            room = ((0, 0), (0, 0), (0, max(capacity, 2 * self.capacity) - self.capacity), (0, 0))
            self.keys, self.values = np.pad(self.keys, room), np.pad(self.values, room)


@dataclass(frozen=True)
class VoiceTables:
    """Word and code vectors and the speaker's projector, which are looked up or used once."""

    emb_text: np.ndarray
    """(words, D)"""
    emb_code: np.ndarray
    """(q, V, D)"""
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Weight (out, in) and bias (out,) of the projector's two layers."""

    @classmethod
    def from_file(cls, path: Path) -> VoiceTables:
        """Read chattts_embeddings.safetensors. Raises CheckpointError when it is missing or damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors: Mapping[str, np.ndarray] = load_file(path)
            layers = tuple((tensors[f"{name}.weight"].astype(np.float32), tensors[f"{name}.bias"].astype(np.float32))
                           for name in ("linear1", "linear2"))
            return cls(tensors["emb_text"], tensors["emb_code"], layers)
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}); export the model again") from error

    def speaker(self, hidden: np.ndarray) -> np.ndarray:
        """(1, llm width) -> (1, D) of length 1."""
        (first, first_bias), (second, second_bias) = self.layers
        vector = np.maximum(hidden @ first.T + first_bias, 0) @ second.T + second_bias
        return np.asarray(vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-12), np.float32)


class ChatTTSSession:
    """The talker: a `runtime.chattts.VoiceNetwork`."""

    def __init__(self, session: InferenceSession, tables: VoiceTables, config: ChatTTSConfig) -> None:
        if tables.emb_text.shape != (config.num_text_tokens, config.width):
            raise CheckpointError(f"the voice's word table is {tables.emb_text.shape}, the config says "
                                  f"{(config.num_text_tokens, config.width)}; they belong to different models")
        self.session = session
        self.tables = tables
        self.config = config
        layers = range(config.layers)
        self._past = [(f"past_key.{layer}", f"past_value.{layer}") for layer in layers]
        self._outputs = ["logits", *(f"key.{layer}" for layer in layers), *(f"value.{layer}" for layer in layers)]

    @classmethod
    def from_folder(cls, folder: Path, config: ChatTTSConfig, plan: DevicePlan) -> ChatTTSSession:
        """Open chattts.onnx and its tables. Raises CheckpointError when one is missing."""
        session = make_session(folder / CHATTTS_NAME, plan, kind="speech")
        return cls(session, VoiceTables.from_file(folder / EMBEDDINGS_NAME), config)

    def new_cache(self) -> SlotCache:
        return SlotCache.empty(self.config)

    def condition(self, ids: np.ndarray, speaker_hidden: np.ndarray | None) -> np.ndarray:
        """(n,) and (1, llm width) or None -> (n, D)."""
        embeds = self.tables.emb_text[ids].astype(np.float32)
        if speaker_hidden is not None:
            embeds[ids == self.config.speaker_token] = self.tables.speaker(speaker_hidden)
        return np.asarray(embeds)

    def embed_codes(self, codes: np.ndarray) -> np.ndarray:
        """(n, q) -> (n, D)."""
        books = np.arange(codes.shape[1])
        return np.asarray(self.tables.emb_code[books, codes].astype(np.float32).sum(1))  # (n, q, D) -> (n, D)

    def run(self, embeds: np.ndarray, visible: np.ndarray, cache: SlotCache) -> np.ndarray:
        """embeds (n, D), visible (n, P + n) -> logits (q, V) of the last; its keys and values go into their slots."""
        num_now, stop = visible.shape
        start = stop - num_now
        cache.reserve(stop)
        bias = np.full((num_now, cache.capacity + num_now), UNSEEN, np.float32)
        bias[:, :start][visible[:, :start]] = 0
        bias[:, cache.capacity :][visible[:, start:]] = 0
        feeds = {"inputs_embeds": embeds, "position_ids": np.arange(start, stop)[None], "attention_bias": bias}
        for (key, value), keys, values in zip(self._past, cache.keys, cache.values, strict=True):
            feeds[key], feeds[value] = keys, values
        logits, *written = self.session.run(self._outputs, feeds)
        for layer in range(self.config.layers):
            cache.keys[layer, :, start:stop] = written[layer]
            cache.values[layer, :, start:stop] = written[self.config.layers + layer]
        return np.asarray(logits)


class DvaeSession:
    """Codes to log-mel."""

    def __init__(self, session: InferenceSession) -> None:
        self.session = session

    @classmethod
    def from_folder(cls, folder: Path, plan: DevicePlan) -> DvaeSession:
        return cls(make_session(folder / DVAE_NAME, plan, kind="speech"))

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """(T, q) int64 -> (M, frames) float32."""
        return np.asarray(self.session.run(["mel"], {"codes": codes})[0])


class VocosSession:
    """Log-mel to a waveform at 24 kHz."""

    def __init__(self, session: InferenceSession) -> None:
        self.session = session

    @classmethod
    def from_folder(cls, folder: Path, plan: DevicePlan) -> VocosSession:
        return cls(make_session(folder / VOCOS_NAME, plan, kind="speech"))

    def __call__(self, mel: np.ndarray) -> np.ndarray:
        """(M, T) -> (N,) float32."""
        return np.asarray(self.session.run(["waveform"], {"mel": mel[None]})[0][0])
