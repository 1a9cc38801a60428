"""The official checkpoints in torch behind the runtime's interfaces: the same conversations on CPU, CUDA or MPS.

Numpy in and out, so that sampling, sessions and streams are written once for both runtimes. Letters: T tokens of a run,
D language width, V vocabulary, K head width.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from ..checkpoints.official import Checkpoint
from ..checkpoints.torch_loader import load_official, stored_dtype
from ..errors import CheckpointError, ContextFullError, OptionError
from ..inputs.official_layout import ClipMedia, OfficialInputs, SlicedImageMedia, batch_inputs
from ..inputs.official_tokenizer import OfficialTokenizer
from ..model.config import LanguageConfig, OfficialConfig
from ..model.encoders.sight import TorchVision
from ..model.encoders.whisper import TorchHearing
from ..model.omni import OmniModel, RawMedia, Sounds
from .beam import BeamConfig
from .cache import BaseCache, turning
from .device import DevicePlan
from .engine import BaseEngine, Step
from .events import GenerationEnd
from .generate import REPLACEMENT
from .generation_defaults import PAD_ID
from .official_parts import OfficialParts
from .sampling import SamplingConfig

if TYPE_CHECKING:
    from .official_voice import Voice


def out_of_memory(error: torch.cuda.OutOfMemoryError, doing: str) -> ContextFullError:
    """The sentence for a GPU that has no room left in the middle of an answer."""
    return ContextFullError(f"the GPU has no memory left while {doing} ({str(error).split('.')[0]}); shorten the "
                            f"conversation, send fewer or smaller pictures, or load the model with fewer bits")


@dataclass(eq=False)
class TorchCache(BaseCache):
    """Keys and values of the tokens already read, on the model's device; the interface is that of `cache.KVCache`."""

    cache: Any
    """transformers' DynamicCache."""
    limit: int
    """Most tokens that it may grow to: the context window."""

    @property
    def length(self) -> int:
        return int(self.cache.get_seq_length())

    def _layers(self) -> list[Any]:
        return [layer for layer in self.cache.layers if getattr(layer, "keys", None) is not None]

    def truncate(self, length: int) -> None:
        """Forget all tokens from position `length` on."""
        self.check_truncate(length)
        for layer in self._layers():
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]

    def copy(self) -> TorchCache:
        """An independent cache with the same tokens."""
        return TorchCache(_twin(self.cache), self.limit)

    def take_tail(self, other: TorchCache, start: int) -> None:
        """Become equal to another cache that holds the same tokens before `start`."""
        self.check_common(other, start)
        self.cache = _twin(other.cache)

    def cut(self, start: int, stop: int) -> TorchSlice:
        """A copy of the tokens from position start up to stop; see `paste`."""
        self.check_cut(start, stop)
        return TorchSlice([(layer.keys[:, :, start:stop].clone(), layer.values[:, :, start:stop].clone())
                           for layer in self._layers()], start)

    def paste(self, piece: TorchSlice, rope_theta: float) -> None:
        """Append tokens that were cut at another position: their keys are turned to the positions they get now."""
        self.make_room(piece.length)
        turn = self.length - piece.start
        for layer, (keys, values) in zip(self._layers(), piece.pairs, strict=True):
            layer.keys = torch.cat([layer.keys, turn_keys(keys, turn, rope_theta)], dim=2)
            layer.values = torch.cat([layer.values, values], dim=2)

    def make_room(self, num_tokens: int) -> None:
        """Raises ContextFullError when `num_tokens` more do not fit the context window."""
        self.check_room(num_tokens)


