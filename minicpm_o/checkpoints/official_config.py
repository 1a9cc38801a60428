"""The official config.json (language fields flat at the top, the parts nested) to OfficialConfig and back.

The file of a checkpoint stores only what differs from its classes' defaults, so every default of those classes stands
here once. Knows no tensors.

Source: configuration_minicpmo.py of MiniCPM-o 2.6 and 4.5, and the published config.json files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..model.config import (
    ChatTTSConfig,
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
    vision = values.get("vision_config") or {}
    default = SiglipConfig()
    layers = int(vision.get("num_hidden_layers", default.layers))
    return SiglipConfig(
        width=int(vision.get("hidden_size", default.width)),
        ffn=int(vision.get("intermediate_size", default.ffn)),
        layers=layers - bool(values.get("drop_vision_last_layer", False)),
        heads=int(vision.get("num_attention_heads", default.heads)),
        channels=int(vision.get("num_channels", default.channels)),
        image_px=int(vision.get("image_size", default.image_px)),
        patch_px=int(vision.get("patch_size", default.patch_px)),
        norm_eps=float(vision.get("layer_norm_eps", default.norm_eps)),
        batch_pieces=int(values.get("vision_batch_size", default.batch_pieces)),
    )


def _hearing(values: Fields, is_45: bool) -> WhisperEncoderConfig:
    audio = values.get("audio_config") or {}
    default = WhisperEncoderConfig()
    return WhisperEncoderConfig(
        mel_bins=int(audio.get("num_mel_bins", default.mel_bins)),
        width=int(audio.get("d_model", default.width)),
        heads=int(audio.get("encoder_attention_heads", default.heads)),
        layers=int(audio.get("encoder_layers", default.layers)),
        ffn=int(audio.get("encoder_ffn_dim", default.ffn)),
        max_frames=int(audio.get("max_source_positions", default.max_frames)),
        pool_step=int(values.get("audio_pool_step", 5 if is_45 else 2)),
        chunk_s=float(values.get("audio_chunk_length", default.chunk_s)),
        chunked_placeholders=bool(values.get("stream_input", False) if is_45 else values.get("chunk_input", True)),
    )


def _slicing(values: Fields) -> SlicingConfig:
    """The still pictures' limit of nine slices is the processor's, whatever the class default of 1 says."""
    slicing = values.get("slice_config") or {}
    default = SlicingConfig()
    return SlicingConfig(
        max_slices=int(slicing.get("max_slice_nums", default.max_slices)),
        scale_px=int(slicing.get("scale_resolution", default.scale_px)),
        patch_px=int(slicing.get("patch_size", default.patch_px)),
        use_image_id=bool(values.get("use_image_id", default.use_image_id)),
    )


def _talker(speech: Fields, width: int) -> TalkerConfig:
    default = TalkerConfig()
    heads = int(speech.get("num_attention_heads", default.heads))
    return TalkerConfig(
        llm_width=int(speech.get("llm_dim", width)),
        width=int(speech.get("hidden_size", default.width)),
        ffn=int(speech.get("intermediate_size", default.ffn)),
        layers=int(speech.get("num_hidden_layers", default.layers)),
        heads=heads,
        kv_heads=int(speech.get("num_key_value_heads", heads)),
        max_positions=int(speech.get("max_position_embeddings", default.max_positions)),
        num_audio_tokens=int(speech.get("num_audio_tokens", default.num_audio_tokens)),
        num_text_tokens=int(speech.get("num_text_tokens", default.num_text_tokens)),
        audio_bos=int(speech.get("audio_bos_token_id", default.audio_bos)),
        text_eos=int(speech.get("text_eos_token_id", default.text_eos)),
        normalize_hidden=bool(speech.get("normalize_projected_hidden", default.normalize_hidden)),
        top_p=float(speech.get("top_p", default.top_p)),
        top_k=int(speech.get("top_k", default.top_k)),
        repetition_penalty=float(speech.get("repetition_penalty", default.repetition_penalty)),
        temperature=float(speech.get("temperature", default.temperature)),
    )


def _chattts(speech: Fields, width: int) -> ChatTTSConfig:
    default = ChatTTSConfig()
    return ChatTTSConfig(
        llm_width=int(speech.get("llm_dim", width)),
        width=int(speech.get("hidden_size", default.width)),
        ffn=int(speech.get("intermediate_size", default.ffn)),
        layers=int(speech.get("num_hidden_layers", default.layers)),
        heads=int(speech.get("num_attention_heads", default.heads)),
        max_positions=int(speech.get("max_position_embeddings", default.max_positions)),
        num_text_tokens=int(speech.get("num_text_tokens", default.num_text_tokens)),
        num_audio_tokens=int(speech.get("num_audio_tokens", default.num_audio_tokens)),
        num_codebooks=int(speech.get("num_vq", default.num_codebooks)),
        mel_bins=int(speech.get("num_mel_bins", default.mel_bins)),
        speaker_token=int(speech.get("spk_emb_token_id", default.speaker_token)),
        audio_bos=int(speech.get("audio_bos_token_id", default.audio_bos)),
        text_eos=int(speech.get("text_eos_token_id", default.text_eos)),
        text_chunk_tokens=int(speech.get("streaming_text_chunk_size", default.text_chunk_tokens)),
        text_reserved_tokens=int(speech.get("streaming_text_reserved_len", default.text_reserved_tokens)),
        audio_chunk_tokens=int(speech.get("streaming_audio_chunk_size", default.audio_chunk_tokens)),
    )


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
        "slice_mode": True, "use_image_id": config.slicing.use_image_id, "slice_config": _slicing_values(config),
        "init_vision": config.vision is not None, "init_audio": config.hearing is not None,
        "init_tts": config.talker is not None or config.chattts is not None,
    }
    values |= {"head_dim": language.head_width, "attention_bias": False} if is_45 else {}
    values |= _vision_values(config) | _hearing_values(config, is_45)
    if config.talker or config.chattts:
        values["tts_config"] = _talker_values(config.talker) if config.talker else _chattts_values(config.chattts)
    return values


def _slicing_values(config: OfficialConfig) -> dict[str, Any]:
    slicing = config.slicing
    return {"max_slice_nums": slicing.max_slices, "scale_resolution": slicing.scale_px,
            "patch_size": slicing.patch_px, "model_type": "minicpmv"}


def _vision_values(config: OfficialConfig) -> dict[str, Any]:
    vision, resampler = config.vision, config.resampler
    if vision is None or resampler is None:
        return {}
    return {
        "query_num": resampler.queries, "patch_size": vision.patch_px, "vision_batch_size": vision.batch_pieces,
        "vision_config": {
            "model_type": "siglip_vision_model", "hidden_size": vision.width, "intermediate_size": vision.ffn,
            "num_hidden_layers": vision.layers, "num_attention_heads": vision.heads, "num_channels": vision.channels,
            "image_size": vision.image_px, "patch_size": vision.patch_px, "layer_norm_eps": vision.norm_eps,
            "hidden_act": "gelu_pytorch_tanh", "attention_dropout": 0.0,
        },
    }


def _hearing_values(config: OfficialConfig, is_45: bool) -> dict[str, Any]:
    hearing = config.hearing
    if hearing is None:
        return {}
    return {
        "audio_pool_step": hearing.pool_step, "audio_chunk_length": hearing.chunk_s,
        "stream_input" if is_45 else "chunk_input": hearing.chunked_placeholders,
        "audio_config": {
            "model_type": "whisper", "num_mel_bins": hearing.mel_bins, "d_model": hearing.width,
            "encoder_layers": hearing.layers, "encoder_attention_heads": hearing.heads, "encoder_ffn_dim": hearing.ffn,
            "max_source_positions": hearing.max_frames, "activation_function": "gelu", "scale_embedding": False,
        },
    }


def _talker_values(talker: TalkerConfig) -> dict[str, Any]:
    return {
        "model_type": "minicpmtts", "llm_dim": talker.llm_width, "hidden_size": talker.width,
        "intermediate_size": talker.ffn, "num_hidden_layers": talker.layers, "num_attention_heads": talker.heads,
        "num_key_value_heads": talker.kv_heads, "max_position_embeddings": talker.max_positions,
        "num_audio_tokens": talker.num_audio_tokens, "num_text_tokens": talker.num_text_tokens, "num_vq": 1,
        "audio_bos_token_id": talker.audio_bos, "text_eos_token_id": talker.text_eos,
        "condition_type": "hidden_text_merge", "projector_type": "mlp", "attention_type": "full_attention",
        "normalize_projected_hidden": talker.normalize_hidden, "backbone_model": "llama",
        "audio_tokenizer_type": "s3tokenizer", "audio_tokenizer_sample_rate": 16000, "interleaved": False,
        "top_p": talker.top_p, "top_k": talker.top_k, "repetition_penalty": talker.repetition_penalty,
        "temperature": talker.temperature,
    }


def _chattts_values(voice: ChatTTSConfig | None) -> dict[str, Any]:
    if voice is None:
        return {}
    return {
        "model_type": "conditional_chattts", "llm_dim": voice.llm_width, "hidden_size": voice.width,
        "intermediate_size": voice.ffn, "num_hidden_layers": voice.layers, "num_attention_heads": voice.heads,
        "max_position_embeddings": voice.max_positions, "num_text_tokens": voice.num_text_tokens,
        "num_audio_tokens": voice.num_audio_tokens, "num_vq": voice.num_codebooks, "num_mel_bins": voice.mel_bins,
        "spk_emb_token_id": voice.speaker_token, "audio_bos_token_id": voice.audio_bos,
        "text_eos_token_id": voice.text_eos, "use_speaker_embedding": True, "num_spk_embs": 1,
        "streaming_text_chunk_size": voice.text_chunk_tokens,
        "streaming_text_reserved_len": voice.text_reserved_tokens,
        "streaming_audio_chunk_size": voice.audio_chunk_tokens, "streaming": True, "use_mlp": True,
    }
