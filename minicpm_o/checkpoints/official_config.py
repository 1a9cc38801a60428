"""The official config.json (language fields flat at the top, the parts nested) to OfficialConfig and back.

The file of a checkpoint stores only what differs from its classes' defaults, so every default of those classes stands
here once. Knows no tensors.

Source: configuration_minicpmo.py of MiniCPM-o 2.6 and 4.5, and the published config.json files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CheckpointError
from ..model.config import (
    ChatTTSConfig,
    Config,
    FlowConfig,
    HiftConfig,
    LanguageConfig,
    OfficialConfig,
    QueryResamplerConfig,
    SiglipConfig,
    SlicingConfig,
    TalkerConfig,
    VocosConfig,
    WhisperEncoderConfig,
)

MODEL_TYPE = "minicpmo"
VERSIONS = ("2.6", "4.5")
Fields = Mapping[str, Any]
_MAY_BE_ZERO = ("audio_bos", "text_eos", "speaker_token", "top_k", "text_reserved_tokens", "temperature")
"""Ids, and settings that 0 switches off; every other number of a config counts or measures something."""

Names = Mapping[str, str]
"""Field of a part's config -> its name in the file; read and written by the same table."""
PartT = TypeVar("PartT", bound=Config)

VISION_NAMES: Names = {
    "width": "hidden_size", "ffn": "intermediate_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
    "channels": "num_channels", "image_px": "image_size", "patch_px": "patch_size", "norm_eps": "layer_norm_eps"}
EYE_NAMES: Names = {"batch_pieces": "vision_batch_size"}
"""Of the eyes, at the top of the file."""
AUDIO_NAMES: Names = {
    "mel_bins": "num_mel_bins", "width": "d_model", "layers": "encoder_layers", "heads": "encoder_attention_heads",
    "ffn": "encoder_ffn_dim", "max_frames": "max_source_positions"}
SLICE_NAMES: Names = {"max_slices": "max_slice_nums", "scale_px": "scale_resolution", "patch_px": "patch_size"}
NUMBERING_NAMES: Names = {"use_image_id": "use_image_id"}
_BODY_NAMES: Names = {
    "llm_width": "llm_dim", "width": "hidden_size", "ffn": "intermediate_size", "layers": "num_hidden_layers",
    "heads": "num_attention_heads", "max_positions": "max_position_embeddings", "num_text_tokens": "num_text_tokens",
    "num_audio_tokens": "num_audio_tokens", "audio_bos": "audio_bos_token_id", "text_eos": "text_eos_token_id"}
TALKER_NAMES: Names = {
    **_BODY_NAMES, "kv_heads": "num_key_value_heads", "normalize_hidden": "normalize_projected_hidden",
    "top_p": "top_p", "top_k": "top_k", "repetition_penalty": "repetition_penalty", "temperature": "temperature"}
CHATTTS_NAMES: Names = {
    **_BODY_NAMES, "num_codebooks": "num_vq", "mel_bins": "num_mel_bins", "speaker_token": "spk_emb_token_id",
    "text_chunk_tokens": "streaming_text_chunk_size", "text_reserved_tokens": "streaming_text_reserved_len",
    "audio_chunk_tokens": "streaming_audio_chunk_size"}


def _ear_names(is_45: bool) -> Names:
    """Of the ears, at the top of the file."""
    return {"pool_step": "audio_pool_step", "chunk_s": "audio_chunk_length",
            "chunked_placeholders": "stream_input" if is_45 else "chunk_input"}


def read_config(folder: Path) -> OfficialConfig:
    """The config.json of a checkpoint's folder. Raises CheckpointError when there is none or it is another model's."""
    return config_from_official(read_values(folder), where=str(folder / "config.json"))


def read_values(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a checkpoint's folder as it is. Raises CheckpointError when there is none or it is damaged."""
    path = folder / name
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{folder} is not a checkpoint: it has no {name}; give the folder that was "
                              f"downloaded from the hub") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error.strerror}); make it readable") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); download it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged (it holds no table); download it again")
    return values