def _twin(cache: Any) -> Any:
    """A DynamicCache with the same tensors: transformers puts longer ones in their place and never writes into them."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


@dataclass(frozen=True)
class TorchSlice:
    """Tokens cut out of a cache: keys and values by layer, and the position of the first."""

    pairs: list[tuple[Tensor, Tensor]]
    start: int

    @property
    def length(self) -> int:
        return int(self.pairs[0][0].shape[2])


def turn_keys(keys: Tensor, turn: int, rope_theta: float) -> Tensor:
    """Keys (..., K) whose rotary positions (half by half) are moved by `turn`; angles in double precision."""
    if turn == 0:
        return keys
    half = keys.shape[-1] // 2
    cosine, sine = (torch.from_numpy(wave).to(keys.device) for wave in turning(turn, half, rope_theta))
    first, second = keys[..., :half].float(), keys[..., half:].float()
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).to(keys.dtype)


class TorchEngine(BaseEngine[TorchCache]):
    """A transformers decoder at run time. Holds no conversation: any number of caches may be used in turn."""

    def __init__(self, language: Any, config: LanguageConfig) -> None:
        self.language = language.eval()
        self.config = config

    def new_cache(self, capacity: int = 512) -> TorchCache:
        """An empty cache; it grows as tokens come."""
        from transformers import DynamicCache

        if capacity < 1:
            raise OptionError(f"capacity is {capacity} tokens; it must be 1 or more")
        return TorchCache(DynamicCache(), self.context_tokens)

    @torch.inference_mode()
    def embed(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """(T,) token ids to (T, D) float32."""
        table = self.language.get_input_embeddings().weight
        rows = torch.as_tensor(np.asarray(ids, dtype=np.int64).reshape(-1), device=table.device)
        if rows.numel() and not (int(rows.min()) >= 0 and int(rows.max()) < len(table)):
            raise OptionError(f"token ids must lie within 0 and {len(table) - 1}; these span {int(rows.min())} to "
                              f"{int(rows.max())}")
        return to_numpy(table[rows])

    @torch.inference_mode()
    def _run(self, embeds: np.ndarray, cache: TorchCache, is_last: bool = True) -> Step:
        weight = self.language.get_input_embeddings().weight
        start = cache.length
        positions = torch.arange(start, start + len(embeds), device=weight.device)[None]
        try:
            hidden = self.language.model(
                inputs_embeds=torch.from_numpy(embeds).to(weight.device, weight.dtype)[None], position_ids=positions,
                past_key_values=cache.cache, use_cache=True,
            ).last_hidden_state                                             # (1, T, D)
            logits = self.language.lm_head(hidden[:, -1])                   # (1, V)
        except torch.cuda.OutOfMemoryError as error:
            cache.truncate(start)
            raise out_of_memory(error, f"reading {len(embeds)} tokens after {start}") from error
        return Step(to_numpy(logits[0]), to_numpy(hidden[0]))


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Any tensor as a float32 array."""
    return tensor.detach().float().cpu().numpy()


class TorchNetworks:
    """An OmniModel that is loaded already, whatever its devices."""

    def __init__(self, model: OmniModel, folder: Path, plan: DevicePlan, fingerprint: str = "") -> None:
        """folder: of the checkpoint, where the tokenizer and the assets of its voice lie."""
        if not isinstance(model.config, OfficialConfig):
            raise OptionError(f"the network is {model.config.name}, not an official checkpoint")
        self.model = model.eval()
        self.config = model.config
        self.folder = folder
        self.plan = plan
        self.fingerprint = fingerprint

    def open_engine(self) -> TorchEngine:
        return TorchEngine(self.model.language, self.config.language)

    def open_vision(self) -> TorchVision:
        if self.model.vision is None:
            raise CheckpointError("the model was loaded without its vision; load it with vision=True")
        return TorchVision(self.model.vision, self.model.connectors.resampler)

    def open_hearing(self) -> TorchHearing:
        if self.model.hearing is None:
            raise CheckpointError("the model was loaded without its hearing; load it with hearing=True")
        return TorchHearing(self.model.hearing, self.model.connectors.projector)

    @torch.inference_mode()
    def answer_many(self, prompts: Sequence[OfficialInputs], sampling: SamplingConfig, beams: BeamConfig,
                    max_tokens: int, *, tokenizer: OfficialTokenizer, eos_ids: Sequence[int]) -> list[GenerationEnd]:
        """Prompts padded on the left, answered by transformers' `generate`; each may have other media than the rest.

        Media are encoded prompt by prompt, so that no prompt's sounds are padded to another's.
        """
        batch = batch_inputs(prompts)
        table = self.model.language.get_input_embeddings().weight
        ids = torch.from_numpy(batch.ids).to(table.device)
        embeds = torch.stack([self.model.fuse([row], [raw_media(prompt.media)])[0]
                              for row, prompt in zip(ids, batch.rows, strict=True)])
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        made = self.model.language.generate(
            inputs_embeds=embeds, attention_mask=torch.from_numpy(batch.attention_mask).long().to(table.device),
            pad_token_id=PAD_ID, eos_token_id=list(eos_ids), num_beams=beams.num_beams,
            max_new_tokens=min(max_tokens, self.config.language.context_tokens - batch.ids.shape[1]),
            **_drawing(sampling))
        return [_ended(row.tolist(), eos_ids, tokenizer) for row in made]

    def open_voice(self, tokenizer: OfficialTokenizer) -> Voice:
        from .torch_voice import torch_voice

        return torch_voice(self.model, self.folder, self.plan, tokenizer)


