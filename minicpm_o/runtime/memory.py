"""What a model will take of the memory, foreseen from its config alone: before anything is loaded, or fetched.

Counts weights from the tensors' shapes, the cache of keys and values from the context, and the largest tensors that
live while a part runs. Knows no files. Letters: T tokens of a prefill chunk, C context tokens, P patches of a picture.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from ..checkpoints.sizes import bundle_part_bytes, embedding_bytes, torch_part_bytes
from ..errors import MemoryPlanError, OptionError
from ..model.config import OfficialConfig
from .cache import BYTES_PER_NUMBER, cache_bytes
from .device import activation_bytes, available_memory_bytes
from .engine import PREFILL_CHUNK_TOKENS
from .flow import MAX_WHOLE_TOKENS

Backend = Literal["device", "torch"]
Dtype = Literal["float32", "bfloat16", "float16"]
DTYPE_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

CONTEXT_TOKENS = 4096
"""What a plan assumes when nobody says how long the conversation will be."""
LEAST_CONTEXT_TOKENS = 1024
"""Shorter than this no picture and no minute of sound fits, so nothing shorter is proposed."""
SPEECH_POSITIONS = 1500
"""Speech tokens, 25 a second, that the talker remembers of one answer: a minute."""

PROMPT_TOKENS = 250
"""Of the clip whose voice is cloned, 10 s."""

PROGRAM_BYTES: dict[Backend, int] = {"device": 100_000_000, "torch": 450_000_000}
"""Python and the libraries once imported, no model loaded: 68 and 387 MB on Linux, rounded up."""

PART_WORDS = {"language": "language model", "vision": "eyes", "hearing": "ears", "talker": "talker",
              "voice": "vocoder"}
SPEECH_PARTS = ("talker", "voice")
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20,
          "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class MemoryRequest:
    """How a model is to be run."""

    backend: Backend = "device"
    bits: int | None = 4
    """Of the matrices in a bundle: 4, 8, or None for float32. torch takes `dtype` instead."""
    block_size: int = 128
    prompts: bool = False
    """With a bundle's graph for prompts beside the language model's."""
    context_tokens: int = CONTEXT_TOKENS
    dtype: Dtype = "bfloat16"
    vision: bool = True
    hearing: bool = True
    speech: bool = True

    def words(self) -> str:
        """The request in words, as a sentence names it."""
        numbers = self.dtype if self.backend == "torch" else "float32" if self.bits is None else f"{self.bits} bits"
        left_out = [name for name, here in (("eyes", self.vision), ("ears", self.hearing), ("speech", self.speech))
                    if not here]
        without = f", without {' and '.join(left_out)}" if left_out else ""
        quick = " and a graph for prompts" if self.prompts else ""
        return f"{numbers}{quick}, {self.context_tokens} tokens of context{without}"


@dataclass(frozen=True)
class MemoryLine:
    """One thing that takes memory."""

    name: str
    bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """Everything that takes memory, against what there is."""

    model: str
    request: MemoryRequest
    lines: tuple[MemoryLine, ...]
    available_bytes: int | None
    """What the machine has for it; None where nobody says."""
    nearest: MemoryRequest | None = None
    """What would fit, giving up as little as possible; None when this fits, or nothing does."""

    @property
    def total_bytes(self) -> int:
        return sum(line.bytes for line in self.lines)

    @property
    def fits(self) -> bool:
        return self.available_bytes is None or self.total_bytes <= self.available_bytes

    def table(self) -> str:
        """The lines for a person to read."""
        rows = [(line.name, line.bytes) for line in self.lines] + [("together", self.total_bytes)]
        rows += [] if self.available_bytes is None else [("available", self.available_bytes)]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"  {name:{width}}  {gigabytes(size):>8} GB" for name, size in rows)

    def verdict(self) -> str:
        """One sentence: whether it fits, and if not, what would."""
        asked = f"{self.model} at {self.request.words()} takes {gigabytes(self.total_bytes)} GB"
        if self.available_bytes is None:
            return f"{asked}; this system does not say how much memory it has"
        if self.fits:
            return f"{asked} of {gigabytes(self.available_bytes)} GB: it fits"
        return f"{asked}, but {gigabytes(self.available_bytes)} GB are available; {self._option()}"

    def _option(self) -> str:
        if self.nearest is None:
            return "nothing smaller fits either"
        if self.nearest.backend != self.request.backend:  # torch has no fewer bits
            return f"an exported bundle, which needs no torch, fits in so much main memory: {self.nearest.words()}"
        return f"this fits: {self.nearest.words()}"


def plan_memory(config: OfficialConfig, request: MemoryRequest, available_bytes: int | None = None) -> MemoryPlan:
    """What `config` takes when run as requested, and what else would fit if that does not.

    Raises OptionError for a context longer than the model's, or bits that it cannot have.
    """
    if not 1 <= request.context_tokens <= config.language.context_tokens:
        raise OptionError(f"{request.context_tokens} tokens of context were asked for; {config.name} takes 1 to "
                          f"{config.language.context_tokens}")
    if request.bits not in (None, 4, 8):
        raise OptionError(f"weights can have 4 or 8 bits (or None for float32), not {request.bits}")
    plan = MemoryPlan(config.name, request, _lines(config, request), available_bytes)
    if plan.fits or available_bytes is None:
        return plan
    smaller = (option for option in _smaller_requests(config, request)
               if sum(line.bytes for line in _lines(config, option)) <= available_bytes)
    return replace(plan, nearest=next(smaller, None))


def check_memory(config: OfficialConfig, request: MemoryRequest, available_bytes: int | None = None) -> MemoryPlan:
    """The plan, if it fits what this machine has left (or `available_bytes`, a GPU's say).

    Raises MemoryPlanError, whose text holds the plan and the nearest option that fits. Call it before loading.
    """
    available = available_memory_bytes() if available_bytes is None else available_bytes
    plan = plan_memory(config, request, available)
    if not plan.fits:
        lines = ", ".join(f"{line.name} {gigabytes(line.bytes)}" for line in plan.lines)
        raise MemoryPlanError(f"{plan.verdict()} (in GB: {lines})")
    return plan


def parse_memory(text: str) -> int:
    """ "8GB", "7.5 GiB" or a number of bytes. Raises OptionError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    amount = 0.0 if match is None else float(match[1]) * _UNITS.get(match[2].upper(), 0)
    if not 1 <= amount < math.inf:
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        raise OptionError(f"{shown!r} is not an amount of memory; write it as 8GB or 7.5GiB")
    return round(amount)


def gigabytes(size: int) -> str:
    """Billions of bytes with two digits after the point."""
    return f"{size / 1e9:.2f}"


def for_parts(request: MemoryRequest, config: OfficialConfig, context_tokens: int) -> MemoryRequest:
    """The request for the parts that the model has, and a conversation of that length."""
    return replace(request, context_tokens=context_tokens, vision=config.vision is not None,
                   hearing=config.hearing is not None, speech=bool(config.talker or config.chattts))


def without_parts(config: OfficialConfig, request: MemoryRequest) -> OfficialConfig:
    """The config with the parts set to None that the request leaves out."""
    if not request.vision:
        config = replace(config, vision=None, resampler=None)
    if not request.hearing:
        config = replace(config, hearing=None)
    if not request.speech:
        config = replace(config, talker=None, chattts=None, flow=None, hift=None, vocos=None)
    return config


def _lines(config: OfficialConfig, request: MemoryRequest) -> tuple[MemoryLine, ...]:
    config = without_parts(config, request)
    return (*_weights(config, request), *_caches(config, request), *_activations(config, request),
            MemoryLine("program and libraries", PROGRAM_BYTES[request.backend]))


def _weights(config: OfficialConfig, request: MemoryRequest) -> list[MemoryLine]:
    if request.backend == "torch":
        sizes = torch_part_bytes(config, DTYPE_BYTES[request.dtype])
        return [MemoryLine(f"{PART_WORDS[part]}, weights", size) for part, size in sizes.items()]
    sizes = bundle_part_bytes(config, request.bits, request.block_size, request.prompts)
    words = embedding_bytes(config.language)
    sizes["language"] -= words
    lines = [MemoryLine(f"{PART_WORDS[part]}, weights", size) for part, size in sizes.items()]
    return [lines[0], MemoryLine("word table", words), *lines[1:]]


def _caches(config: OfficialConfig, request: MemoryRequest) -> list[MemoryLine]:
    number = _number_bytes(request)
    lines = [MemoryLine(f"cache of {request.context_tokens} tokens",
                        cache_bytes(config.language, request.context_tokens) * number // BYTES_PER_NUMBER)]
    voice = config.talker or config.chattts
    if voice:
        lines.append(MemoryLine("talker's cache", 2 * voice.layers * voice.width * SPEECH_POSITIONS * number))
    return lines


def _activations(config: OfficialConfig, request: MemoryRequest) -> list[MemoryLine]:
    """Parts run one after the other, so the largest alone counts."""
    number, language = _number_bytes(request), config.language
    tokens = min(PREFILL_CHUNK_TOKENS, request.context_tokens)
    scores = language.heads * tokens * request.context_tokens  # (H, T, C)
    sizes = [number * (activation_bytes(language, tokens) // BYTES_PER_NUMBER + scores)]
    if config.vision:
        vision, patches = config.vision, (config.slicing.scale_px // config.slicing.patch_px) ** 2
        pieces = vision.batch_pieces if request.backend == "torch" else 1
        sizes.append(number * pieces * patches * (2 * vision.heads * patches + 6 * vision.width + 2 * vision.ffn))
    if config.hearing:
        ears = config.hearing
        sizes.append(number * ears.max_frames * (2 * ears.heads * ears.max_frames + 6 * ears.width + 2 * ears.ffn))
    if config.flow:
        frames, decoder = 2 * (MAX_WHOLE_TOKENS + PROMPT_TOKENS), config.flow.decoder  # two frames a token
        sizes.append(number * 2 * decoder.heads * frames * 2 * frames)  # with and without guidance; scores and shares
    return [MemoryLine("activations", max(sizes))]


def _number_bytes(request: MemoryRequest) -> int:
    return DTYPE_BYTES[request.dtype] if request.backend == "torch" else BYTES_PER_NUMBER


def _smaller_requests(config: OfficialConfig, request: MemoryRequest) -> list[MemoryRequest]:
    """Everything less than what was asked for, what gives up least first: context, then bits, then speech, eyes, ears;
    none has a graph for prompts.

    torch has no fewer bits; there the exported bundle is the way to them.
    """
    contexts = [request.context_tokens]
    while contexts[-1] // 2 >= LEAST_CONTEXT_TOKENS:
        contexts.append(contexts[-1] // 2)
    found = []
    for numbers, (vision, hearing, speech), context in itertools.product(
            _fewer_bits(request), _fewer_parts(request), contexts):
        cost = ((vision, hearing, speech).count(False), not hearing, not vision, numbers[0], contexts.index(context))
        option = replace(request, backend=numbers[1], bits=numbers[2], dtype=numbers[3], prompts=False, vision=vision,
                         hearing=hearing, speech=speech, context_tokens=context)
        if option != request:
            found.append((cost, option))
    return [option for _, option in sorted(found, key=lambda pair: pair[0])]


def _fewer_bits(request: MemoryRequest) -> list[tuple[int, Backend, int | None, Dtype]]:
    """(how much is given up, backend, bits, dtype): as asked, then fewer."""
    asked: tuple[int, Backend, int | None, Dtype] = (0, request.backend, request.bits, request.dtype)
    if request.backend == "torch":
        half: list[tuple[int, Backend, int | None, Dtype]] = (
            [(1, "torch", request.bits, "bfloat16")] if request.dtype == "float32" else [])
        return [asked, *half, (2, "device", 8, request.dtype), (3, "device", 4, request.dtype)]
    steps: list[int | None] = [None, 8, 4]
    fewer = steps[steps.index(request.bits) + 1 :]
    return [asked, *((rank, "device", bits, request.dtype) for rank, bits in enumerate(fewer, 1))]


def _fewer_parts(request: MemoryRequest) -> list[tuple[bool, bool, bool]]:
    """(vision, hearing, speech): as asked, and with any of them left out."""
    vision, hearing, speech = ((here, False) if here else (False,)
                               for here in (request.vision, request.hearing, request.speech))
    return list(itertools.product(vision, hearing, speech))
