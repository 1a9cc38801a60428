"""A checkpoint of the exact official layout with random weights, at full size or tiny, written tensor by tensor.

The true weights are large and not always at hand; what loads, exports and runs this runs them too. Memory holds a
block of one tensor at a time. Every tensor's numbers follow from the seed and its name alone.

    python -m minicpm_o.checkpoints.random_official FOLDER --version 4.5 --size full

A number is drawn as 16 random bits that pick a quantile of the normal distribution from a table already rounded to
bfloat16 and scaled, several times faster than drawing and rounding.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from ..errors import CheckpointError, MiniCPMOError
from ..model.config import (
    ChatTTSConfig,
    FlowConfig,
    FlowDecoderConfig,
    FlowEncoderConfig,
    HiftConfig,
    LanguageConfig,
    OfficialConfig,
    QueryResamplerConfig,
    SiglipConfig,
    TalkerConfig,
    VocosConfig,
    WhisperEncoderConfig,
)
from .official_config import config_from_official, official_values
from .official_layout import Shape, expected_tensors
from .progress import ProgressReport
from .random_tokenizer import CHATTTS, MIN_WORDS, added_tokens, write_chattts_tokenizer, write_tokenizer
from .safetensors_file import Pending, float32_to_bfloat16, in_blocks, pending_array, write_shards
from .storage import check_room, writing_to
from .torch_zip import write_state_dict
from .voice_layout import flow_tensors, hift_tensors, vocos_tensors

Size = Literal["tiny", "full"]
MAX_SHARD_BYTES = 5_000_000_000
TOKEN2WAV = "assets/token2wav"
VOCOS_FILE = "assets/Vocos.pt"
CHATTTS_FOLDER = "assets/chattts_tokenizer"
_BLOCK_ITEM_BYTES = 128
"""Reckoned per number when a tensor is cut into blocks: small ones stay in the processor's cache."""
_SPARE_BYTES = 50_000_000
"""For the tokenizer and the headers."""


@dataclass(frozen=True)
class Plan:
    """What will be written: the model's tensors in bfloat16 and, in float32, the voice files beside them."""

    config: OfficialConfig
    tensors: list[Pending]
    voices: Mapping[str, list[Pending]]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensors in (self.tensors, *self.voices.values()) for tensor in tensors)


def official_config(version: str, size: Size, layers: int | None = None) -> OfficialConfig:
    """The released sizes, or a model of the same parts that fits in a test; no transformer deeper than `layers`."""
    if version not in ("2.6", "4.5") or size not in ("tiny", "full"):
        raise CheckpointError(f"there is no version {version!r} of size {size!r}; use 2.6 or 4.5, tiny or full")
    if layers is not None and layers < 1:
        raise CheckpointError(f"a model needs a layer at least, not {layers}")
    full = config_from_official({"model_type": "minicpmo", "version": version})
    config = full if size == "full" else _tiny(full)
    return config if layers is None else _shallow(config, layers)


def _shallow(config: OfficialConfig, layers: int) -> OfficialConfig:
    """At most so many layers of every transformer; the voice's own networks stay as they are."""
    parts = {name: getattr(config, name) for name in ("language", "vision", "hearing", "talker", "chattts")}
    return replace(config, **{name: replace(part, layers=min(layers, part.layers)) for name, part in parts.items()
                              if part is not None})


