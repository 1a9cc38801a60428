"""The shape of token2wav's flow, from what lies beside the weights or from the weights' own shapes.

flow.yaml names Python classes of the package that wrote it; nothing of it is run here. All sizes are in the shapes of
the tensors, so only the numbers that no tensor shows are read from its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import CheckpointError
from ..model.config import FlowConfig, FlowDecoderConfig, FlowEncoderConfig

Shapes = Mapping[str, Sequence[int]]


def flow_config(values: Mapping[str, Any]) -> FlowConfig:
    """From a dictionary with the parts `flow`, `encoder` and `decoder` in the reference's words; what it does not say
    is as in the released checkpoint. Raises CheckpointError for a value that is not a number."""
    flow, encoder, decoder = (values.get(part) or {} for part in ("flow", "encoder", "decoder"))
    base = FlowConfig()
    try:
        return FlowConfig(
            vocab_size=int(flow.get("vocab_size", base.vocab_size)),
            speaker_width=int(flow.get("spk_embed_dim", base.speaker_width)),
            mel_bins=int(flow.get("output_size", base.mel_bins)),
            encoder=_encoder(encoder, base.encoder),
            decoder=_decoder(decoder, base.decoder),
            steps=int(values.get("n_timesteps", base.steps)),
            chunk_tokens=int(values.get("chunk_tokens", base.chunk_tokens)),
            cache_frames=int(values.get("cache_limit_after_prompt_frames", base.cache_frames)),
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the flow's configuration is damaged ({error}); download it again") from error


def _encoder(values: Mapping[str, Any], base: FlowEncoderConfig) -> FlowEncoderConfig:
    return FlowEncoderConfig(
        width=int(values.get("output_size", base.width)),
        heads=int(values.get("attention_heads", base.heads)),
        ffn=int(values.get("linear_units", base.ffn)),
        layers=int(values.get("num_blocks", base.layers)),
        up_layers=int(values.get("num_up_blocks", base.up_layers)),
        lookahead_tokens=int(values.get("pre_lookahead_len", base.lookahead_tokens)),
        up_factor=int(values.get("up_stride", base.up_factor)),
    )


def _decoder(values: Mapping[str, Any], base: FlowDecoderConfig) -> FlowDecoderConfig:
    return FlowDecoderConfig(
        width=int(values.get("hidden_size", base.width)),
        heads=int(values.get("num_heads", base.heads)),
        head_width=int(values.get("head_dim", base.head_width)),
        layers=int(values.get("depth", base.layers)),
        mlp_ratio=float(values.get("mlp_ratio", base.mlp_ratio)),
        cfg_rate=float(values.get("inference_cfg_rate", base.cfg_rate)),
    )


def flow_config_from_shapes(shapes: Shapes, yaml_text: str = "") -> FlowConfig:
    """From the shapes of flow.pt's tensors, and the guidance rate from the text of flow.yaml if it is there.

    Raises CheckpointError when a tensor is absent: the file is not token2wav's flow.
    """
    vocab_size, width = _shape(shapes, "input_embedding.weight")
    mel_bins, speaker_width = _shape(shapes, "spk_embed_affine_layer.weight")
    return FlowConfig(vocab_size=vocab_size, speaker_width=speaker_width, mel_bins=mel_bins,
                      encoder=_encoder_of(shapes, width), decoder=_decoder_of(shapes, yaml_text))


def _encoder_of(shapes: Shapes, width: int) -> FlowEncoderConfig:
    return FlowEncoderConfig(
        width=width,
        heads=_shape(shapes, "encoder.encoders.0.self_attn.pos_bias_u")[0],
        ffn=_shape(shapes, "encoder.encoders.0.feed_forward.w_1.weight")[0],
        layers=_count(shapes, "encoder.encoders."),
        up_layers=_count(shapes, "encoder.up_encoders."),
        lookahead_tokens=_shape(shapes, "encoder.pre_lookahead_layer.conv1.weight")[2] - 1,
        up_factor=(_shape(shapes, "encoder.up_layer.conv.weight")[2] - 1) // 2,
    )


def _decoder_of(shapes: Shapes, yaml_text: str) -> FlowDecoderConfig:
    block = "decoder.estimator.blocks.0."
    inner, width = _shape(shapes, f"{block}attn.to_q.weight")
    head_width = _shape(shapes, f"{block}attn.q_norm.weight")[0]
    found = re.search(r"^\s*inference_cfg_rate:\s*([0-9.]+)", yaml_text, re.MULTILINE)
    return FlowDecoderConfig(
        width=width,
        heads=inner // head_width,
        head_width=head_width,
        layers=_count(shapes, "decoder.estimator.blocks."),
        mlp_ratio=_shape(shapes, f"{block}mlp.fc1.weight")[0] / width,
        cfg_rate=float(found[1]) if found else FlowDecoderConfig().cfg_rate,
    )


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(f"there is no tensor {name!r}; the file is not token2wav's flow.pt")
    return tuple(shapes[name])


def _count(names: Iterable[str], prefix: str) -> int:
    """Layers of a stack: how many different numbers follow its prefix."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)})