def config_from_official(values: Fields, *, where: str = "config.json") -> OfficialConfig:
    """A config in the official layout. Raises CheckpointError for another model, an unknown version or a bad number."""
    if not isinstance(values, Mapping) or values.get("model_type") != MODEL_TYPE:
        found = values.get("model_type") if isinstance(values, Mapping) else values
        raise CheckpointError(f"{where} is of a model of type {found!r}, expected {MODEL_TYPE!r}; use the folder of a "
                              f"MiniCPM-o checkpoint")
    version = str(values.get("version", _guess_version(values)))
    if version not in VERSIONS:
        raise CheckpointError(f"{where} is of MiniCPM-o {version}; this release loads {' and '.join(VERSIONS)}")
    try:
        config = _config(values, version)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{where} is damaged: {error!r}; download it again") from error
    if fault := next(_impossible(config), None):
        raise CheckpointError(f"{where} is damaged: {fault}; download it again")
    return config


def _impossible(config: OfficialConfig) -> Iterator[str]:
    """Numbers that no network can have, each in words."""
    for part in ("language", "vision", "resampler", "hearing", "slicing", "talker", "chattts"):
        found = getattr(config, part)
        numbers = {} if found is None else {field.name: getattr(found, field.name) for field in fields(found)}
        for name, value in numbers.items():
            least = 0 if name in _MAY_BE_ZERO else 1
            if type(value) is int and value < least:
                yield f"{name} of {part} is {value}, expected {least} or more"
            if type(value) is float and not (math.isfinite(value) and (value > 0 or name in _MAY_BE_ZERO)):
                yield f"{name} of {part} is {value}, expected a finite number above 0"
        heads, kv_heads = numbers.get("heads", 1), numbers.get("kv_heads", 1)
        if "head_width" not in numbers and numbers.get("width", heads) % heads:
            yield f"the width {numbers['width']} of {part} cannot be shared by {heads} heads"
        if heads % kv_heads:
            yield f"the {heads} heads of {part} cannot share {kv_heads} heads of keys"


def _guess_version(values: Fields) -> str:
    """Early files lack the field; only 4.5 has norms on its heads, and with them an explicit head_dim."""
    return "4.5" if "head_dim" in values else "2.6"


def _config(values: Fields, version: str) -> OfficialConfig:
    is_45 = version == "4.5"
    has_speech = bool(values.get("init_tts", True))
    speech = values.get("tts_config") or {}
    language = _language(values, is_45)
    return OfficialConfig(
        name=f"MiniCPM-o {version}",
        version="4.5" if is_45 else "2.6",
        language=language,
        vision=_vision(values) if values.get("init_vision", True) else None,
        resampler=QueryResamplerConfig(queries=int(values.get("query_num", 64))) if values.get("init_vision", True)
        else None,
        hearing=_hearing(values, is_45) if values.get("init_audio", True) else None,
        slicing=_slicing(values),
        talker=_talker(speech, language.width) if has_speech and is_45 else None,
        chattts=_chattts(speech, language.width) if has_speech and not is_45 else None,
        flow=FlowConfig() if has_speech and is_45 else None,
        hift=HiftConfig() if has_speech and is_45 else None,
        vocos=VocosConfig() if has_speech and not is_45 else None,
    )