def raw_media(media: Sequence[Any]) -> RawMedia:
    """A prompt's media as the network takes them, in order."""
    pictures = [item for item in media if isinstance(item, SlicedImageMedia)]
    return RawMedia(
        [piece for item in pictures for piece in item.pieces],
        np.concatenate([item.grid_sizes for item in pictures]) if pictures else None,
        tuple(span for item in pictures for span in item.spans),
        tuple(Sounds(item.log_mels, item.spans) for item in media if isinstance(item, ClipMedia)))


class SaidPenalty(LogitsProcessor):
    """Makes words of the answer less likely to come again.

    transformers' own counts the tokens after each prompt's padding, also where the prompt was given as embeddings and
    its tokens are not in the row: in a padded batch it then overlooks the first words of the shorter prompts' answers.
    """

    def __init__(self, penalty: float) -> None:
        self.penalty = penalty

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        said = torch.gather(scores, 1, input_ids)
        return scores.scatter(1, input_ids, torch.where(said < 0, said * self.penalty, said / self.penalty))


def _drawing(sampling: SamplingConfig) -> dict[str, Any]:
    """The choice of tokens in transformers' words."""
    penalties = [SaidPenalty(sampling.repetition_penalty)] if sampling.repetition_penalty != 1 else []
    chosen: dict[str, Any] = {"do_sample": sampling.temperature > 0, "logits_processor": LogitsProcessorList(penalties)}
    if not sampling.temperature:
        return chosen
    return chosen | {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p,
                     "min_p": sampling.min_p or None}


def _ended(ids: list[int], ends: Sequence[int], tokenizer: OfficialTokenizer) -> GenerationEnd:
    """A row of a batch up to its end; without one it was cut off."""
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    said = tuple(ids[:stop])
    text = tokenizer.decode(said).rstrip(REPLACEMENT)  # a character that was cut off
    return GenerationEnd("length" if stop is None else "stop", said, text)


def open_checkpoint(checkpoint: Checkpoint, plan: DevicePlan, *, device: str | None = None, dtype: str | None = None,
                    attention: str = "sdpa", check_memory: bool = True) -> OfficialParts:
    """A checkpoint's parts, its weights loaded. device: "auto" or torch's name of one; None is the CPU."""
    torch.set_num_threads(plan.threads)
    kind = stored_dtype(checkpoint) if dtype is None else getattr(torch, dtype)
    model = load_official(checkpoint, dtype=kind, device_map=device, attention=attention,
                          check=check_memory)
    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns)
                   for path in checkpoint.folder.glob("*.safetensors"))
    names = repr((sorted(checkpoint.tensors), files)).encode()
    digest = hashlib.sha256(names + (checkpoint.folder / "config.json").read_bytes())
    return OfficialParts(TorchNetworks(model, checkpoint.folder, plan, f"{digest.hexdigest()}-{kind}"))