def _tiny(full: OfficialConfig) -> OfficialConfig:
    is_45 = full.version == "4.5"
    width, vocab_size = 128, MIN_WORDS + len(added_tokens(full.version))  # the resampler's heads are 128 wide
    language = LanguageConfig(
        kind=full.language.kind, vocab_size=vocab_size, width=width, layers=2, heads=4, kv_heads=2, head_width=32,
        ffn=160, norm_eps=1e-6, rope_theta=1e6, context_tokens=4096, tied_head=False)
    tiny = replace(
        full, language=language,
        vision=SiglipConfig(width=32, ffn=72, layers=2, heads=2), resampler=QueryResamplerConfig(),
        hearing=WhisperEncoderConfig(width=32, heads=2, layers=2, ffn=128,
                                     pool_step=full.hearing.pool_step if full.hearing else 5))
    speech: dict[str, Any] = {"llm_width": width, "width": 48, "ffn": 96, "layers": 2, "heads": 3}
    if is_45:
        # ids in the talker's own table stand as far behind its words as in the released one
        talker = TalkerConfig(**speech, kv_heads=3, num_audio_tokens=98, num_text_tokens=vocab_size + 23,
                              audio_bos=MIN_WORDS + 44, text_eos=MIN_WORDS + 49)
        encoder = FlowEncoderConfig(width=32, heads=4, ffn=64, layers=2, up_layers=1)
        decoder = FlowDecoderConfig(width=32, heads=2, head_width=16, layers=2)
        flow = FlowConfig(vocab_size=97, encoder=encoder, decoder=decoder)
        return replace(tiny, talker=talker, flow=flow, hift=HiftConfig(width=48, pitch_width=40))
    words = 192
    chattts = ChatTTSConfig(**speech, num_text_tokens=words + len(CHATTTS), num_audio_tokens=66,
                            speaker_token=words + CHATTTS.index("[spk_emb]"),
                            audio_bos=words + CHATTTS.index("[Ptts]"), text_eos=words + CHATTTS.index("[Etts]"))
    return replace(tiny, chattts=chattts, vocos=VocosConfig(width=64, ffn=160, layers=2))


def write_random_checkpoint(folder: Path, version: str = "4.5", size: Size = "tiny", *, layers: int | None = None,
                            seed: int = 0, max_shard_bytes: int = MAX_SHARD_BYTES,
                            progress: bool = False) -> OfficialConfig:
    """Write the checkpoint into an empty or new folder; returns its config. layers: see `official_config`.

    Raises CheckpointError when the folder has weights already, DiskFullError before writing if there is no room.
    """
    plan = make_plan(official_config(version, size, layers), seed)
    if any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder} has weights already; give an empty folder")
    check_room(folder, plan.num_bytes + _SPARE_BYTES)
    with writing_to(folder), ProgressReport(progress) as report:
        folder.mkdir(parents=True, exist_ok=True)
        _write_small_files(folder, plan.config)
        on_bytes = _counter(report, f"MiniCPM-o {version}, {size}, random", plan.num_bytes)
        for name, tensors in plan.voices.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_state_dict(folder / name, tensors, on_bytes)
        write_shards(folder, plan.tensors, max_shard_bytes, on_bytes)
        report.finish()
    return plan.config


def make_plan(config: OfficialConfig, seed: int) -> Plan:
    """Every tensor to be written, none of them made yet."""
    voices: dict[str, list[Pending]] = {}
    if config.flow:
        voices[f"{TOKEN2WAV}/flow.pt"] = _pending_all(flow_tensors(config.flow), seed, "F32")
    if config.hift:
        voices[f"{TOKEN2WAV}/hift.pt"] = _pending_all(hift_tensors(config.hift), seed, "F32")
    if config.vocos:
        voices[VOCOS_FILE] = _pending_all(vocos_tensors(config.vocos), seed, "F32")
    return Plan(config, _pending_all(expected_tensors(config), seed, "BF16"), voices)


