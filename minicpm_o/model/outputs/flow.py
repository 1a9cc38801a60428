"""Speech tokens and a voice to the conditions and the velocity of a flow that ends in mel: token2wav's flow.pt.

Offers its two networks and takes no steps itself; `runtime.flow` does, the same for torch and for onnxruntime. Tensors
are named as in the published file. Letters: T tokens, F mel frames, M mel bins, W width.

Source: CosyVoice 2 (arXiv:2412.10117), flow matching (arXiv:2210.02747).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import FlowConfig
from ..flow_memory import DecoderMemory, Encoded, EncoderMemory, Estimated
from .flow_decoder import FlowDecoder
from .flow_encoder import FlowEncoder


class Flow(nn.Module):
    """Encoder, projections and estimator."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.vocab_size, config.encoder.width)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_width, config.mel_bins)
        self.encoder = FlowEncoder(config.encoder)
        self.encoder_proj = nn.Linear(config.encoder.width, config.mel_bins)
        self.decoder = FlowDecoder(config.decoder, config.mel_bins)

    def encode(self, tokens: Tensor, speaker: Tensor, memory: EncoderMemory[Tensor], *, last: bool) -> Encoded[Tensor]:
        """tokens (T,) ids, speaker (speaker_width,) -> mu of the frames that the tokens settle, and the voice."""
        voice = self.spk_embed_affine_layer(F.normalize(speaker, dim=0))
        hidden, new = self.encoder(self.input_embedding(tokens)[None], memory, last=last)
        return Encoded(self.encoder_proj(hidden)[0], voice, new)

    def estimate(self, x: Tensor, mu: Tensor, t: Tensor, voice: Tensor, cond: Tensor,
                 memory: DecoderMemory[Tensor]) -> Estimated[Tensor]:
        """x, mu, cond (B, M, F), t (B,), voice (B, M) -> velocity (B, M, F)."""
        return Estimated(*self.decoder.estimator(x, mu, t, voice, cond, memory))


class TorchFlow:
    """A Flow behind the protocol of `runtime.flow`: numpy in and out, on whatever device and in whatever type it is."""

    def __init__(self, module: Flow) -> None:
        self.module = module.eval()
        self.config = module.config

    @torch.inference_mode()
    def encode(self, tokens: np.ndarray, speaker: np.ndarray, memory: EncoderMemory[np.ndarray], *,
               last: bool) -> Encoded[np.ndarray]:
        ids = torch.from_numpy(np.asarray(tokens, np.int64)).to(self._like.device)
        past = EncoderMemory(*map(self._tensor, (memory.lookahead, memory.upsampled, memory.token_kv,
                                                 memory.frame_kv)))
        out = self.module.encode(ids, self._tensor(speaker), past, last=last)
        new = EncoderMemory(*map(_array, (out.new.lookahead, out.new.upsampled, out.new.token_kv, out.new.frame_kv)))
        return Encoded(_array(out.mu), _array(out.voice), new)

    @torch.inference_mode()
    def estimate(self, x: np.ndarray, mu: np.ndarray, t: np.ndarray, voice: np.ndarray, cond: np.ndarray,
                 memory: DecoderMemory[np.ndarray]) -> Estimated[np.ndarray]:
        past = DecoderMemory(self._tensor(memory.conv), self._tensor(memory.kv))
        x, mu, voice, cond = map(self._tensor, (x, mu, voice, cond))
        moment = torch.from_numpy(np.asarray(t, np.float32)).to(x.device)  # half precision cannot tell moments apart
        out = self.module.estimate(x, mu, moment, voice, cond, past)
        return Estimated(_array(out.velocity), DecoderMemory(_array(out.new.conv), _array(out.new.kv)))

    @property
    def _like(self) -> Any:
        return self.module.encoder_proj.weight

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self._like)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