def _language(values: Fields, is_45: bool) -> LanguageConfig:
    width = int(values.get("hidden_size", 4096 if is_45 else 3584))
    heads = int(values.get("num_attention_heads", 32 if is_45 else 28))
    rope = values.get("rope_parameters") or {}
    return LanguageConfig(
        kind="qwen3" if is_45 else "qwen2",
        vocab_size=int(values.get("vocab_size", 151748 if is_45 else 151700)),
        width=width,
        layers=int(values.get("num_hidden_layers", 36 if is_45 else 28)),
        heads=heads,
        kv_heads=int(values.get("num_key_value_heads", 8 if is_45 else 4)),
        head_width=int(values.get("head_dim") or (128 if is_45 else width // heads)),
        ffn=int(values.get("intermediate_size", 12288 if is_45 else 18944)),
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        rope_theta=float(values.get("rope_theta", rope.get("rope_theta", 1e6))),
        context_tokens=int(values.get("max_position_embeddings", 40960 if is_45 else 32768)),
        tied_head=bool(values.get("tie_word_embeddings", False)),
    )


def _vision(values: Fields) -> SiglipConfig:
    vision = _read(SiglipConfig(), values.get("vision_config") or {}, VISION_NAMES)
    return replace(_read(vision, values, EYE_NAMES),
                   layers=vision.layers - bool(values.get("drop_vision_last_layer", False)))


def _hearing(values: Fields, is_45: bool) -> WhisperEncoderConfig:
    default = WhisperEncoderConfig(pool_step=5 if is_45 else 2, chunked_placeholders=not is_45)
    return _read(_read(default, values.get("audio_config") or {}, AUDIO_NAMES), values, _ear_names(is_45))


def _slicing(values: Fields) -> SlicingConfig:
    """The still pictures' limit of nine slices is the processor's, whatever the class default of 1 says."""
    return _read(_read(SlicingConfig(), values.get("slice_config") or {}, SLICE_NAMES), values, NUMBERING_NAMES)


def _talker(speech: Fields, width: int) -> TalkerConfig:
    talker = _read(TalkerConfig(llm_width=width), speech, TALKER_NAMES)
    return talker if "num_key_value_heads" in speech else replace(talker, kv_heads=talker.heads)


def _chattts(speech: Fields, width: int) -> ChatTTSConfig:
    return _read(ChatTTSConfig(llm_width=width), speech, CHATTTS_NAMES)


def _read(default: PartT, values: Fields, names: Names) -> PartT:
    """The default with the numbers that the file has, each of the kind that it stands for. Raises TypeError where the
    file has no table of them."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{values!r} stands where a table is expected")
    found = {ours: type(getattr(default, ours))(values[theirs]) for ours, theirs in names.items() if theirs in values}
    return replace(default, **found)


def _written(part: Config, names: Names) -> dict[str, Any]:
    """The numbers of a part by the file's names."""
    return {theirs: getattr(part, ours) for ours, theirs in names.items()}


def official_values(config: OfficialConfig) -> dict[str, Any]:
    """The config.json that a checkpoint of this shape has; `config_from_official` reads it back to the same config."""
    language, is_45 = config.language, config.version == "4.5"
    values: dict[str, Any] = {
        "architectures": ["MiniCPMO"], "model_type": MODEL_TYPE, "version": config.version,
        "vocab_size": language.vocab_size, "hidden_size": language.width, "intermediate_size": language.ffn,
        "num_hidden_layers": language.layers, "num_attention_heads": language.heads,
        "num_key_value_heads": language.kv_heads, "hidden_act": "silu", "rms_norm_eps": language.norm_eps,
        "rope_theta": language.rope_theta, "max_position_embeddings": language.context_tokens,
        "tie_word_embeddings": language.tied_head, "bos_token_id": 151643, "eos_token_id": 151645,
        "torch_dtype": "bfloat16", "image_size": 448, "drop_vision_last_layer": False, "batch_vision_input": True,
        "slice_mode": True, **_written(config.slicing, NUMBERING_NAMES),
        "slice_config": {**_written(config.slicing, SLICE_NAMES), "model_type": "minicpmv"},
        "init_vision": config.vision is not None, "init_audio": config.hearing is not None,
        "init_tts": config.talker is not None or config.chattts is not None,
    }
    values |= {"head_dim": language.head_width, "attention_bias": False} if is_45 else {}
    values |= _vision_values(config) | _hearing_values(config, is_45)
    if speech := _speech_values(config):
        values["tts_config"] = speech
    return values


def _vision_values(config: OfficialConfig) -> dict[str, Any]:
    vision, resampler = config.vision, config.resampler
    if vision is None or resampler is None:
        return {}
    return {
        "query_num": resampler.queries, "patch_size": vision.patch_px, **_written(vision, EYE_NAMES),
        "vision_config": {**_written(vision, VISION_NAMES), "model_type": "siglip_vision_model",
                          "hidden_act": "gelu_pytorch_tanh", "attention_dropout": 0.0},
    }


def _hearing_values(config: OfficialConfig, is_45: bool) -> dict[str, Any]:
    hearing = config.hearing
    if hearing is None:
        return {}
    return {
        **_written(hearing, _ear_names(is_45)),
        "audio_config": {**_written(hearing, AUDIO_NAMES), "model_type": "whisper", "activation_function": "gelu",
                         "scale_embedding": False},
    }


def _speech_values(config: OfficialConfig) -> dict[str, Any]:
    if config.talker:
        return {**_written(config.talker, TALKER_NAMES), "model_type": "minicpmtts", "num_vq": 1,
                "condition_type": "hidden_text_merge", "projector_type": "mlp", "attention_type": "full_attention",
                "backbone_model": "llama", "audio_tokenizer_type": "s3tokenizer",
                "audio_tokenizer_sample_rate": 16000, "interleaved": False}
    if config.chattts:
        return {**_written(config.chattts, CHATTTS_NAMES), "model_type": "conditional_chattts",
                "use_speaker_embedding": True, "num_spk_embs": 1, "streaming": True, "use_mlp": True}
    return {}