def _counter(report: ProgressReport, text: str, total: int) -> Callable[[int], None]:
    report.begin(text, total)
    done = 0

    def on_bytes(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        report.reach(done)

    return on_bytes


def _write_small_files(folder: Path, config: OfficialConfig) -> None:
    is_45 = config.version == "4.5"
    values = official_values(config) | {"torch_dtype": "bfloat16"}
    pictures = {"image_processor_type": "MiniCPMVImageProcessor", "max_slice_nums": config.slicing.max_slices,
                "scale_resolution": config.slicing.scale_px, "patch_size": config.slicing.patch_px,
                "use_image_id": config.slicing.use_image_id, "image_feature_size": 64, "slice_mode": True,
                "audio_pool_step": config.hearing.pool_step if config.hearing else None,
                "norm_mean": [0.5] * 3, "norm_std": [0.5] * 3, "version": float(config.version)}
    first = config.language.vocab_size - len(added_tokens(config.version))  # <|endoftext|>
    values |= {"bos_token_id": first, "eos_token_id": first + 2}
    generation = {"bos_token_id": first, "pad_token_id": first, "eos_token_id": [first + 2, first], "do_sample": True,
                  "temperature": 0.6, "top_k": 20, "top_p": 0.95}
    for name, content in {"config.json": values, "preprocessor_config.json": pictures,
                          **({"generation_config.json": generation} if is_45 else {})}.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(folder, config.version, config.language.vocab_size)
    if config.chattts:
        write_chattts_tokenizer(folder / CHATTTS_FOLDER, config.chattts.num_text_tokens)


def _pending_all(shapes: Mapping[str, Shape], seed: int, dtype: str) -> list[Pending]:
    return [_pending(name, shape, seed, dtype) for name, shape in shapes.items()]


def _pending(name: str, shape: Shape, seed: int, dtype: str) -> Pending:
    """A tensor with numbers of a size that keeps what passes through it of order one."""
    if name == "apm.embed_positions.weight":
        return pending_array(name, float32_to_bfloat16(_sinusoids(*shape)), dtype)
    if name.endswith("istft.window"):
        return pending_array(name, np.hanning(shape[0] + 1)[:-1].astype(np.float32))
    mean, spread = _scale(name, shape)
    key = (seed, zlib.crc32(name.encode()))
    return Pending(name, dtype, shape, lambda: _draw(key, math.prod(shape), mean, spread, dtype))


def _scale(name: str, shape: Shape) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's numbers."""
    last = name.rpartition(".")[2]
    if last in ("original0", "gamma", "alpha", "coef") or (last == "weight" and len(shape) == 1):
        return (0.2 if last == "gamma" else 1.0), 0.02
    if len(shape) == 1 or last in ("pos_bias_u", "pos_bias_v"):
        return 0.0, 0.02
    if "embed_tokens" in name or "emb_" in name or "position_embedding" in name or name.endswith("query"):
        return 0.0, 0.02
    return 0.0, 1 / math.sqrt(math.prod(shape[1:]))


def _draw(key: tuple[int, int], count: int, mean: float, spread: float, dtype: str) -> Iterator[np.ndarray]:
    """So many numbers in blocks, as bits of bfloat16 or as float32."""
    source = np.random.SFC64(key)
    table = _quantiles(mean, spread, dtype)
    for length in in_blocks(count, _BLOCK_ITEM_BYTES):
        picks = source.random_raw(-(-length // 4)).view("<u2")[:length]
        yield table.take(picks, mode="wrap")  # no pick is out of range, and this mode does not look for one


@lru_cache(maxsize=64)
def _quantiles(mean: float, spread: float, dtype: str) -> np.ndarray:
    """65536 equally likely values of a normal distribution."""
    values = (mean + spread * _normal_quantiles()).astype(np.float32)
    return float32_to_bfloat16(values) if dtype == "BF16" else values


@lru_cache(maxsize=1)
def _normal_quantiles() -> np.ndarray:
    steps = 1 << 16
    inverse = NormalDist().inv_cdf
    return np.array([inverse((step + 0.5) / steps) for step in range(steps)])


def _sinusoids(frames: int, width: int) -> np.ndarray:
    """Whisper's table of positions: sines in one half, cosines in the other."""
    rates = np.exp(-math.log(10_000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(frames)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def main(arguments: Iterable[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m minicpm_o.checkpoints.random_official",
                                     description="Write a checkpoint of the official layout with random weights.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--version", choices=["2.6", "4.5"], default="4.5")
    parser.add_argument("--size", choices=["tiny", "full"], default="tiny")
    parser.add_argument("--layers", type=int, help="at most so many in a transformer, for a trial of the true width")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-shard-gb", type=float, default=MAX_SHARD_BYTES / 1e9)
    given = parser.parse_args(None if arguments is None else list(arguments))
    try:
        write_random_checkpoint(given.folder, given.version, given.size, layers=given.layers, seed=given.seed,
                                progress=True, max_shard_bytes=int(given.max_shard_gb * 1e9))
    except MiniCPMOError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
